// The compressed cache of one request: against a plain model of it, and through every way it can be refused.
#include "mla/cache/latent_cache.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "mla/testing/configs.hpp"
#include "mla/testing/random.hpp"
#include "support/allocations.hpp"
#include "support/thrown.hpp"
#include "support/type_lists.hpp"

namespace {

using mla::bf16;
using mla::Compute;
using mla::Config;
using mla::fp16;
using mla::Index;
using mla::LatentCache;
using mla::LatentView;
using mla::MatrixView;
using mla::Storage;
using mla::testing::allocations;
using mla::testing::gaussian_values;
using mla::testing::Generator;
using mla::testing::round_to;
using mla::testing::thrown;

constexpr Index dim = 43;  // Dc + Dr of small_config

template <class C>
class CacheTest : public ::testing::Test {
  protected:
    const Config config = mla::testing::small_config();
    Generator generator{1};
};
TYPED_TEST_SUITE(CacheTest, mla::TestTypes<mla::StorageTypes>, );

/// Tokens [count, dim] in rows of dim + 2.
template <Compute A>
struct Tokens {
    static constexpr Index stride = dim + 2;
    Index count;
    std::vector<A> values;

    Tokens(Generator& generator, Index token_count) : count(token_count), values(gaussian_values<A>(generator, count * stride)) {}
    [[nodiscard]] MatrixView<const A> view() const { return {values.data(), count, dim, stride}; }
};

/// What a cache must hold: values of C, token by token.
template <Storage C>
using Model = std::vector<std::vector<double>>;

template <Storage C, Compute A>
void append_to(Model<C>& model, const Tokens<A>& tokens) {
    for (Index t = 0; t < tokens.count; ++t) {
        std::vector<double> row;
        for (Index i = 0; i < dim; ++i) row.push_back(static_cast<double>(round_to<C>(static_cast<double>(tokens.view()(t, i)))));
        model.push_back(row);
    }
}

/// The cached values, token by token.
template <Storage C>
Model<C> contents(const LatentCache<C>& cache) {
    const LatentView<C> view = cache.view();
    EXPECT_NO_THROW(validate(view));
    EXPECT_EQ(view.length, cache.size());
    Model<C> rows;
    for (Index t = 0; t < view.length; ++t) {
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(view.row(t)) % 64, 0U) << "row " << t << " is not on a cache line";
        rows.emplace_back(view.row(t), view.row(t) + view.row_dim());
    }
    return rows;
}

static_assert(!std::is_copy_constructible_v<LatentCache<float>> && !std::is_copy_assignable_v<LatentCache<float>>);
static_assert(std::is_nothrow_move_constructible_v<LatentCache<float>> && std::is_nothrow_move_assignable_v<LatentCache<float>>);

TYPED_TEST(CacheTest, StartsEmptyWithTheGeometryOfItsConfig) {
    const LatentCache<TypeParam> cache(this->config, 7);
    EXPECT_EQ(cache.size(), 0);
    EXPECT_EQ(cache.capacity(), 7);
    EXPECT_EQ(cache.latent_dim(), 33);
    EXPECT_EQ(cache.rope_dim(), 10);
    EXPECT_EQ(cache.pairing(), mla::RopePairing::interleaved);
    EXPECT_EQ(cache.view().latent_dim, 33);
    EXPECT_EQ(cache.view().rope_dim, 10);

    Config half_split = this->config;
    half_split.rope.pairing = mla::RopePairing::half_split;
    half_split.qk_rope_head_dim = 0;
    const LatentCache<TypeParam> other(half_split, 0);
    EXPECT_EQ(other.pairing(), mla::RopePairing::half_split);
    EXPECT_EQ(other.rope_dim(), 0);
    EXPECT_EQ(other.capacity(), 0);
}

TYPED_TEST(CacheTest, ATokenTakesWholeCacheLines) {
    Config sized = this->config;
    for (const auto& [latent, rope] : {std::pair<Index, Index>{1, 0}, {33, 10}, {256, 32}, {64, 2}, {512, 64}}) {
        sized.kv_lora_rank = latent;
        sized.qk_rope_head_dim = rope;
        const LatentCache<TypeParam> cache(sized, 1);
        const Index values = (latent + rope) * static_cast<Index>(sizeof(TypeParam));
        EXPECT_EQ(cache.bytes_per_token() % 64, 0);
        EXPECT_GE(cache.bytes_per_token(), values);
        EXPECT_LT(cache.bytes_per_token(), values + 64);
        EXPECT_EQ(cache.view().stride * static_cast<Index>(sizeof(TypeParam)), cache.bytes_per_token());
    }
    // The last is that of the published models, where nothing is wasted.
    EXPECT_EQ(LatentCache<TypeParam>(sized, 1).bytes_per_token(), 576 * static_cast<Index>(sizeof(TypeParam)));
}

