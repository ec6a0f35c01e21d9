// Serving several requests: they share the pages of a common prompt, join and leave the batch as they come and go, and one of
// them drafts three tokens ahead and takes back what is rejected. Each gets what it would get alone.
#include <algorithm>
#include <array>
#include <cstdio>
#include <deque>
#include <vector>

#include "mla/mla.hpp"
#include "mla/testing/configs.hpp"
#include "mla/testing/random.hpp"

namespace {

using mla::Index;
using Matrix = mla::RowMatrix<float>;
using Sequence = mla::PagedSequence<mla::bf16>;

constexpr Index shared = 100;  // tokens of the common prompt
constexpr Index pages = 24;
constexpr Index page_size = 16;

struct User {
    Index arrives, prompt, answer, draft;  // a step, and numbers of tokens
    Sequence cache;
    Matrix outputs;  // [shared + prompt + answer, hidden]
    [[nodiscard]] Index length() const { return shared + prompt + answer; }
};

/// The layer's input for tokens [first, first + count) of a user; of the common prompt the same for all.
Matrix inputs(Index user, Index first, Index count, Index hidden) {
    Matrix x(count, hidden);
    for (Index t = 0; t < count; ++t) {
        mla::testing::Generator generator(
            static_cast<std::uint64_t>(first + t < shared ? first + t : 1000 * (user + 1) + first + t));
        for (Index i = 0; i < hidden; ++i) x(t, i) = static_cast<float>(mla::testing::gaussian(generator));
    }
    return x;
}

}  // namespace

int main() {
    const mla::Config config = mla::testing::small_config();
    const Index hidden = config.hidden_size;
    const mla::Attention<float> attention(config, mla::testing::RandomWeights<float>(config, 1).refs());
    mla::PagedCache<mla::bf16> pool(config, pages, page_size);
    mla::Workspace workspace;

    Sequence prompt = pool.sequence(shared);  // computed once, its pages shared by all
    Matrix y(shared, hidden);
    attention.forward(inputs(0, 0, shared, hidden), mla::testing::consecutive(0, shared), prompt, y, mla::SerialExecutor{},
                      workspace);

    std::deque<User> users;
    for (const auto& [arrives, own, answer, draft] :
         {std::array<Index, 4>{0, 20, 12, 1}, {1, 5, 9, 1}, {1, 40, 8, 4}, {4, 12, 6, 1}})
        users.push_back({arrives, own, answer, draft, pool.sequence(0), Matrix(shared + own + answer, hidden)});

    std::printf("step  tokens of each user   pages  cached bytes\n");
    for (Index step = 0, done = 0; done < 4; ++step) {
        std::vector<mla::Request<Sequence>> batch;
        std::vector<std::int64_t> positions;
        Matrix x(0, hidden);
        for (Index u = 0; u < 4; ++u) {
            User& user = users[static_cast<std::size_t>(u)];
            if (user.arrives == step) user.cache = prompt.fork(shared, user.length());
            const Index cached = user.cache.size();
            const bool active = user.arrives <= step && cached > 0;
            const Index count = !active ? 0 : cached == shared ? user.prompt : std::min(user.draft, user.length() - cached);
            batch.push_back({&user.cache, count});
            x.conservativeResize(x.rows() + count, hidden);
            x.bottomRows(count) = inputs(u, cached, count, hidden);
            for (Index t = 0; t < count; ++t) positions.push_back(cached + t);
        }
        y.resize(x.rows(), hidden);
        attention.forward(x, positions, batch, y, mla::SerialExecutor{}, workspace);
        std::printf("%4td  %4td %4td %4td %4td   %2td/%td  %10td\n", step, batch[0].tokens, batch[1].tokens, batch[2].tokens,
                    batch[3].tokens, pages - pool.free_pages(), pages,
                    (pages - pool.free_pages()) * page_size * pool.bytes_per_token());
        Index row = 0;
        for (Index u = 0; u < 4; row += batch[static_cast<std::size_t>(u++)].tokens) {
            User& user = users[static_cast<std::size_t>(u)];
            const Index count = batch[static_cast<std::size_t>(u)].tokens;
            if (count == 0) continue;
            const Index before = user.cache.size() - count;
            user.outputs.middleRows(before, count) = y.middleRows(row, count);
            if (before > shared && count > 1) user.cache.truncate(before + 1 + step % count);  // what was drafted wrong
            if (user.cache.size() < user.length()) continue;
            user.cache.reset();  // its pages go to others
            ++done;
        }
    }

    for (Index u = 0; u < 4; ++u) {  // alone, in a cache of its own, token by token
        const User& user = users[static_cast<std::size_t>(u)];
        mla::LatentCache<mla::bf16> cache(config, user.length());
        Matrix alone(user.length(), hidden);
        const auto forward = [&](Index first, Index count) {
            attention.forward(inputs(u, first, count, hidden), mla::testing::consecutive(first, count), cache,
                              alone.middleRows(first, count), mla::SerialExecutor{}, workspace);
        };
        forward(0, shared);
        forward(shared, user.prompt);
        for (Index t = shared + user.prompt; t < user.length(); ++t) forward(t, 1);
        const Index own = user.prompt + user.answer;
        if (!user.outputs.bottomRows(own).isApprox(alone.bottomRows(own), 1e-4F)) return 1;
    }
    return pool.free_pages() == pages - prompt.view().used_pages() ? 0 : 1;
}
