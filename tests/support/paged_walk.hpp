// Random walks of a paged cache beside a plain model of it: the same steps drawn by a seed in the tests, by bytes in the fuzzer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "mla/cache/paged_cache.hpp"
#include "mla/testing/configs.hpp"
#include "mla/testing/random.hpp"

namespace mla::testing {

/// What a walk throws when cache and model differ.
struct WalkError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// Draws without end from a seed.
class SeededChoices {
  public:
    explicit SeededChoices(std::uint64_t seed) : generator_(seed) {}
    [[nodiscard]] static bool done() noexcept { return false; }
    /// A number from 0 to `most`.
    Index draw(Index most) { return static_cast<Index>(generator_() % static_cast<std::uint64_t>(most + 1)); }

  private:
    Generator generator_;
};

/// Draws from bytes, one a draw, and zeros after their end.
class ByteChoices {
  public:
    ByteChoices(const std::uint8_t* bytes, std::size_t size) : next_(bytes), end_(bytes + size) {}
    [[nodiscard]] bool done() const noexcept { return next_ == end_; }
    /// A number from 0 to `most`, which is below 256.
    Index draw(Index most) { return done() ? 0 : Index{*next_++} % (most + 1); }

  private:
    const std::uint8_t* next_;
    const std::uint8_t* end_;
};

/// A paged cache with up to five sequences, and what each must hold. A step draws an operation, valid or not, and checks that it
/// succeeds exactly when the model says so, that what fails changes nothing, and that pages and references add up. With K each
/// token has an index key too.
template <Storage C, class Choices, class K = NoIndexKeys>
class PagedWalk {
  public:
    explicit PagedWalk(Choices choices)
        : choices_(std::move(choices)), cache_(config(), choices_.draw(12), 1 + choices_.draw(6)) {}

    [[nodiscard]] bool done() const noexcept { return choices_.done(); }

    /// @throws WalkError
    void step() {
        const Index operation = choices_.draw(11);
        if (operation == 0 || requests_.empty()) {
            start();
        } else {
            const auto index = static_cast<std::size_t>(choices_.draw(static_cast<Index>(requests_.size()) - 1));
            Request& request = requests_[index];
            switch (operation) {
                case 1: fork(request); break;
                case 2: truncate(request); break;
                case 3: reserve(request); break;
                case 4: release(request); break;
                case 5: move(request); break;
                case 6: reset(request); break;
                case 7: requests_.erase(requests_.begin() + static_cast<std::ptrdiff_t>(index)); break;
                default: append(request); break;
            }
        }
        check();
    }

  private:
    /// Tokens by name: token n has the four bytes of n for its first values, and a mix of them for the fifth.
    using Model = std::vector<std::uint32_t>;

    struct Request {
        PagedSequence<C, K> sequence;
        Model tokens;
        Index capacity;

        [[nodiscard]] Index size() const { return static_cast<Index>(tokens.size()); }
    };

    /// Everything that a refused operation must leave as it was, but for the rows, which every step compares with the model.
    struct State {
        Index free_pages;
        std::vector<std::vector<std::int32_t>> held;
        bool operator==(const State&) const = default;
    };

    static constexpr bool has_index_keys = !std::is_same_v<K, NoIndexKeys>;
    static constexpr Index dim = 5;
    static constexpr Index index_dim = 4;
    static constexpr std::size_t most_requests = 5;

    static Config config() {
        Config small = small_config();
        small.kv_lora_rank = 3;
        small.qk_rope_head_dim = 2;
        if (has_index_keys) small.indexer = {.top_k = 9, .heads = 1, .head_dim = index_dim};
        return small;
    }

    /// Value i of a token: at most 255, which every storage type holds exactly.
    static std::uint32_t value(std::uint32_t token, Index i) {
        if (i == dim - 1) return (token * 2654435761U) >> 24U;
        return token >> (8U * static_cast<unsigned>(i)) & 0xffU;
    }
    /// The same of its index key.
    static std::uint32_t index_value(std::uint32_t token, Index i) { return value(~token, i); }

    template <class... Parts>
    static void expect(bool ok, const Parts&... parts) {
        if (ok) return;
        std::ostringstream message;
        (message << ... << parts);
        throw WalkError(message.str());
    }

    [[nodiscard]] State state() const {
        State now{cache_.free_pages(), {}};
        for (const Request& request : requests_) {
            const auto pages = request.sequence.held_pages();
            now.held.emplace_back(pages.begin(), pages.end());
        }
        return now;
    }