TYPED_TEST(CacheTest, AppendRoundsEachValueAsTheScalarTypeDoes) {
    LatentCache<TypeParam> cache(this->config, 20);
    Model<TypeParam> model;
    for (const Index count : {1, 0, 5, 2}) {
        const Tokens<float> floats(this->generator, count);
        const Tokens<double> doubles(this->generator, count);
        cache.append(floats.view());
        append_to<TypeParam>(model, floats);
        cache.append(doubles.view());
        append_to<TypeParam>(model, doubles);
        ASSERT_EQ(contents(cache), model);
    }
}

TYPED_TEST(CacheTest, RowsStayWhereTheyAre) {
    LatentCache<TypeParam> cache(this->config, 12);
    const TypeParam* first = cache.view().row(0);
    const Tokens<float> tokens(this->generator, 3);
    cache.append(tokens.view());
    cache.append(tokens.view());
    cache.truncate(4);
    cache.append(tokens.view());
    LatentCache<TypeParam> moved(std::move(cache));
    for (Index t = 0; t < 7; ++t) EXPECT_EQ(moved.view().row(t), first + t * moved.view().stride);
    moved.reset();
    EXPECT_EQ(moved.view().row(0), first);
}

TYPED_TEST(CacheTest, AViewOfAPrefixSeesItsTokensOnly) {
    LatentCache<TypeParam> cache(this->config, 5);
    cache.append(Tokens<float>(this->generator, 5).view());
    const LatentView<TypeParam> prefix = cache.view().prefix(2);
    EXPECT_EQ(prefix.length, 2);
    EXPECT_EQ(prefix.row(1), cache.view().row(1));
    EXPECT_EQ(prefix.row_dim(), dim);
}

TYPED_TEST(CacheTest, ARunIsAsLongAsAsked) {
    LatentCache<TypeParam> cache(this->config, 5);
    cache.append(Tokens<float>(this->generator, 5).view());
    for (Index most = 0; most < 4; ++most) EXPECT_EQ(mla::detail::token_rows(cache.view()).run(1, most), most);
}

TYPED_TEST(CacheTest, AForkSharesNothing) {
    LatentCache<TypeParam> cache(this->config, 6);
    cache.append(Tokens<float>(this->generator, 6).view());
    const Model<TypeParam> before = contents(cache);
    for (Index length = 0; length <= 6; ++length) {
        LatentCache<TypeParam> fork = cache.fork(length, length + 2);
        EXPECT_EQ(fork.capacity(), length + 2);
        EXPECT_EQ(fork.pairing(), cache.pairing());
        EXPECT_EQ(contents(fork), Model<TypeParam>(before.begin(), before.begin() + length));
        fork.append(Tokens<float>(this->generator, 2).view());
        fork.truncate(0);
        fork.append(Tokens<float>(this->generator, 1).view());
        EXPECT_EQ(contents(cache), before);
    }
    EXPECT_EQ(cache.fork(6, 6).capacity(), 6);
}

TYPED_TEST(CacheTest, AMoveLeavesAnEmptySource) {
    LatentCache<TypeParam> cache(this->config, 4);
    cache.append(Tokens<float>(this->generator, 3).view());
    const Model<TypeParam> before = contents(cache);
    const auto expect_empty = [&](LatentCache<TypeParam>& source) {
        EXPECT_EQ(source.size(), 0);
        EXPECT_EQ(source.capacity(), 0);
        EXPECT_EQ(source.view().length, 0);
        EXPECT_NO_THROW(source.append(Tokens<float>(this->generator, 0).view()));
        EXPECT_THROW(source.append(Tokens<float>(this->generator, 1).view()), std::length_error);
        EXPECT_NO_THROW(static_cast<void>(source.fork(0, 1)));
    };
    LatentCache<TypeParam> moved(std::move(cache));
    EXPECT_EQ(contents(moved), before);
    EXPECT_EQ(moved.capacity(), 4);
    expect_empty(cache);  // NOLINT(bugprone-use-after-move): that is the point

    Config other = this->config;
    other.kv_lora_rank = 7;
    other.rope.pairing = mla::RopePairing::half_split;
    LatentCache<TypeParam> assigned(other, 2);
    assigned = std::move(moved);
    EXPECT_EQ(contents(assigned), before);
    EXPECT_EQ(assigned.latent_dim(), 33);
    EXPECT_EQ(assigned.pairing(), mla::RopePairing::interleaved);
    expect_empty(moved);  // NOLINT(bugprone-use-after-move)

    LatentCache<TypeParam>& itself = assigned;
    assigned = std::move(itself);
    EXPECT_EQ(contents(assigned), before);
}

