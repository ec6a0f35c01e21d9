// The list of formats: tests, benchmarks and the tables of targets go over it.
#pragma once

#include "mla/core/kernel_table.hpp"
#include "mla/formats/bf16.hpp"
#include "mla/formats/fp16.hpp"
#include "mla/formats/fp32.hpp"
#include "mla/formats/fp64.hpp"
#include "mla/formats/fp8.hpp"
#include "mla/formats/fp8_v4.hpp"
#include "mla/formats/int8.hpp"

namespace mla::inline MLA_ISA {

/// The types whose latents are stored in eight bits, with scales.
using QuantisedTypes = TypeList<int8, fp8, fp8_v4>;
/// The types that a cache can be made of. StorageTypes come first, which weights can be made of too.
using CacheTypes = Joined<StorageTypes, QuantisedTypes>;

static_assert(length_of<CacheTypes> == abi::cache_formats && length_of<StorageTypes> == abi::weight_formats);

template <class C>
concept Quantised = is_listed<C, QuantisedTypes>;

}  // namespace mla::inline MLA_ISA
