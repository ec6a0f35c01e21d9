// The table of functions that a target is to everything above the kernels, and the plain structs that cross it.
//
// They lie outside of the inline namespace of compiler.hpp: a table may come from a file that was compiled for another
// instruction set. So nothing here has a function of its own that such a file could bring along.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mla/core/compiler.hpp"

namespace mla::abi {

using Index = std::ptrdiff_t;

/// What plans and scratch must know of a target's tiles, for one type computed in.
struct TileShape {
    Index lanes;         ///< rows in a vector
    Index piece_values;  ///< elements that a worker stages pieces of a block in
};

/// `rows` rows [tokens × heads] that attend to the same keys, row = token·heads + head: their queries, packed for the score tile,
/// and their running softmax and output. Arrays have room for whole vectors of rows.
template <class A>
struct RowGroup {
    Index rows;
    Index depth;         ///< values of a query: K of the score product
    Index out_stride;    ///< values of an output, rounded up to whole vectors
    std::byte* queries;  ///< panels [units of depth, panel rows] of units, or, of few rows, rows [few_rows, depth] of A
    A* factors;          ///< [padded rows] what scores must still be multiplied by, positive
    A* max;              ///< [padded rows] whole logarithms to base 2 (engine/reference.hpp)
    A* sum;              ///< [padded rows]
    A* out;              ///< [padded rows, out_stride], not yet divided by sum
    Index* visible;      ///< [padded rows] keys a row may see; never descending
    const bool* tree;    ///< [queries, drafted tokens] whether a query sees a drafted token, or null: the causal rule
    Index tree_stride;   ///< from query to query
    Index tree_begin;    ///< position of the first drafted token among the keys
    Index first_row;     ///< of the group among all rows of the tree's queries
    Index heads;         ///< rows of a query
};

/// Packs queries of a group: every `share_count`-th panel, from panel `share` on.
template <class A>
struct PackQueries {
    const RowGroup<A>* group;
    Index latent_dim;
    A scale;
    const A* queries;  ///< of query 0 and head 0 of the call
    Index token_stride;
    Index head_stride;
    Index first_query;  ///< of the segment
    Index first_head;
    Index share;
    Index share_count;
};

/// A group attends to a block of tokens. Keys are rows of a format, [latent | rope key]; values the first latent_dim values of
/// the same rows, or of others. Rows of the next block are fetched meanwhile; as many of each are listed as this block has, the
/// last perhaps not its own.
template <class A>
struct AttendBlock {
    const RowGroup<A>* group;
    const void* const* keys;
    const void* const* values;
    Index tokens;
    Index begin;  ///< position of the first token among the keys
    Index latent_dim;
    Index rope_dim;
    Index fetched;  ///< rows of this block that an earlier call has fetched
    const void* const* next_keys;
    const void* const* next_values;
    Index next_tokens;
    A* staged;
    A* scores;
};

/// A decompressed block: keys [tokens, group.depth] and values [tokens, value_dim] of A, rows that are readable, and zero, up to
/// their stride. `round` makes of either, unless it is null, what groups attend to that are few rows like this one, or are many.
template <class A>
struct AttendExpanded {
    const RowGroup<A>* group;
    A* keys;
    A* values;
    Index key_stride;
    Index value_stride;
    Index value_dim;
    Index tokens;
    Index begin;
    A* scores;
};

/// The index scores of a block of index keys for one query: index[t] = Σ_h weights[h] · relu(query[h] · key[t]). The block's
/// group are the heads of the query, packed for it; it has no values.
template <class A>
struct ScoreIndex {
    AttendBlock<A> block;
    const A* weights;  ///< [rows]
    A* index;          ///< [tokens], with room for whole vectors
};

/// Calls body(context) once, an item of a worker: what the kernels that it calls need of the thread is set up for all of them.
using RunItem = void(void (*body)(void*) noexcept, void* context) noexcept;

template <class A>
struct IndexKernels {
    RunItem* run_item;
    void (*pack)(const PackQueries<A>*) noexcept;
    void (*score)(const ScoreIndex<A>*) noexcept;
};

template <class A>
struct AttentionKernels {
    RunItem* run_item;
    void (*pack)(const PackQueries<A>*) noexcept;
    void (*attend)(const AttendBlock<A>*) noexcept;
};

template <class A>
struct ExpandedKernels {
    RunItem* run_item;
    void (*pack)(const PackQueries<A>*) noexcept;
    void (*round)(const AttendExpanded<A>*) noexcept;
    void (*attend)(const AttendExpanded<A>*) noexcept;
};

/// Rows of a format from and to values of A, `rows` of them.
template <class A>
struct RowKernels {
    void (*read)(const void* const* from, Index rows, Index latent_dim, Index rope_dim, A* to, Index stride) noexcept;
    void (*write)(const A* from, Index from_stride, Index rows, Index latent_dim, Index rope_dim, void* to,
                  Index to_stride) noexcept;
};

/// y [rows, columns of the panels] = x [rows, in] · panels [panel_begin, panel_end) of one packed matrix.
template <class A>
struct MultiplyPanels {
    const A* x;
    Index x_stride;
    A* y;  ///< at column 0
    Index y_stride;
    Index rows;
    Index in;
    Index out;
    const void* panels;  ///< panel 0 of the matrix
    Index panel_begin;
    Index panel_end;
    const A* scales;   ///< of panel 0, a vector of a panel's columns for each scale_step of its rows; null without
    Index scale_step;  ///< a multiple of 8
};

template <class A>
struct LinearKernels {
    void (*multiply)(const MultiplyPanels<A>*) noexcept;
};

/// values[i] ← values[i] · sigmoid(logits[i]), `count` of them.
template <class A>
struct GateKernels {
    void (*multiply_by_sigmoid)(A* values, const A* logits, Index count) noexcept;
};

template <class A>
struct NormKernels {
    void (*rms_norm)(A* x, Index stride, Index rows, Index cols, const A* weight, double eps, double multiplier) noexcept;
};

/// How many formats formats/formats.hpp lists, of caches and of weights.
inline constexpr int cache_formats = 7;
inline constexpr int weight_formats = 7;

/// All functions of a target for one type computed in. Formats stand in the order of their list, precisions in that of
/// `Precision`; weights that are computed in another type have none.
template <class A>
struct Kernels {
    TileShape shape;
    AttentionKernels<A> attention[cache_formats][2];
    ExpandedKernels<A> expanded[cache_formats][2];
    IndexKernels<A> index[cache_formats][2];
    RowKernels<A> rows[cache_formats];
    LinearKernels<A> linear[weight_formats][2];
    NormKernels<A> norm;
    GateKernels<A> gate;
};

/// A target as a program links it.
struct Target {
    std::size_t bytes;  ///< of this struct, so that sources of two versions do not mix
    const char* name;
    int is_emulated;
    Kernels<float> of_float;
    Kernels<double> of_double;
};

}  // namespace mla::abi