TYPED_TEST(CacheTest, OnlyTheConstructorAndForkAllocate) {
    LatentCache<TypeParam> cache(this->config, 8);
    const Tokens<float> tokens(this->generator, 3);
    const std::uint64_t before = allocations();
    cache.append(tokens.view());
    cache.append(tokens.view());
    cache.truncate(2);
    cache.require_room(6);
    cache.reset();
    LatentCache<TypeParam> moved(std::move(cache));
    EXPECT_EQ(allocations(), before);
    static_cast<void>(moved.fork(0, 3));
    EXPECT_EQ(allocations(), before + 1);
}

// What is refused -----------------------------------------------------------------------------------------------------

TYPED_TEST(CacheTest, ARefusedCallLeavesTheCacheAsItWas) {
    LatentCache<TypeParam> cache(this->config, 7);
    cache.append(Tokens<float>(this->generator, 4).view());
    const Model<TypeParam> before = contents(cache);
    const Tokens<float> tokens(this->generator, 4);
    const float* data = tokens.values.data();
    using View = MatrixView<const float>;
    using std::invalid_argument;
    using std::length_error;
    EXPECT_EQ(thrown<length_error>([&] { cache.append(tokens.view()); }), "mla: tokens to append is 4, must be at most 3");
    EXPECT_EQ(thrown<length_error>([&] { cache.require_room(4); }), "mla: tokens to append is 4, must be at most 3");
    EXPECT_EQ(thrown<length_error>([&] { cache.require_room(std::numeric_limits<Index>::max()); }),
              "mla: tokens to append is 9223372036854775807, must be at most 3");
    EXPECT_EQ(thrown<invalid_argument>([&] { cache.require_room(-1); }), "mla: tokens to append is -1, must be at least 0");
    EXPECT_EQ(thrown<invalid_argument>([&] { cache.append(View(data, -1, dim)); }),
              "mla: tokens to append is -1, must be at least 0");
    EXPECT_EQ(thrown<invalid_argument>([&] { cache.append(View(data, 1, dim - 1)); }),
              "mla: tokens.cols is 42, must be kv_lora_rank + qk_rope_head_dim = 43");
    EXPECT_EQ(thrown<invalid_argument>([&] { cache.append(View(data, 2, dim, dim - 1)); }),
              "mla: tokens.stride is 42, must be at least 43");
    EXPECT_EQ(thrown<invalid_argument>([&] { cache.truncate(5); }), "mla: length is 5, must be in [0, 4]");
    EXPECT_EQ(thrown<invalid_argument>([&] { cache.truncate(-1); }), "mla: length is -1, must be in [0, 4]");
    EXPECT_EQ(thrown<invalid_argument>([&] { static_cast<void>(cache.fork(5, 9)); }), "mla: length is 5, must be in [0, 4]");
    EXPECT_EQ(thrown<invalid_argument>([&] { static_cast<void>(cache.fork(-1, 9)); }), "mla: length is -1, must be in [0, 4]");
    EXPECT_EQ(thrown<invalid_argument>([&] { static_cast<void>(cache.fork(4, 3)); }),
              "mla: capacity is 3, must be in [4, 17179869184]");
    EXPECT_EQ(contents(cache), before);
    EXPECT_EQ(cache.capacity(), 7);
}

TYPED_TEST(CacheTest, RefusesAnInvalidConfigAndAnImpossibleCapacity) {
    using Cache = LatentCache<TypeParam>;
    Config invalid = this->config;
    invalid.kv_lora_rank = 0;
    EXPECT_EQ(thrown<std::invalid_argument>([&] { Cache cache(invalid, 1); }).substr(0, 23), "mla: kv_lora_rank is 0,");
    EXPECT_EQ(thrown<std::invalid_argument>([&] { Cache cache(this->config, -1); }).substr(0, 20), "mla: capacity is -1,");
    // So many tokens that their bytes pass 64 bits: neither may end in a small cache that believes it is large.
    const Index beyond = Index{1} << 58;
    EXPECT_THROW(Cache(this->config, beyond), std::invalid_argument);
    EXPECT_THROW(static_cast<void>(Cache(this->config, 1).fork(0, beyond)), std::invalid_argument);
}