    /// `operation` must throw an Exception exactly when `refused`, and then leave all as it was.
    template <class Exception, class F>
    void attempt(const char* name, bool refused, F&& operation) {
        const State before = state();
        try {
            operation();
        } catch (const Exception& exception) {
            expect(refused, name, " threw: ", exception.what());
            expect(state() == before, name, " was refused and changed pages: ", exception.what());
            return;
        }
        expect(!refused, name, " was not refused");
    }

    /// Pages that `count` more tokens take, by counting: those held, those of other sequences.
    [[nodiscard]] Index missing(const Request& request, Index count) const {
        const Index page_size = cache_.page_size();
        const auto held = request.sequence.held_pages();
        Index copies = 0;
        if (count > 0 && request.size() % page_size != 0) {
            const std::int32_t last = held[static_cast<std::size_t>(request.size() / page_size)];
            for (const Request& other : requests_) {
                const auto theirs = other.sequence.held_pages();
                if (&other != &request && std::find(theirs.begin(), theirs.end(), last) != theirs.end()) copies = 1;
            }
        }
        Index pages = 0;
        while (pages * page_size < request.size() + count) ++pages;
        return std::max(Index{0}, pages + copies - static_cast<Index>(held.size()));
    }
    [[nodiscard]] bool fits(const Request& request, Index count) const {
        return request.size() + count <= request.capacity && missing(request, count) <= cache_.free_pages();
    }

    void start() {
        const Index capacity = choices_.draw(40);
        if (requests_.size() < most_requests) requests_.push_back({cache_.sequence(capacity), {}, capacity});
    }

    void append(Request& request) {
        const Index count = choices_.draw(2 * cache_.page_size() + 1);
        const Index width = choices_.draw(30) == 0 ? dim - 1 : dim;
        if (choices_.draw(1) == 0) {
            append_as<float>(request, count, width);
        } else {
            append_as<double>(request, count, width);
        }
    }
    template <Compute A>
    void append_as(Request& request, Index count, Index width) {
        std::vector<A> rows;
        Model tokens = request.tokens;
        for (Index t = 0; t < count; ++t) {
            tokens.push_back(next_token_ + static_cast<std::uint32_t>(t));
            for (Index i = 0; i < dim; ++i) rows.push_back(static_cast<A>(value(tokens.back(), i)));
        }
        std::vector<A> keys;
        for (Index t = 0; has_index_keys && t < count; ++t)
            for (Index i = 0; i < index_dim; ++i)
                keys.push_back(static_cast<A>(index_value(next_token_ + static_cast<std::uint32_t>(t), i)));
        const MatrixView<const A> view(rows.data(), count, width, dim);
        const MatrixView<const A> index_view(keys.data(), count, index_dim);
        const auto append = [&] {
            if constexpr (has_index_keys) {
                request.sequence.append(view, index_view);
            } else {
                request.sequence.append(view);
            }
        };
        if (width != dim) return attempt<std::invalid_argument>("append of a wrong width", true, append);

        const bool room = fits(request, count);
        attempt<std::length_error>("require_room", !room, [&] { request.sequence.require_room(count); });
        const Index free = cache_.free_pages() - missing(request, count);
        attempt<std::length_error>("append", !room, append);
        if (!room) return;
        expect(cache_.free_pages() == free, "append left ", cache_.free_pages(), " pages free, must be ", free);
        next_token_ += static_cast<std::uint32_t>(count);
        request.tokens = std::move(tokens);
    }

    void fork(Request& request) {
        const Index length = choices_.draw(request.size() + 1);
        const Index capacity = length + choices_.draw(20) - 1;
        const bool refused = length > request.size() || capacity < length;
        if (requests_.size() == most_requests) return;
        Model tokens = request.tokens;
        tokens.resize(static_cast<std::size_t>(std::min(length, request.size())));
        const Index free = cache_.free_pages();
        attempt<std::invalid_argument>("fork", refused, [&] {
            requests_.push_back({request.sequence.fork(length, capacity), std::move(tokens), capacity});
        });
        expect(cache_.free_pages() == free, "fork took pages");
    }

