// Views of cached tokens in a host's pages: where a token lies, and every way a view can be refused.
#include "mla/cache/paged_view.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/thrown.hpp"

namespace {

using mla::Index;
using mla::MatrixView;
using mla::PagedBatch;
using mla::PagedView;
using mla::testing::thrown;

constexpr std::int32_t unused = 2147480000;

/// A pool of 6 pages of 4 rows of 5 values in strides of 7, pages 30 apart, in which every value is its own address; and block
/// tables without a free entry behind them, so that reading on is seen.
struct Host {
    std::vector<float> pool = addresses();
    std::vector<std::int32_t> table{4, 0, 5};
    std::vector<std::int32_t> tables{4, 0, 5, unused, unused, unused, 2, 4, unused};
    std::vector<std::int32_t> lengths{9, 0, 5};

    static std::vector<float> addresses() {
        std::vector<float> values(6 * 30);
        for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
        return values;
    }
    [[nodiscard]] PagedView<float> view(Index length) const { return {pool.data(), 6, 4, 30, table.data(), length, 3, 2, 7}; }
    [[nodiscard]] PagedBatch<float> batch() const { return {pool.data(), 6, 4, 30, {tables.data(), 3, 3}, lengths, 3, 2, 7}; }
};

TEST(PagedViewTest, ATokenLiesInTheRowOfThePageThatItsTableNames) {
    const Host host;
    const PagedView<float> view = host.view(11);
    EXPECT_NO_THROW(validate(view));
    EXPECT_EQ(view.row_dim(), 5);
    for (Index t = 0; t < 11; ++t) {
        const Index page = t < 4 ? 4 : t < 8 ? 0 : 5;
        EXPECT_EQ(*view.row(t), static_cast<float>(page * 30 + t % 4 * 7)) << "token " << t;
    }
}

TEST(PagedViewTest, ARunEndsWithItsPage) {
    const Host host;
    const PagedView<float> view = host.view(11);
    for (Index t = 0; t < 11; ++t) {
        for (Index most = 0; most < 9; ++most) {
            const Index run = mla::detail::token_rows(view).run(t, most);
            EXPECT_LE(run, most);
            EXPECT_EQ(run, std::min(most, 4 - t % 4)) << "from token " << t;
        }
        for (Index i = 0; i < mla::detail::token_rows(view).run(t, 11 - t); ++i)
            EXPECT_EQ(view.row(t + i), view.row(t) + i * view.stride);
    }
}

TEST(PagedViewTest, APrefixUsesThePagesOfItsTokensOnly) {
    Host host;
    host.table[2] = unused;
    EXPECT_THROW(validate(host.view(9)), std::invalid_argument);
    const PagedView<float> prefix = host.view(9).prefix(8);
    EXPECT_NO_THROW(validate(prefix));
    EXPECT_EQ(prefix.length, 8);
    EXPECT_EQ(prefix.row(7), host.view(9).row(7));
    const std::vector<Index> pages{0, 1, 1, 1, 1, 2, 2, 2, 2};
    for (std::size_t length = 0; length < pages.size(); ++length)
        EXPECT_EQ(host.view(9).prefix(static_cast<Index>(length)).used_pages(), pages[length]) << length << " tokens";
}

TEST(PagedViewTest, EntriesPastTheLastTokenAreNotRead) {
    Host host;
    host.table = {3, -1, unused};
    EXPECT_NO_THROW(validate(host.view(0)));
    EXPECT_NO_THROW(validate(host.view(4)));
    EXPECT_THROW(validate(host.view(5)), std::invalid_argument);
    host.table = {3};  // exactly as long as needed: the address sanitizer sees a read of the next
    EXPECT_NO_THROW(validate(host.view(4)));
}

TEST(PagedViewTest, NamesTheEntryThatIsNoPage) {
    Host host;
    for (const std::int32_t page :
         {-1, 6, unused, std::numeric_limits<std::int32_t>::min(), std::numeric_limits<std::int32_t>::max()}) {
        for (std::size_t i = 0; i < 3; ++i) {
            host = Host();
            host.table[i] = page;
            EXPECT_EQ(thrown<std::invalid_argument>([&] { validate(host.view(9)); }),
                      "mla: cache.block_table[" + std::to_string(i) + "] is " + std::to_string(page) + ", must be in [0, 5]");
        }
    }
}

TEST(PagedViewTest, APageMayStandInATableTwice) {
    Host host;
    host.table = {1, 1, 1};
    EXPECT_NO_THROW(validate(host.view(9)));
}

TEST(PagedViewTest, RefusesSizesThatContradictEachOther) {
    const Host host;
    const auto message = [&](const std::function<void(PagedView<float>&)>& change) {
        PagedView<float> view = host.view(9);
        change(view);
        return thrown<std::invalid_argument>([&] { validate(view); });
    };
    using View = PagedView<float>;
    EXPECT_EQ(message([](View& v) { v.length = -1; }), "mla: cache.length is -1, must be at least 0");
    EXPECT_EQ(message([](View& v) { v.pages = -1; }), "mla: cache.pages is -1, must be at least 0");
    EXPECT_EQ(message([](View& v) { v.page_size = 0; }), "mla: cache.page_size is 0, must be at least 1");
    EXPECT_EQ(message([](View& v) { v.latent_dim = 0; }), "mla: cache.latent_dim is 0, must be at least 1");
    EXPECT_EQ(message([](View& v) { v.rope_dim = -2; }), "mla: cache.rope_dim is -2, must be at least 0");
    EXPECT_EQ(message([](View& v) { v.stride = 4; }), "mla: cache.stride is 4, must be at least 5");
    EXPECT_EQ(message([](View& v) { v.pool = nullptr; }), "mla: cache.pool is null, must be not null when a length is > 0");
    EXPECT_EQ(message([](View& v) { v.block_table = nullptr; }),
              "mla: cache.block_table is null, must be not null when cache.length > 0");
    EXPECT_EQ(message([](View& v) { v.page_stride = 25; }),
              "mla: cache.page_stride is 25, must be at least (page_size - 1) * stride + a row's elements");
    for (const Index stride : {Index{4}, Index{-30}, std::numeric_limits<Index>::min() + 5})
        EXPECT_NE(message([stride](View& v) { v.page_stride = stride; }), "");
    // Sizes whose products pass 64 bits.
    EXPECT_NE(message([](View& v) { v.stride = std::numeric_limits<Index>::max(); }), "");
    EXPECT_NE(message([](View& v) { v.page_size = std::numeric_limits<Index>::max(); }), "");
}

TEST(PagedViewTest, TheLastRowOfAPageNeedsNoPadding) {
    const Host host;
    PagedView<float> view = host.view(9);
    view.page_stride = 26;
    EXPECT_NO_THROW(validate(view));
}

TEST(PagedViewTest, AnEmptyViewNeedsNoMemory) {
    EXPECT_NO_THROW(validate(PagedView<float>{nullptr, 0, 1, 5, nullptr, 0, 3, 2, 5}));
    EXPECT_NO_THROW(validate(PagedBatch<float>{nullptr, 0, 1, 5, {}, {}, 3, 2, 5}));
    const std::vector<std::int32_t> lengths(2);
    EXPECT_NO_THROW(validate(PagedBatch<float>{nullptr, 0, 1, 5, {nullptr, 2, 0}, lengths, 3, 2, 5}));
}

// Batches ---------------------------------------------------------------------------------------------------------------

TEST(PagedBatchTest, ARequestIsTheViewOfItsRow) {
    const Host host;
    const PagedBatch<float> batch = host.batch();
    EXPECT_NO_THROW(validate(batch));
    ASSERT_EQ(batch.size(), 3U);
    for (std::size_t r = 0; r < 3; ++r) {
        EXPECT_NO_THROW(validate(batch[r]));
        EXPECT_EQ(batch[r].length, host.lengths[r]);
        EXPECT_EQ(batch[r].block_table, host.tables.data() + 3 * r);
        EXPECT_EQ(batch[r].pool, host.pool.data());
        EXPECT_EQ(batch[r].pages, 6);
        EXPECT_EQ(batch[r].page_size, 4);
        EXPECT_EQ(batch[r].page_stride, 30);
        EXPECT_EQ(batch[r].latent_dim, 3);
        EXPECT_EQ(batch[r].rope_dim, 2);
        EXPECT_EQ(batch[r].stride, 7);
    }
    EXPECT_EQ(*batch[0].row(8), 150.0F);
    EXPECT_EQ(*batch[2].row(4), 120.0F);
}

TEST(PagedBatchTest, NamesTheRequestAndTheEntryThatIsNoPage) {
    Host host;
    host.tables[7] = 6;
    EXPECT_EQ(thrown<std::invalid_argument>([&] { validate(host.batch()); }),
              "mla: cache.block_tables[2][1] is 6, must be in [0, 5]");
    host.lengths[2] = 4;
    EXPECT_NO_THROW(validate(host.batch()));
    host.lengths[1] = 1;
    EXPECT_EQ(thrown<std::invalid_argument>([&] { validate(host.batch()); }),
              "mla: cache.block_tables[1][0] is 2147480000, must be in [0, 5]");
}

TEST(PagedBatchTest, RefusesALengthThatItsTableCannotHold) {
    Host host;
    for (const std::int32_t length :
         {13, -1, std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int32_t>::min()}) {
        host.lengths[0] = length;
        EXPECT_EQ(thrown<std::invalid_argument>([&] { validate(host.batch()); }),
                  "mla: cache.lengths[0] is " + std::to_string(length) +
                      ", must be in [0, block_tables.cols * page_size] = [0, 3 * 4]");
    }
    host.lengths[0] = 12;
    EXPECT_NO_THROW(validate(host.batch()));
}

TEST(PagedBatchTest, RefusesSizesThatContradictEachOther) {
    const Host host;
    using Batch = PagedBatch<float>;
    const auto message = [&](const std::function<void(Batch&)>& change) {
        Batch batch = host.batch();
        change(batch);
        return thrown<std::invalid_argument>([&] { validate(batch); });
    };
    EXPECT_EQ(message([](Batch& b) { b.lengths = b.lengths.first(2); }),
              "mla: cache.block_tables.rows is 3, must be cache.lengths.size() = 2");
    EXPECT_EQ(message([](Batch& b) { b.block_tables.cols = -1; }), "mla: cache.block_tables.cols is -1, must be at least 0");
    EXPECT_EQ(message([](Batch& b) { b.block_tables.stride = 2; }), "mla: cache.block_tables.stride is 2, must be at least 3");
    EXPECT_EQ(message([](Batch& b) { b.block_tables.data = nullptr; }),
              "mla: cache.block_tables.data is null, must be not null when a length is > 0");
    EXPECT_EQ(message([](Batch& b) { b.pool = nullptr; }), "mla: cache.pool is null, must be not null when a length is > 0");
    EXPECT_EQ(message([](Batch& b) { b.stride = 4; }), "mla: cache.stride is 4, must be at least 5");
    EXPECT_EQ(message([](Batch& b) { b.page_size = 0; }), "mla: cache.page_size is 0, must be at least 1");
    EXPECT_EQ(message([](Batch& b) { b.pages = -1; }), "mla: cache.pages is -1, must be at least 0");
}

}  // namespace
