// float.
#pragma once

#include "mla/formats/format.hpp"

namespace mla::inline MLA_ISA {

template <>
struct Format<float> : detail::StorageFormat<float> {};

}  // namespace mla::inline MLA_ISA