    void truncate(Request& request) {
        const Index length = choices_.draw(request.size() + 1);
        const bool refused = length > request.size();
        attempt<std::invalid_argument>("truncate", refused, [&] { request.sequence.truncate(length); });
        if (refused) return;
        request.tokens.resize(static_cast<std::size_t>(length));
        expect_no_reserve(request);
    }

    void reserve(Request& request) {
        const Index count = choices_.draw(3 * cache_.page_size() + 1) - 1;
        if (count < 0) return attempt<std::invalid_argument>("reserve", true, [&] { request.sequence.reserve(count); });
        const bool room = fits(request, count);
        const Index free = cache_.free_pages() - missing(request, count);
        attempt<std::length_error>("reserve", !room, [&] { request.sequence.reserve(count); });
        if (!room) return;
        expect(cache_.free_pages() == free, "reserve left ", cache_.free_pages(), " pages free, must be ", free);
        expect(missing(request, count) == 0, "reserve left ", missing(request, count), " pages missing");
    }

    void release(Request& request) {
        request.sequence.release_reserved();
        expect_no_reserve(request);
    }

    void move(Request& request) {
        PagedSequence<C, K> moved(std::move(request.sequence));
        expect(request.sequence.size() == 0 && request.sequence.capacity() == 0 && request.sequence.held_pages().empty(),
               "a move left a sequence that is not empty");
        request.sequence = std::move(moved);
    }

    void reset(Request& request) {
        request.sequence.reset();
        request.tokens.clear();
        expect_no_reserve(request);
    }

    void expect_no_reserve(const Request& request) const {
        const Index used = divide_up(request.size(), cache_.page_size());
        const auto held = static_cast<Index>(request.sequence.held_pages().size());
        expect(held == used, held, " pages are held, must be ", used);
    }

    void check() const {
        std::vector<Index> uses(static_cast<std::size_t>(cache_.pages()));
        for (const Request& request : requests_) {
            check_tokens(request);
            const auto held = request.sequence.held_pages();
            const Index used = divide_up(request.size(), cache_.page_size());
            expect(static_cast<Index>(held.size()) >= used, "too few pages for ", request.size(), " tokens");
            for (std::size_t i = 0; i < held.size(); ++i) {
                expect(std::count(held.begin(), held.end(), held[i]) == 1, "page ", held[i], " stands twice in one table");
                ++uses.at(static_cast<std::size_t>(held[i]));
                expect(static_cast<Index>(i) < used || cache_.references(held[i]) == 1, "reserved page ", held[i], " is shared");
            }
        }
        Index unused = 0;
        for (Index page = 0; page < cache_.pages(); ++page) {
            const Index counted = uses[static_cast<std::size_t>(page)];
            expect(cache_.references(page) == counted, "page ", page, " has ", cache_.references(page), " references, must be ",
                   counted);
            if (counted == 0) ++unused;
        }
        expect(cache_.free_pages() == unused, cache_.free_pages(), " pages are free, must be ", unused);
    }

    void check_tokens(const Request& request) const {
        const PagedView<C> view = request.sequence.view();
        validate(view);
        expect(request.sequence.size() == request.size() && view.length == request.size(), "size is ", request.sequence.size(),
               ", must be ", request.size());
        expect(request.sequence.capacity() == request.capacity, "capacity is ", request.sequence.capacity(), ", must be ",
               request.capacity);
        for (Index t = 0; t < view.length; ++t)
            for (Index i = 0; i < dim; ++i) {
                const double expected = value(request.tokens[static_cast<std::size_t>(t)], i);
                const auto found = static_cast<double>(view.row(t)[i]);
                expect(found == expected, "token ", t, ", value ", i, " is ", found, ", must be ", expected);
            }
        if constexpr (has_index_keys) check_index_keys(request);
    }

    void check_index_keys(const Request& request) const {
        const PagedView<K> view = request.sequence.index_view();
        validate(view);
        expect(view.length == request.size(), "index keys are ", view.length, ", must be ", request.size());
        for (Index t = 0; t < view.length; ++t)
            for (Index i = 0; i < index_dim; ++i) {
                const double expected = index_value(request.tokens[static_cast<std::size_t>(t)], i);
                const auto found = static_cast<double>(view.row(t)[i]);
                expect(found == expected, "index key ", t, ", value ", i, " is ", found, ", must be ", expected);
            }
    }

    Choices choices_;
    PagedCache<C, K> cache_;
    std::vector<Request> requests_;
    std::uint32_t next_token_ = 0x01020304;
};

}  // namespace mla::testing
