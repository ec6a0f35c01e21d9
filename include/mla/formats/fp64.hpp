// double: what the library computes in where T is double.
#pragma once

#include "mla/formats/format.hpp"

namespace mla::inline MLA_ISA {

template <>
struct Format<double> : detail::StorageFormat<double> {};

}  // namespace mla::inline MLA_ISA