TEST(LatentViewTest, RefusesSizesThatContradictEachOther) {
    const std::vector<float> values(100);
    const auto message = [&](Index length, Index latent, Index rope, Index stride, const float* data) {
        return thrown<std::invalid_argument>([&] { validate(LatentView<float>{data, length, latent, rope, stride}); });
    };
    EXPECT_EQ(message(-1, 8, 2, 10, values.data()), "mla: cache.length is -1, must be at least 0");
    EXPECT_EQ(message(1, 0, 2, 10, values.data()), "mla: cache.latent_dim is 0, must be at least 1");
    EXPECT_EQ(message(1, 8, -2, 10, values.data()), "mla: cache.rope_dim is -2, must be at least 0");
    EXPECT_EQ(message(1, 8, 2, 9, values.data()), "mla: cache.stride is 9, must be at least 10");
    EXPECT_EQ(message(1, 8, 2, 10, nullptr), "mla: cache.data is null, must be not null when cache.length > 0");
    EXPECT_NO_THROW(validate(LatentView<float>{values.data(), 10, 8, 2, 10}));
    EXPECT_NO_THROW(validate(LatentView<float>{nullptr, 0, 8, 0, 8}));
}

TYPED_TEST(CacheTest, AppendsToForeignRowsAtAnyAddress) {
    constexpr Index stride = dim + 6;
    const Tokens<float> tokens(this->generator, 3);
    for (const Index offset : {0, 1, 5}) {
        std::vector<TypeParam> memory(3 * stride, TypeParam(-77.0F));
        mla::append(tokens.view(), MatrixView<TypeParam>(memory.data() + offset, 3, dim, stride));
        for (Index i = 0; i < 3 * stride; ++i) {
            const Index t = (i - offset + stride) / stride - 1;
            const Index column = i - offset - t * stride;
            const bool inside = t >= 0 && column >= 0 && column < dim;
            const double expected = inside ? static_cast<double>(tokens.view()(t, column)) : -77.0;
            ASSERT_EQ(static_cast<double>(memory[static_cast<std::size_t>(i)]),
                      static_cast<double>(round_to<TypeParam>(expected)));
        }
    }
    std::vector<TypeParam> memory(3 * stride);
    EXPECT_EQ(thrown<std::invalid_argument>([&] { mla::append(tokens.view(), MatrixView<TypeParam>(memory.data(), 2, dim)); }),
              "mla: rows.rows is 2, must be tokens.rows = 3");
    EXPECT_EQ(
        thrown<std::invalid_argument>([&] { mla::append(tokens.view(), MatrixView<TypeParam>(memory.data(), 3, dim + 1)); }),
        "mla: rows.cols is 44, must be tokens.cols = 43");
}

// Random operations -----------------------------------------------------------------------------------------------------

/// A cache and its model, which take the same steps; a step that the model cannot take must throw.
template <Storage C>
class Walk {
  public:
    Walk(const Config& config, std::uint64_t seed) : generator_(seed), cache_(config, 9), capacity_(9) {}

    void step() {
        switch (generator_() % 8U) {
            case 0: truncate(); break;
            case 1: fork(); break;
            case 2: move(); break;
            case 3:
                if (draw(5) == 0) {
                    cache_.reset();
                    model_.clear();
                }
                break;
            default: append(); break;
        }
        ASSERT_EQ(cache_.size(), static_cast<Index>(model_.size()));
        ASSERT_EQ(cache_.capacity(), capacity_);
        ASSERT_EQ(contents(cache_), model_);
    }

  private:
    /// A number from 0 to `most`.
    Index draw(Index most) { return static_cast<Index>(generator_() % static_cast<std::uint64_t>(most + 1)); }

    void append() {
        const Tokens<mla::compute_t<C>> tokens(generator_, draw(4));
        if (static_cast<Index>(model_.size()) + tokens.count > capacity_) {
            EXPECT_THROW(cache_.append(tokens.view()), std::length_error);
            return;
        }
        cache_.append(tokens.view());
        append_to<C>(model_, tokens);
    }
    void truncate() {
        const Index length = draw(static_cast<Index>(model_.size()) + 2);
        if (length > static_cast<Index>(model_.size())) {
            EXPECT_THROW(cache_.truncate(length), std::invalid_argument);
            return;
        }
        cache_.truncate(length);
        model_.resize(static_cast<std::size_t>(length));
    }
    void fork() {
        const Index length = draw(static_cast<Index>(model_.size()));
        capacity_ = length + draw(9);
        cache_ = cache_.fork(length, capacity_);
        model_.resize(static_cast<std::size_t>(length));
    }
    void move() {
        LatentCache<C> other(std::move(cache_));
        cache_ = std::move(other);
    }

    Generator generator_;
    LatentCache<C> cache_;
    Index capacity_;
    Model<C> model_;
};

TYPED_TEST(CacheTest, HoldsWhatAPlainModelHoldsAfterAnySequenceOfSteps) {
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
        Walk<TypeParam> walk(this->config, seed);
        for (int step = 0; step < 200 && !this->HasFatalFailure(); ++step) walk.step();
    }
}

}  // namespace
