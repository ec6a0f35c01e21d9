// The conformance kit is judged: it passes a plain kernel, and of each that is wrong by one mistake it says so, and why.
#include "mla/testing/conformance/mutants.hpp"
#include "mla/testing/conformance/plain_steps.hpp"
#include "mla/testing/conformance/port.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "mla/reference/attention.hpp"
#include "mla/reference/gradients.hpp"
#include "mla/reference/layer.hpp"
#include "mla/testing/tolerance.hpp"

namespace mla::testing {
namespace {

struct Solved {
    AttentionProblem problem;
    Answer answer;
};

/// Small cases in some layouts: in one piece and in pages, of one type and with scales.
[[nodiscard]] std::vector<Solved> solve_all() {
    using reference::RowKind;
    std::vector<Solved> made;
    for (const AttentionCase& c : attention_cases()) {
        if (c.tier != Tier::small || c.name == "deepseek_decode") continue;
        if (c.expanded() && c.name != "expanded_chunk" && c.name != "expanded_batch") continue;
        for (const CacheLayout& layout : {CacheLayout{RowKind::bf16, 16}, {RowKind::fp8, 0}}) {
            AttentionProblem problem = make_problem(c, layout);
            Answer answer = solve(problem);
            made.push_back({std::move(problem), std::move(answer)});
        }
    }
    // Trees and selections first: over plain causal masks some mistakes look alike.
    std::stable_partition(made.begin(), made.end(),
                          [](const Solved& solved) { return solved.problem.about.tree || solved.problem.about.selected > 0; });
    return made;
}

[[nodiscard]] const std::vector<Solved>& problems() {
    static const std::vector<Solved> made = solve_all();
    return made;
}

TEST(ConformanceKitTest, PassesAPlainKernel) {
    PlainKernel kernel;
    for (const Solved& solved : problems()) {
        const PortJudgement judged = judge_port(kernel, solved.problem, solved.answer);
        EXPECT_TRUE(judged.judgement.passed) << report(solved.problem, judged.judgement, judged.diagnoses);
    }
}

class MutantTest : public ::testing::TestWithParam<Mutant> {};

TEST_P(MutantTest, FailsAndIsDiagnosed) {
    constexpr int explained = 8;
    PlainKernel kernel(GetParam().mistake);
    Diagnoses diagnoses;
    int failures = 0;
    for (const Solved& solved : problems()) {
        const PortJudgement judged = judge_port(kernel, solved.problem, solved.answer, failures < explained);
        failures += judged.judgement.passed ? 0 : 1;
        diagnoses.add(judged.diagnoses);
    }
    EXPECT_GT(failures, 0) << "not caught";
    const auto [name, count] = diagnoses.most_likely();
    std::printf("%s: %d cases fail, \"%s\" explains %d of the first %d\n", GetParam().name, failures, name.c_str(), count,
                std::min(failures, explained));
    EXPECT_EQ(name, GetParam().diagnosis);
}

INSTANTIATE_TEST_SUITE_P(Mutants, MutantTest, ::testing::ValuesIn(mutants()),
                         [](const auto& instance) { return std::string(instance.param.name); });

TEST(ConformanceKitTest, PassesPlainSteps) {
    PlainSteps steps;
    for_each_step([&](const std::string& step, const auto& problem) {
        const std::vector<double> found = run_step(steps, problem);
        const StepAnswer answer = step_answer(steps.supported(), problem, found);
        const StepJudgement judgement = judge_step(answer, found);
        EXPECT_TRUE(judgement.passed()) << report(step + "/" + problem.name, answer, found, judgement);
    });
}

/// Rows of e4m3 with scales that are the next powers of two, times a factor.
[[nodiscard]] std::vector<double> stored_with_scales(const StoreProblem& p, double factor) {
    std::vector<std::byte> rows(static_cast<std::size_t>(p.tokens * p.row.bytes()));
    PlainSteps().store(p, rows.data());
    for (Index t = 0; t < p.tokens; ++t) {
        std::byte* const row = rows.data() + t * p.row.bytes();
        for (Index i = 0; i < p.row.narrow(); ++i) {
            std::byte* const scale = row + p.row.scale_offset() + i / p.row.group() * 4;
            const auto least = static_cast<double>(reference::detail::load<float>(scale));
            if (i % p.row.group() == 0 && least > 0.0)
                reference::detail::store(scale, static_cast<float>(std::exp2(std::ceil(std::log2(least))) * factor));
            const double steps = static_cast<double>(p.values[static_cast<std::size_t>(t * p.row.values() + i)]) /
                                 reference::detail::scale_of(p.row, row, i / p.row.group());
            row[i] = static_cast<std::byte>(reference::nearest(reference::e4m3_layout, least > 0.0 ? steps : 0.0));
        }
    }
    return row_numbers(p.row, rows);
}

TEST(ConformanceKitTest, TakesScalesUpToTheNextPowerOfTwo) {
    for (const StoreProblem& p : store_problems()) {
        if (p.row.kind != reference::RowKind::fp8) continue;
        const auto passes = [&](double factor) {
            const std::vector<double> found = stored_with_scales(p, factor);
            return judge_step(store_answer(p, found), found).passed();
        };
        EXPECT_TRUE(passes(1.0)) << p.name;
        EXPECT_FALSE(passes(0.5)) << p.name << ", scales too small for their group";
        EXPECT_FALSE(passes(4.0)) << p.name << ", scales that waste bits";
    }
}

/// Appends rows whose rope parts are in halves.
struct StepsInHalves : PlainSteps {
    [[nodiscard]] static Supported supported() {
        Supported supported;
        supported.rope_in_cache = RopeInCache::in_halves;
        return supported;
    }
    void append(const AppendProblem& p, std::byte* rows) const {
        PlainSteps::append(p, rows);
        const Index size = p.row.wide_bytes(), half = p.row.rope_dim / 2;
        for (Index t = 0; t < p.tokens && p.rope.pairing == RopePairing::interleaved; ++t) {
            std::byte* const rope = rows + t * p.row.bytes() + p.row.wide_offset() + (p.row.latent_dim - p.row.narrow()) * size;
            const std::vector<std::byte> pairs(rope, rope + p.row.rope_dim * size);
            for (Index i = 0; i < p.row.rope_dim; ++i)
                std::copy_n(pairs.begin() + (i % half * 2 + i / half) * size, size, rope + i * size);
        }
    }
};

TEST(ConformanceKitTest, ReadsRopePartsInHalvesWhereAPortSaysSo) {
    StepsInHalves port;
    PlainSteps other;
    for (const AppendProblem& problem : append_problems()) {
        const std::vector<double> found = run_step(port, problem);
        EXPECT_TRUE(judge_step(append_answer(problem, found), found).passed()) << problem.name;
        EXPECT_EQ(found, run_step(other, problem)) << problem.name;
    }
}

TEST(ConformanceKitTest, LayersAreThoseOfTheReferenceInBothForms) {
    for (const LayerProblem& p : layer_problems())
        for (const reference::Form form : {reference::Form::absorbed, reference::Form::expanded}) {
            const reference::Matrix y = layer_outputs(p, {}, form);
            reference::Matrix cache(0, p.config.cache_dim());
            Index first = 0;
            for (const Index count : p.calls) {
                const std::vector<float> x(p.x.begin() + first * p.config.hidden_size,
                                           p.x.begin() + (first + count) * p.config.hidden_size);
                const std::span positions(p.positions.data() + first, static_cast<std::size_t>(count));
                const reference::Matrix expected =
                    reference::forward(p.config, p.weights.refs(), widened(x, count, p.config.hidden_size), positions, cache,
                                       reference::Form::absorbed);
                const reference::Matrix found = reference::row_range(y, first, count);
                EXPECT_FALSE(!(detail::distance(found.values, expected.values) <= 1e-12)) << p.name;
                first += count;
            }
        }
}

TEST(ConformanceKitTest, GradientsAreThoseOfTheReference) {
    for (const GradientProblem& p : gradient_problems()) {
        const reference::Matrix q(p.tokens * p.heads, p.query_dim(), {p.q.begin(), p.q.end()});
        const reference::Matrix rows = widened(p.rows, p.length, p.row_dim());
        const reference::Attended d{widened(p.d_out, q.rows, p.out_dim()), widened(p.d_lse, p.tokens, p.heads)};
        const std::vector<double> sinks(p.sinks.begin(), p.sinks.end());
        const reference::Visible visible = reference::causal(p.tokens, p.length);
        std::vector<double> expected;
        const auto take = [&](const std::vector<double>& part) { expected.insert(expected.end(), part.begin(), part.end()); };
        if (p.expanded()) {
            const reference::ExpandedGradients g = reference::expanded_gradients(
                q, p.tokens, p.heads, rows, widened(p.kv_b, p.kv_b_rows(), p.latent_dim), p.scale, visible, d, sinks);
            for (const auto& part : {g.d_q.values, g.d_rows.values, g.d_kv_b.values, g.d_sinks}) take(part);
        } else {
            const reference::AbsorbedGradients g =
                reference::absorbed_gradients(q, p.tokens, p.heads, rows, p.latent_dim, p.scale, visible, d, sinks);
            take(reference::beside(g.d_q_lat, g.d_q_pe).values);
            take(reference::beside(g.d_c, g.d_k_pe).values);
            take(g.d_sinks);
        }
        EXPECT_FALSE(!(detail::distance(gradient_answer(p, {}).values, expected) <= 1e-12)) << p.name;
    }
}

TEST(ConformanceKitTest, GradientsInBf16PassWhereAPortSaysSo) {
    PlainSteps steps;
    for (const GradientProblem& p : gradient_problems()) {
        std::vector<double> found = run_step(steps, p);
        for (double& value : found) value = static_cast<double>(round_to<bf16>(value));
        EXPECT_FALSE(judge_step(gradient_answer(p, {}), found).passed()) << p.name;
        EXPECT_TRUE(judge_step(gradient_answer(p, {.outputs = unit_roundoff<bf16>}), found).passed()) << p.name;
    }
}

class StepMutantTest : public ::testing::TestWithParam<StepMutant> {};

TEST_P(StepMutantTest, FailsAndIsDiagnosed) {
    PlainSteps steps(GetParam().mistake), plain;
    Diagnoses diagnoses;
    for_each_step([&](const std::string&, const auto& problem) {
        const std::vector<double> found = run_step(steps, problem);
        if (found == run_step(plain, problem)) return;  // which passes
        diagnoses.add(judge_step(step_answer(steps.supported(), problem, found), found).diagnoses);
    });
    EXPECT_EQ(diagnoses.most_likely().first, GetParam().diagnosis);
}

INSTANTIATE_TEST_SUITE_P(Mutants, StepMutantTest, ::testing::ValuesIn(step_mutants()),
                         [](const auto& instance) { return std::string(instance.param.name); });

TEST(ConformanceKitTest, TellsRightSelectionsFromWrongOnes) {
    const auto select = [](const SelectProblem& p, const SelectReading& reading) {
        const reference::Matrix scores = select_scores(p, reading);
        std::vector<std::int32_t> selection(static_cast<std::size_t>(p.queries * p.top_k), -1);
        for (Index t = 0; t < p.queries; ++t) {
            const std::vector<Index> keys = detail::chosen_keys(p, reading, scores, t);
            std::transform(keys.rbegin(), keys.rend(), selection.begin() + t * p.top_k,
                           [](Index s) { return static_cast<std::int32_t>(s); });
        }
        return selection;
    };
    for (const SelectProblem& problem : select_problems()) EXPECT_EQ(judge_selection(problem, select(problem, {})), "");
    for (const SelectReading& mistake : select_mistakes()) {
        int told = 0;
        for (const SelectProblem& problem : select_problems())
            told += judge_selection(problem, select(problem, mistake)).find("looks like: " + mistake.name) != std::string::npos
                        ? 1
                        : 0;
        EXPECT_GT(told, 0) << mistake.name;
    }
    const SelectProblem problem = select_problems().front();
    std::vector<std::int32_t> selection = select(problem, {});
    selection[1] = selection[0];
    EXPECT_NE(judge_selection(problem, selection).find("chooses a key twice"), std::string::npos);
    selection[1] = -1;
    EXPECT_NE(judge_selection(problem, selection).find("chooses 15 keys, must be 16"), std::string::npos);
}

TEST(ConformanceKitTest, FarPagesSpan32BitsOfBytes) {
    const auto cases = attention_cases();
    const auto far = std::find_if(cases.begin(), cases.end(), [](const AttentionCase& c) { return c.far_pages; });
    ASSERT_NE(far, cases.end());
    for (const CacheLayout& layout : cache_layouts()) {
        if (layout.page_size == 0) continue;
        const AttentionProblem problem = make_problem(*far, layout);
        std::vector<Index> slots;
        for (Index r = 0; r < problem.requests(); ++r)
            for (Index s = 0; s < problem.length(r); ++s) slots.push_back(problem.slot_of(r, s));
        const auto [first, last] = std::minmax_element(slots.begin(), slots.end());
        EXPECT_GE((*last - *first) * problem.row_bytes, Index{1} << 32) << name(layout.kind) << " " << layout.page_size;
    }
}

/// What the equations of the layer's reference give for a request.
[[nodiscard]] reference::Attended reference_answer(const AttentionProblem& problem, const RequestReading& request,
                                                   Index queries) {
    const AttentionCase& c = problem.about;
    const auto visible = [&](Index t, Index s) {
        const auto& seen = request.seen[static_cast<std::size_t>(t)];
        return std::find(seen.begin(), seen.end(), s) != seen.end();
    };
    if (!c.expanded())
        return reference::attend_absorbed(request.queries, queries, c.heads, request.keys, c.latent_dim, problem.scale, visible);
    const reference::Matrix kv_b = widened(problem.kv_b, c.heads * (c.nope_dim + c.value_dim), c.latent_dim);
    const reference::ExpandedRows rows = reference::expand_rows(request.keys, kv_b, c.heads, c.nope_dim);
    return reference::attend_masked(request.queries, rows.k, rows.v, queries, c.heads, c.heads, problem.scale, visible);
}

TEST(ConformanceKitTest, AnswersAreThoseOfTheReference) {
    for (const auto& [problem, answer] : problems()) {
        const AttentionCase& c = problem.about;
        const Reading reading = read(problem);
        Index row = 0;
        for (Index r = 0; r < problem.requests(); ++r) {
            const RequestReading& request = reading.requests[static_cast<std::size_t>(r)];
            auto expected = reference_answer(problem, request, problem.queries_of(r));
            if (!problem.sinks.empty()) expected = reference::with_sinks(std::move(expected), reading.sinks);
            for (Index i = 0; i < request.queries.rows; ++i, ++row) {
                EXPECT_FALSE(!(detail::distance({&answer.lse[static_cast<std::size_t>(row)], 1},
                                                {&expected.lse.values[static_cast<std::size_t>(i)], 1}) <= 1e-12));
                const auto width = static_cast<std::size_t>(c.out_dim());
                EXPECT_FALSE(!(detail::distance({answer.out.row(row), width}, {expected.output.row(i), width}) <= 1e-11))
                    << c.name;
            }
        }
    }
}

}  // namespace
}  // namespace mla::testing
