// The compressed KV cache of many requests: a pool of pages that their tokens share, and a handle a request.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "mla/cache/page_allocator.hpp"
#include "mla/cache/paged_view.hpp"
#include "mla/cache/row_store.hpp"
#include "mla/core/executor.hpp"

namespace mla::inline MLA_ISA {

template <CacheElement C, IndexElement K = NoIndexKeys>
class PagedSequence;

/// Owns `pages` pages of `page_size` tokens of Dc + Dr values each, stored as C (see RowFormat); for a layer that selects its
/// keys also their index keys, of Di values stored as K, in a second pool whose pages have the same numbers. Its sequences point
/// to it: it neither moves nor copies, and outlives them. Any thread may take sequences of it or read its counts.
template <CacheElement C, IndexElement K = NoIndexKeys>
class PagedCache {
    using Store = detail::TokenStore<C, K>;

  public:
    static constexpr Index max_page_size = 256;

    /// @throws std::invalid_argument for an invalid config, a page size outside [1, 256], more pages than int32 can name, or
    /// index keys without an indexer
    PagedCache(const Config& config, Index pages, Index page_size)
        : page_size_(checked_page_size(page_size)),
          allocator_(checked_pages(pages, page_size)),
          store_(config, pages * page_size) {
        if (Store::has_index_keys && page_size % config.indexer.pool != 0)
            require(false, "page_size", page_size, "a multiple of indexer.pool");
    }

    PagedCache(const PagedCache&) = delete;
    PagedCache& operator=(const PagedCache&) = delete;
    ~PagedCache() { assert(free_pages() == pages() && "a sequence outlives its cache"); }

    [[nodiscard]] Index pages() const noexcept { return allocator_.pages(); }
    [[nodiscard]] Index page_size() const noexcept { return page_size_; }
    [[nodiscard]] Index latent_dim() const noexcept { return layout().latent_dim; }
    [[nodiscard]] Index rope_dim() const noexcept { return layout().rope_dim; }
    /// The convention that the cached rope keys are rotated in.
    [[nodiscard]] RopePairing pairing() const noexcept { return layout().pairing; }
    /// Values of an index row: Di, with pools 2·Di.
    [[nodiscard]] Index index_dim() const noexcept requires(Store::has_index_keys) {
        return store_.index_keys().layout().latent_dim;
    }
    /// Bytes a token takes, padding included.
    [[nodiscard]] Index bytes_per_token() const noexcept { return store_.bytes_per_token(); }

    [[nodiscard]] Index free_pages() const { return allocator_.free_pages(); }
    /// How many sequences hold `page`, reserved pages included; 0 when it is free. For checks and statistics.
    [[nodiscard]] Index references(Index page) const { return allocator_.references(page); }

    /// An empty sequence that may grow to `max_tokens`. It takes no page yet; its block table is allocated here, once.
    [[nodiscard]] PagedSequence<C, K> sequence(Index max_tokens) { return PagedSequence<C, K>(*this, max_tokens); }

  private:
    friend PagedSequence<C, K>;

    static Index checked_page_size(Index page_size) {
        require_in_range("page_size", page_size, Index{1}, max_page_size);
        return page_size;
    }
    static Index checked_pages(Index pages, Index page_size) {
        require_in_range("pages", pages, Index{0},
                         std::min(detail::PageAllocator::max_pages, detail::max_cached_tokens / page_size));
        return pages;
    }

    [[nodiscard]] const detail::RowLayout<C>& layout() const noexcept { return store_.latents().layout(); }
    /// Row 0 of a page, in the store.
    [[nodiscard]] Index first_row(std::int32_t page) const noexcept { return Index{page} * page_size_; }

    Index page_size_;
    detail::PageAllocator allocator_;
    Store store_;
};

/// The tokens of one request in a PagedCache, with the interface of a LatentCache: moves, does not copy, and gives its pages
/// back at its end. Forks share the pages of their common tokens; a page that others hold too is copied before its sequence
/// writes to it, so that no sequence sees another's tokens. One thread at a time uses a sequence, but for reading, in which
/// `fork` counts; different sequences are independent, on shared pages too. Only the cache's `sequence`, and `fork`, allocate.
template <CacheElement C, IndexElement K>
class PagedSequence {
    static constexpr bool has_index_keys = CacheElement<K>;

  public:
    /// A move leaves an empty source of capacity 0.
    PagedSequence(PagedSequence&& other) noexcept
        : cache_(other.cache_),
          capacity_(std::exchange(other.capacity_, 0)),
          size_(std::exchange(other.size_, 0)),
          held_(std::exchange(other.held_, 0)),
          table_(std::move(other.table_)) {}
    PagedSequence& operator=(PagedSequence&& other) noexcept {
        PagedSequence taken(std::move(other));
        std::swap(cache_, taken.cache_);
        std::swap(capacity_, taken.capacity_);
        std::swap(size_, taken.size_);
        std::swap(held_, taken.held_);
        std::swap(table_, taken.table_);
        return *this;
    }
    ~PagedSequence() { reset(); }

