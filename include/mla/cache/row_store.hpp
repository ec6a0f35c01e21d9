// The memory behind caches that own it: rows of latents, and of index keys where a layer selects keys.
#pragma once

#include <algorithm>
#include <type_traits>

#include "mla/cache/latent_view.hpp"
#include "mla/cache/rows.hpp"

namespace mla::inline MLA_ISA {

/// In place of an element: a cache without index keys.
struct NoIndexKeys {};

/// The element of a cache's index keys, or NoIndexKeys.
template <class K>
concept IndexElement = CacheElement<K> || std::is_same_v<K, NoIndexKeys>;

namespace detail {

/// Rows of a layout, in one piece, of tokens that lie wherever their cache puts them.
template <class C>
class RowStore {
  public:
    RowStore(const RowLayout<C>& layout, Index rows) : layout_(layout), data_(allocate_aligned<C>(rows * layout.stride())) {}

    [[nodiscard]] const RowLayout<C>& layout() const noexcept { return layout_; }
    [[nodiscard]] C* row(Index index) const noexcept { return data_.get() + index * layout_.stride(); }

    template <Compute A>
    void write(MatrixView<const A> tokens, Index first) const {
        layout_.write(tokens, row(first));
    }
    void copy(const RowStore& from, Index source, Index first, Index count) const {
        std::copy_n(from.row(source), count * layout_.stride(), row(first));
    }

  private:
    RowLayout<C> layout_;
    AlignedArray<C> data_;
};

/// What a cache stores of each token: its latent row and, with K, its index row (the index key, and with pools what weighs it);
/// of each whole pool of tokens a key. All of a token is written, copied and dropped together; a pool's key is kept as long as
/// all its tokens are.
template <CacheElement C, IndexElement K>
class TokenStore {
  public:
    static constexpr bool has_index_keys = CacheElement<K>;

    /// @throws std::invalid_argument for an invalid config, and for index keys in one that has no indexer
    TokenStore(const Config& config, Index rows)
        : TokenStore(RowLayout<C>(config), index_layout(config, config.indexer.row_dim()),
                     index_layout(config, config.indexer.head_dim), config.indexer.pool, rows) {}
    TokenStore(const TokenStore& like, Index rows)
        : TokenStore(like.latents_.layout(), like.index_keys_.layout(), like.pool_keys_.layout(), like.pool_, rows) {}

    [[nodiscard]] const RowStore<C>& latents() const noexcept { return latents_; }
    [[nodiscard]] const RowStore<K>& index_keys() const noexcept { return index_keys_; }
    /// The keys of whole pools: row r / pool of tokens that end in row r. Without pools none.
    [[nodiscard]] const RowStore<K>& pool_keys() const noexcept { return pool_keys_; }
    [[nodiscard]] Index pool() const noexcept { return pool_; }
    [[nodiscard]] Index bytes_per_token() const noexcept {
        const Index pooled = pool_ > 1 ? divide_up(pool_keys_.layout().bytes(), pool_) : 0;
        return latents_.layout().bytes() + index_keys_.layout().bytes() + pooled;
    }

    /// Rows [source, source + count) of another; both are whole pools from the beginning of one.
    void copy(const TokenStore& from, Index source, Index first, Index count) const {
        latents_.copy(from.latents_, source, first, count);
        index_keys_.copy(from.index_keys_, source, first, count);
        if (pool_ > 1) pool_keys_.copy(from.pool_keys_, source / pool_, first / pool_, count / pool_);
    }

  private:
    TokenStore(const RowLayout<C>& latents, const RowLayout<K>& index_keys, const RowLayout<K>& pool_keys, Index pool, Index rows)
        : latents_(latents, rows),
          index_keys_(index_keys, rows),
          pool_keys_(pool_keys, pool > 1 ? rows / pool : 0),
          pool_(pool) {}

    [[nodiscard]] static RowLayout<K> index_layout(const Config& config, Index dim) {
        if constexpr (has_index_keys) {
            require(config.indexer.heads > 0, "indexer.heads", config.indexer.heads, "positive for a cache of index keys");
            return {dim, 0, config.indexer.pairing};
        } else {
            return {};
        }
    }

    RowStore<C> latents_;
    [[no_unique_address]] RowStore<K> index_keys_;
    [[no_unique_address]] RowStore<K> pool_keys_;
    Index pool_;
};

template <>
struct RowLayout<NoIndexKeys> {
    [[nodiscard]] static constexpr Index bytes() noexcept { return 0; }
};

template <>
class RowStore<NoIndexKeys> {
  public:
    RowStore(const RowLayout<NoIndexKeys>&, Index) noexcept {}
    [[nodiscard]] static constexpr RowLayout<NoIndexKeys> layout() noexcept { return {}; }
    static void copy(const RowStore&, Index, Index, Index) noexcept {}
};

}  // namespace detail
}  // namespace mla::inline MLA_ISA
