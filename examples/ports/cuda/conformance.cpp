// The port in CUDA, held against the conformance kit: what it supports, what it rounds, and how a problem's arrays reach it.
// Exits with 77, which CTest takes for skipped, where there is no GPU.
#include <cstdint>
#include <cstdio>
#include <string>

#include "mla/testing/conformance/suite.hpp"
#include "mla_decode.hpp"

namespace {

using mla::Index;
using mla::reference::RowKind;

class Cuda {
  public:
    using Output = float;
    static constexpr const char* name = "Cuda";

    /// It computes in float and rounds nothing besides: the kit's default `Rounding`.
    [[nodiscard]] static mla::testing::Supported supported() {
        mla::testing::Supported supported;
        supported.kinds = {RowKind::bf16, RowKind::fp8};
        supported.page_size = [](Index tokens) { return tokens > 0; };
        supported.geometry = [](const mla::testing::AttentionCase& c) {
            const bool fits = c.latent_dim + c.rope_dim <= mla_cuda::max_row_values;
            return fits ? std::string() : "rows beyond " + std::to_string(mla_cuda::max_row_values) + " values";
        };
        supported.sinks = supported.trees = supported.selections = false;
        return supported;
    }

    void attend(const mla::testing::AttentionProblem& problem, mla::HeadsView<float> out, mla::MatrixView<float> lse) {
        mla_cuda::decode({
            .requests = static_cast<std::int32_t>(problem.requests()),
            .query_count = static_cast<std::int32_t>(problem.tokens()),
            .heads = static_cast<std::int32_t>(problem.about.heads),
            .latent_dim = static_cast<std::int32_t>(problem.about.latent_dim),
            .rope_dim = static_cast<std::int32_t>(problem.about.rope_dim),
            .scale = static_cast<float>(problem.scale),
            .queries = problem.queries.data(),
            .query_begin = problem.query_begin.data(),
            .lengths = problem.lengths.data(),
            .block_tables = problem.block_tables.data(),
            .table_width = static_cast<std::int32_t>(problem.table_width),
            .pool = reinterpret_cast<const unsigned char*>(problem.memory.data()),
            .kind = problem.layout.kind == RowKind::bf16 ? mla_cuda::RowKind::bf16 : mla_cuda::RowKind::fp8,
            .pages = static_cast<std::int32_t>(problem.pages),
            .page_size = static_cast<std::int32_t>(problem.layout.page_size),
            .row_bytes = problem.row_bytes,
            .out = out.data,
            .lse = lse.data,
        });
    }
};

}  // namespace

int main(int argc, char** argv) {
    constexpr int skipped = 77;
    if (mla_cuda::device_count() == 0) {
        std::puts("skipped: no GPU that CUDA can use");
        return skipped;
    }
    ::testing::InitGoogleTest(&argc, argv);
    mla::testing::register_conformance<Cuda>();
    return RUN_ALL_TESTS();
}