    [[nodiscard]] Index size() const noexcept { return size_; }
    /// The most tokens it may hold, whether or not the pool has pages for them.
    [[nodiscard]] Index capacity() const noexcept { return capacity_; }
    [[nodiscard]] Index latent_dim() const noexcept { return cache_->latent_dim(); }
    [[nodiscard]] Index rope_dim() const noexcept { return cache_->rope_dim(); }
    /// The convention that the cached rope keys are rotated in.
    [[nodiscard]] RopePairing pairing() const noexcept { return cache_->pairing(); }
    /// Values of an index row: Di, with pools 2·Di.
    [[nodiscard]] Index index_dim() const noexcept requires(has_index_keys) { return cache_->index_dim(); }
    /// Tokens of a pool; 1 without pools.
    [[nodiscard]] Index pool() const noexcept requires(has_index_keys) { return cache_->store_.pool(); }
    /// Bytes a token takes, padding included.
    [[nodiscard]] Index bytes_per_token() const noexcept { return cache_->bytes_per_token(); }

    /// Valid until the sequence is next changed or moved.
    [[nodiscard]] PagedView<C> view() const noexcept { return view_of(cache_->store_.latents()); }
    /// The keys of whole pools, rows [Di]; valid as long as `view`.
    [[nodiscard]] auto pool_view() const noexcept requires(has_index_keys) { return view_of(cache_->store_.pool_keys(), pool()); }
    /// Writes the key [Di] of a whole pool, of which its tokens' rows must be appended before: the page of the last of them is
    /// then this sequence's own.
    template <Compute A>
    void set_pool_key(Index index, const A* key) requires(has_index_keys) {
        require_in_range("pool", index, Index{0}, size_ / pool() - 1);
        const auto& rows = cache_->store_.pool_keys();
        const Index row = cache_->first_row(entry(index * pool() / page_size())) + index * pool() % page_size();
        rows.write(MatrixView<const A>(key, 1, rows.layout().latent_dim), row / pool());
    }
    /// The index rows: keys [Di], with pools [2·Di]; valid as long as `view`.
    [[nodiscard]] auto index_view() const noexcept requires(has_index_keys) { return view_of(cache_->store_.index_keys()); }

    /// The pages it holds a reference to: those of its tokens, in order, then the reserved ones.
    [[nodiscard]] std::span<const std::int32_t> held_pages() const noexcept {
        return {table_.data(), static_cast<std::size_t>(held_)};
    }

    /// Appends tokens [T, Dc + Dr] (latent, then rope key), rounded to C, written over the executor. Uses reserved pages first.
    /// @throws std::length_error when they pass the capacity or need more pages than are free, std::invalid_argument for a wrong
    /// width; sequence and pool are then unchanged
    template <Compute A>
    void append(MatrixView<const A> tokens, ExecutorRef executor = SerialExecutor{}) requires(!has_index_keys) {
        cache_->layout().require_tokens(tokens);
        append_rows(tokens.rows, executor,
                    [&](Index t, Index count, Index row) { cache_->store_.latents().write(tokens.row_range(t, count), row); });
    }

    /// Appends tokens [T, Dc + Dr] with their index rows [T, index_dim()], rounded to C and K, written over the executor. Uses
    /// reserved pages first.
    /// @throws as above, and std::invalid_argument unless there are as many index keys
    template <Compute A>
    void append(MatrixView<const A> tokens, MatrixView<const std::type_identity_t<A>> index_keys,
                ExecutorRef executor = SerialExecutor{}) requires(has_index_keys) {
        cache_->layout().require_tokens(tokens);
        cache_->store_.index_keys().layout().require_tokens(index_keys);
        require_equal("index_keys.rows", index_keys.rows, "tokens.rows", tokens.rows);
        append_rows(tokens.rows, executor, [&](Index t, Index count, Index row) {
            cache_->store_.latents().write(tokens.row_range(t, count), row);
            cache_->store_.index_keys().write(index_keys.row_range(t, count), row);
        });
    }

    /// What `append` of `count` tokens would throw now. Pages found free here may be taken by another sequence meanwhile:
    /// `reserve` takes them.
    /// @throws std::length_error unless `count` more tokens fit, std::invalid_argument when `count` is negative
    void require_room(Index count) const {
        detail::PageAllocator::require_free(missing_pages(count, last_page_is_shared()), cache_->free_pages());
    }

    /// Takes all pages that the next `count` tokens need, the copy of a shared page included: up to `count` tokens may then be
    /// appended, at once or in pieces, without an error, unless the sequence is forked or truncated before.
    /// @throws as `append` does; sequence and pool are then unchanged
    void reserve(Index count) { take_pages(count, last_page_is_shared()); }

    /// Gives back the pages that were reserved and not appended to.
    void release_reserved() noexcept { keep_pages(used_pages()); }

    /// Drops all tokens from `length` on, the rollback of speculative decoding, and gives their pages and the reserved ones back.
    void truncate(Index length) {
        require_in_range("length", length, Index{0}, size_);
        size_ = length;
        keep_pages(used_pages());
    }

    void reset() noexcept {
        size_ = 0;
        keep_pages(0);
    }

