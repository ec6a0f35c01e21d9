// The list of formats: tests, benchmarks and the tables of targets go over it.
#pragma once

#include "mla/core/kernel_table.hpp"
#include "mla/formats/bf16.hpp"
#include "mla/formats/fp16.hpp"
#include "mla/formats/fp32.hpp"
#include "mla/formats/fp64.hpp"
#include "mla/formats/fp8.hpp"
#include "mla/formats/fp8_v4.hpp"
#include "mla/formats/int4.hpp"
#include "mla/formats/int8.hpp"

namespace mla::inline MLA_ISA {

/// The types whose latents are stored in eight bits, with scales.
using QuantisedTypes = TypeList<int8, fp8, fp8_v4>;
/// The types that a cache can be made of. StorageTypes come first, which weights can be made of too.
using CacheTypes = Joined<StorageTypes, QuantisedTypes>;

/// The types of packed weights that have scales, and are computed with in float.
using QuantisedWeightTypes = TypeList<fp8, int8, int4x8>;
/// What holds every code of theirs, and is what products of many rows unpack them to.
using UnpackedWeight = bf16;
/// The types that packed weights can be made of.
using WeightTypes = Joined<StorageTypes, QuantisedWeightTypes>;

static_assert(length_of<CacheTypes> == abi::cache_formats && length_of<WeightTypes> == abi::weight_formats);

template <class C>
concept Quantised = is_listed<C, QuantisedTypes>;
template <class W>
concept QuantisedWeight = is_listed<W, QuantisedWeightTypes>;
template <class W>
concept Weight = is_listed<W, WeightTypes>;

}  // namespace mla::inline MLA_ISA
