// Vectors and results as files: what is written is what is judged, and a file that is no result is refused.
#include "mla/testing/conformance/vectors.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "support/checkpoint_folder.hpp"

namespace mla::testing {
namespace {

using io::StoredTensor;

[[nodiscard]] AttentionProblem problem_of(const std::string& name, const CacheLayout& layout) {
    for (const AttentionCase& c : attention_cases())
        if (c.name == name) return make_problem(c, layout);
    throw std::logic_error("no such case");
}

/// A result: the answer of a problem in a floating type, after `change`.
struct Result {
    AttentionProblem problem = problem_of("ragged_batch", {reference::RowKind::bf16, 16});
    Results answer = solve(problem);
    std::vector<StoredTensor> tensors = {out_in<double>("F64"), lse_in<double>("F64")};

    template <class T>
    [[nodiscard]] StoredTensor out_in(const char* dtype) const {
        const std::vector<T> values = rounded_to<T>(answer.out.values);
        return detail::stored("out", dtype, {problem.tokens(), problem.about.heads, problem.about.latent_dim}, values.data());
    }
    template <class T>
    [[nodiscard]] StoredTensor lse_in(const char* dtype) const {
        const std::vector<T> values = rounded_to<T>(answer.lse);
        return detail::stored("lse", dtype, {problem.tokens(), problem.about.heads}, values.data());
    }
    [[nodiscard]] PortJudgement judged(const ResultReading& reading = {}) const {
        const CheckpointFolder folder;
        folder.write("result.safetensors", tensors);
        return judge_result(folder.path() / "result.safetensors", problem, reading);
    }
    [[nodiscard]] std::string error() const {
        try {
            static_cast<void>(judged());
        } catch (const io::CheckpointError& error) {
            return error.what();
        }
        return "no error";
    }