    /// A sequence of up to `max_tokens` that starts with the first `length` tokens of this one and shares their pages, the last
    /// one too when it is partly used.
    [[nodiscard]] PagedSequence fork(Index length, Index max_tokens) const {
        require_in_range("length", length, Index{0}, size_);
        require_in_range("max_tokens", max_tokens, length, detail::max_cached_tokens);
        PagedSequence copy(*cache_, max_tokens);
        const auto shared = held_pages().first(static_cast<std::size_t>(divide_up(length, page_size())));
        cache_->allocator_.share(shared);
        std::copy(shared.begin(), shared.end(), copy.table_.begin());
        copy.held_ = static_cast<Index>(shared.size());
        copy.size_ = length;
        return copy;
    }
    /// The same with this one's capacity.
    [[nodiscard]] PagedSequence fork(Index length) const { return fork(length, capacity_); }

  private:
    friend PagedCache<C, K>;

    PagedSequence(PagedCache<C, K>& cache, Index max_tokens) : cache_(&cache), capacity_(max_tokens) {
        require_in_range("max_tokens", max_tokens, Index{0}, detail::max_cached_tokens);
        // One more than the tokens need: the copy of a shared page is taken before that page is given back. No page stands
        // twice in a table, so that the pool bounds it too.
        table_.resize(static_cast<std::size_t>(std::min(divide_up(max_tokens, page_size()) + 1, cache.pages())));
    }

    template <CacheElement E>
    [[nodiscard]] PagedView<E> view_of(const detail::RowStore<E>& rows, Index tokens_a_row = 1) const noexcept {
        return {.pool = rows.row(0),
                .pages = cache_->pages(),
                .page_size = page_size() / tokens_a_row,
                .page_stride = page_size() / tokens_a_row * rows.layout().stride(),
                .block_table = table_.data(),
                .length = size_ / tokens_a_row,
                .latent_dim = rows.layout().latent_dim,
                .rope_dim = rows.layout().rope_dim,
                .stride = rows.layout().stride()};
    }

    /// Takes the pages that `tokens` more need, and calls `write(t, count, row)` for tokens [t, t + count) that lie from that row
    /// of the store on.
    template <class Write>
    void append_rows(Index tokens, ExecutorRef executor, Write&& write) {
        const bool shared = last_page_is_shared();
        take_pages(tokens, shared);
        if (shared && tokens > 0) copy_last_page();
        for_each_piece(executor, tokens, tokens_a_piece, [&](Index begin, Index pieces) {
            for (Index t = begin; t < begin + pieces;) {
                const Index used = (size_ + t) % page_size();  // rows of the page that token t goes to
                const Index count = std::min(begin + pieces - t, page_size() - used);
                write(t, count, cache_->first_row(entry((size_ + t) / page_size())) + used);
                t += count;
            }
        });
        size_ += tokens;
    }

    [[nodiscard]] Index page_size() const noexcept { return cache_->page_size(); }
    [[nodiscard]] Index used_pages() const noexcept { return divide_up(size_, page_size()); }
    [[nodiscard]] std::int32_t& entry(Index index) noexcept { return table_[static_cast<std::size_t>(index)]; }

    /// Whether the next token goes to a page that another sequence holds too. Only a fork of this sequence makes it so; others
    /// may end it at any time, after which a copy is needless and still right.
    [[nodiscard]] bool last_page_is_shared() const {
        if (size_ % page_size() == 0) return false;
        return cache_->references(table_[static_cast<std::size_t>(used_pages() - 1)]) > 1;
    }

    /// Pages that `count` more tokens need beyond those held.
    [[nodiscard]] Index missing_pages(Index count, bool shared) const {
        detail::require_token_room(count, capacity_ - size_);
        const Index copies = shared && count > 0 ? 1 : 0;
        return std::max(Index{0}, divide_up(size_ + count, page_size()) + copies - held_);
    }

    void take_pages(Index count, bool shared) {
        const Index missing = missing_pages(count, shared);
        if (missing == 0) return;
        cache_->allocator_.take(missing, table_.data() + held_);
        held_ += missing;
    }

    /// Moves the rows of the last page used to the last page reserved. The shared page is given back only after it was read:
    /// from then on another sequence may be its only one, and write to it.
    void copy_last_page() {
        std::int32_t& last = entry(used_pages() - 1);
        const std::int32_t copy = entry(held_ - 1);
        cache_->store_.copy(cache_->store_, cache_->first_row(last), cache_->first_row(copy), size_ % page_size());
        cache_->allocator_.give_back(std::span(&last, 1));
        last = copy;
        --held_;
    }

    void keep_pages(Index count) noexcept {
        const std::span<const std::int32_t> dropped = held_pages().subspan(static_cast<std::size_t>(count));
        if (!dropped.empty()) cache_->allocator_.give_back(dropped);
        held_ = count;
    }

    PagedCache<C, K>* cache_;
    Index capacity_;
    Index size_ = 0;
    Index held_ = 0;                   ///< entries of table_ in use: pages of tokens, then reserved ones
    std::vector<std::int32_t> table_;  ///< allocated once
};

}  // namespace mla::inline MLA_ISA
