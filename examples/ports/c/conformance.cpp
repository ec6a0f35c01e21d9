// The port in plain C, held against the conformance kit: what it supports, what it rounds, and how a problem's arrays reach it.
#include <cstdint>
#include <vector>

#include "mla/testing/conformance/suite.hpp"
#include "mla_decode.h"

namespace {

using mla::Index;
using mla::reference::RowKind;

class PlainC {
  public:
    using Output = float;
    static constexpr const char* name = "PlainC";

    /// It computes in float and rounds nothing besides: the kit's default `Rounding`.
    [[nodiscard]] static mla::testing::Supported supported() {
        mla::testing::Supported supported;
        supported.kinds = {RowKind::bf16, RowKind::fp8};
        supported.page_size = [](Index tokens) { return tokens > 0; };
        supported.sinks = supported.trees = supported.selections = false;
        return supported;
    }

    void attend(const mla::testing::AttentionProblem& problem, mla::HeadsView<float> out, mla::MatrixView<float> lse) {
        const mla_decode_args args{
            .requests = static_cast<std::int32_t>(problem.requests()),
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
            .kind = problem.layout.kind == RowKind::bf16 ? MLA_ROWS_BF16 : MLA_ROWS_FP8,
            .page_size = static_cast<std::int32_t>(problem.layout.page_size),
            .row_bytes = problem.row_bytes,
            .out = out.data,
            .lse = lse.data,
        };
        scratch_.resize(mla_decode_scratch(&args));
        mla_decode(&args, scratch_.data());
    }

  private:
    std::vector<float> scratch_;
};

const int registered = mla::testing::register_conformance<PlainC>();

}  // namespace
