// IEEE binary16: exact in float, which it is multiplied in.
#pragma once

#include "mla/formats/format.hpp"

namespace mla::inline MLA_ISA {

template <>
struct Format<fp16> : detail::StorageFormat<fp16> {};

}  // namespace mla::inline MLA_ISA