  private:
    template <class T>
    [[nodiscard]] static std::vector<T> rounded_to(const std::vector<double>& values) {
        std::vector<T> rounded;
        for (const double value : values) rounded.push_back(round_to<T>(value));
        return rounded;
    }
};

TEST(VectorTest, HoldsTheProblemAndItsAnswer) {
    const CheckpointFolder folder;
    for (const CacheLayout& layout : {CacheLayout{reference::RowKind::fp8, 16}, CacheLayout{reference::RowKind::bf16, 0}}) {
        for (const char* name : {"ragged_batch", "tree", "sinks", "selected"}) {
            const AttentionProblem problem = problem_of(name, layout);
            write_vector(folder.path(), problem.about, layout);
            const io::Safetensors file(folder.path() / (vector_name(problem.about, layout) + ".safetensors"));
            const auto about = nlohmann::json::parse(file.metadata().at("mla_vector"));
            EXPECT_EQ(about.at("case"), name);
            EXPECT_EQ(about.at("scale"), problem.scale);
            EXPECT_EQ(about.at("page_size"), layout.page_size);
            const auto same = [&](const char* tensor, const void* bytes) {
                return std::memcmp(file.bytes(tensor).data(), bytes, file.bytes(tensor).size()) == 0;
            };
            EXPECT_TRUE(same("queries", problem.queries.data()));
            EXPECT_TRUE(same("memory", problem.memory.data()));
            EXPECT_TRUE(same("expected_out", solve(problem).out.values.data()));
            EXPECT_EQ(file.contains("block_tables"), layout.page_size > 0);
            EXPECT_EQ(file.contains("sinks"), problem.about.sinks);
            EXPECT_EQ(file.contains("selection"), problem.about.selected > 0);
            EXPECT_EQ(file.contains("tree_0"), problem.about.tree);
        }
    }
}

TEST(VectorTest, NamesAreUnique) {
    std::vector<std::string> names;
    for (const AttentionCase& c : attention_cases())
        for (const CacheLayout& layout : cache_layouts()) names.push_back(vector_name(c, layout));
    std::sort(names.begin(), names.end());
    EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end());
}

TEST(ResultTest, TheAnswerPassesInEveryType) {
    Result result;
    EXPECT_TRUE(result.judged().judgement.passed);
    result.tensors = {result.out_in<float>("F32"), result.lse_in<float>("F32")};
    EXPECT_TRUE(result.judged().judgement.passed);
    for (const StoredTensor& out : {result.out_in<bf16>("BF16"), result.out_in<fp16>("F16")}) {
        result.tensors = {out};
        EXPECT_TRUE(result.judged().judgement.passed) << out.dtype;
    }
}

TEST(ResultTest, IsJudgedAsItSaysItWasMade) {
    Result result{problem_of("decode_length_zero", {reference::RowKind::bf16, 16})};
    const ResultReading positive{.lse = LseReport::base2, .lse_without_keys = std::numeric_limits<double>::infinity()};
    for (double& value : result.answer.lse) value *= std::numbers::log2e;
    result.tensors[1] = result.lse_in<double>("F64");
    EXPECT_TRUE(result.judged({.lse = LseReport::base2}).judgement.passed);
    EXPECT_FALSE(result.judged(positive).judgement.passed) << "rows without keys are not reported as declared";
    for (double& value : result.answer.lse) value = std::isinf(value) ? -value : value;
    result.tensors[1] = result.lse_in<double>("F64");
    EXPECT_TRUE(result.judged(positive).judgement.passed);
    EXPECT_TRUE(result.judged({.lse = LseReport::none}).judgement.passed);
    const PortJudgement natural = result.judged();
    EXPECT_FALSE(natural.judgement.passed);
    EXPECT_EQ(natural.judgement.worst->value, -1);
}

TEST(ResultTest, AFailureSaysWhatItLooksLike) {
    Result result;
    result.answer = results_with(result.problem, attention_faults().front(), result.answer);
    result.tensors = {result.out_in<float>("F32"), result.lse_in<float>("F32")};
    const PortJudgement judged = result.judged();
    EXPECT_FALSE(judged.judgement.passed);
    ASSERT_FALSE(judged.diagnoses.empty());
    EXPECT_EQ(judged.diagnoses.front(), attention_faults().front().name);
    EXPECT_NE(report(result.problem, judged.judgement, judged.diagnoses).find("scores are not scaled"), std::string::npos);
}

TEST(ResultTest, FilesThatAreNoResultAreRefusedByName) {
    const auto error = [](void (*change)(std::vector<StoredTensor>&)) {
        Result result;
        change(result.tensors);
        return result.error();
    };
    using Tensors = std::vector<StoredTensor>;
    EXPECT_NE(error([](Tensors& t) { t.erase(t.begin()); }).find("tensor 'out' is missing"), std::string::npos);
    EXPECT_NE(error([](Tensors& t) { std::swap(t[0].shape[0], t[0].shape[1]); }).find("tensor 'out' is ["), std::string::npos);
    EXPECT_NE(error([](Tensors& t) { t[0].dtype = "I64"; }).find("is I64, must be F64, F32, F16 or BF16"), std::string::npos);
    EXPECT_NE(error([](Tensors& t) {
                  t[1].dtype = "BF16";
                  t[1].bytes.resize(t[1].bytes.size() / 4);
              }).find("tensor 'lse' is BF16, must be F64 or F32"),
              std::string::npos);
    EXPECT_NE(error([](Tensors& t) { t[0].bytes.pop_back(); }), "no error");
    const CheckpointFolder folder;
    folder.write("result.safetensors", "not a safetensors file");
    const Result result;
    EXPECT_THROW(static_cast<void>(judge_result(folder.path() / "result.safetensors", result.problem, {})), io::SafetensorsError);
    EXPECT_THROW(static_cast<void>(judge_result(folder.path() / "missing", result.problem, {})), std::system_error);
}

}  // namespace
}  // namespace mla::testing
