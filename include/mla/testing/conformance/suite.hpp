// The conformance kit as tests of GoogleTest. In a port's own program:
//
//     const int registered = mla::testing::register_conformance<MyPort>();
//
// at namespace scope; gtest_main does the rest. What the port does not support is skipped with the reason.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mla/testing/conformance/run_step.hpp"

namespace mla::inline MLA_ISA::testing {

/// The tier that MLA_CONFORMANCE_TIER names, small where it names none: cases up to it run.
/// @throws std::invalid_argument when it names another
[[nodiscard]] inline Tier wanted_tier() {
    const char* const value = std::getenv("MLA_CONFORMANCE_TIER");
    if (value == nullptr || *value == '\0') return Tier::small;
    for (const Tier tier : {Tier::small, Tier::standard, Tier::stress})
        if (std::string_view(value) == name(tier)) return tier;
    throw_invalid("MLA_CONFORMANCE_TIER", value, "small, standard or stress");
}

namespace detail {

/// What a port's cases came to, printed when all have run.
template <AttentionPort P>
class Summary : public ::testing::Environment {
  public:
    struct Counts {
        int ran = 0;
        int failed = 0;
        Diagnoses diagnoses;
    };
    /// Failures that are diagnosed: it takes a hundred times as long as to see them.
    static constexpr int diagnosed = 12;

    [[nodiscard]] static Counts& counts() {
        static Counts counts;
        return counts;
    }
    void TearDown() override {
        const Counts& all = counts();
        if (all.failed == 0) return;
        std::printf("%s: %d of %d cases failed\n", std::string(P::name).c_str(), all.failed, all.ran);
        const auto [name, explained] = all.diagnoses.most_likely();
        if (explained > 0)
            std::printf("%s: of the first %d, %d look like: %s\n", std::string(P::name).c_str(), std::min(all.failed, diagnosed),
                        explained, name.c_str());
    }
};

template <AttentionPort P>
class AttentionConformance : public ::testing::Test {
  public:
    AttentionConformance(AttentionCase c, const CacheLayout& layout) : case_(std::move(c)), layout_(layout) {}

    void TestBody() override {
        P port;
        if (const std::string reason = unsupported(port.supported(), case_, layout_); !reason.empty())
            GTEST_SKIP() << "not supported: " << reason;
        auto& counts = Summary<P>::counts();
        const AttentionProblem problem = make_problem(case_, layout_);
        const PortJudgement judged = judge_port(port, problem, solve(problem), counts.failed < Summary<P>::diagnosed);
        ++counts.ran;
        if (judged.judgement.passed) return;
        ++counts.failed;
        counts.diagnoses.add(judged.diagnoses);
        ADD_FAILURE() << report(problem, judged.judgement, judged.diagnoses);
    }

  private:
    AttentionCase case_;
    CacheLayout layout_;
};

/// Whether a port has the step of a problem.
template <class P, class Problem>
concept HasStep = requires(P& port, const Problem& problem) {
    run_step(port, problem);
};

/// How many cases a port supports, by the empty reason, and for what reasons it does not the others.
template <Port P>
[[nodiscard]] std::map<std::string, int> count_supported() {
    const Supported supported = P().supported();
    std::map<std::string, int> reasons;
    if constexpr (AttentionPort<P>)
        for (const AttentionCase& c : attention_cases()) {
            if (c.tier > wanted_tier()) continue;
            for (const CacheLayout& layout : cache_layouts()) ++reasons[unsupported(supported, c, layout)];
        }
    for_each_step([&]<class Problem>(const std::string&, const Problem& problem) {
        if constexpr (HasStep<P, Problem>) ++reasons[unsupported_step(supported, problem)];
    });
    if constexpr (SelectPort<P>) reasons[""] += static_cast<int>(select_problems().size());
    return reasons;
}

/// Fails for a port that supports nothing, whose cases would all be skipped; prints how many it supports, and why not the others.
template <Port P>
class SupportsSomething : public ::testing::Test {
  public:
    void TestBody() override {
        std::map<std::string, int> reasons = count_supported<P>();
        EXPECT_GT(reasons[""], 0) << "no case is supported";
        for (const auto& [reason, count] : reasons)
            std::printf("%s: %d cases%s%s\n", std::string(P::name).c_str(), count,
                        reason.empty() ? "" : " left out: ", reason.c_str());
    }
};

/// A step's problem, computed by a port and held against its answer.
template <Port P, class Problem>
class StepConformance : public ::testing::Test {
  public:
    StepConformance(std::string name, Problem problem) : name_(std::move(name)), problem_(std::move(problem)) {}

    void TestBody() override {
        P port;
        if (const std::string reason = unsupported_step(port.supported(), problem_); !reason.empty())
            GTEST_SKIP() << "not supported: " << reason;
        const std::vector<double> found = run_step(port, problem_);
        const StepAnswer answer = step_answer(port.supported(), problem_, found);
        const StepJudgement judgement = judge_step(answer, found);
        if (!judgement.passed()) ADD_FAILURE() << report(name_, answer, found, judgement);
    }

  private:
    std::string name_;
    Problem problem_;
};

/// A port's selection held against the scores.
template <SelectPort P>
class SelectConformance : public ::testing::Test {
  public:
    explicit SelectConformance(SelectProblem problem) : problem_(std::move(problem)) {}

    void TestBody() override {
        P port;
        std::vector<std::int32_t> selection(static_cast<std::size_t>(problem_.queries * problem_.top_k), -2);
        port.select(problem_, MatrixView<std::int32_t>(selection.data(), problem_.queries, problem_.top_k));
        if (const std::string wrong = judge_selection(problem_, selection); !wrong.empty()) ADD_FAILURE() << wrong;
    }

  private:
    SelectProblem problem_;
};

/// Registers the steps that a port has: calls add(name, factory of a test) for each problem.
template <Port P, class Add>
int register_steps(Add&& add) {
    int count = 0;
    for_each_step([&]<class Problem>(const std::string& step, const Problem& problem) {
        if constexpr (HasStep<P, Problem>) {
            const std::string name = step + "/" + problem.name;
            add(name, [=] { return static_cast<::testing::Test*>(new StepConformance<P, Problem>(name, problem)); });
            ++count;
        }
    });
    if constexpr (SelectPort<P>)
        for (const SelectProblem& problem : select_problems()) {
            add("select/" + problem.name, [=] { return static_cast<::testing::Test*>(new SelectConformance<P>(problem)); });
            ++count;
        }
    return count;
}

/// Registers every case in every layout, up to the wanted tier: calls add(name, factory of a test) for each.
template <AttentionPort P, class Add>
int register_cases(Add&& add) {
    ::testing::AddGlobalTestEnvironment(new Summary<P>());
    int count = 0;
    for (const AttentionCase& c : attention_cases()) {
        if (c.tier > wanted_tier()) continue;
        for (const CacheLayout& layout : cache_layouts()) {
            const std::string pages = layout.page_size > 0 ? "/pages_" + std::to_string(layout.page_size) : "";
            add(c.name + "/" + std::string(name(layout.kind)) + pages,
                [=] { return static_cast<::testing::Test*>(new AttentionConformance<P>(c, layout)); });
            ++count;
        }
    }
    return count;
}

}  // namespace detail

/// Registers as tests of a port what it computes: attention, every case in every layout, up to the tier that MLA_CONFORMANCE_TIER
/// names, "<port>.<case>/<kind of row>[/pages_<size>]"; and the steps around it, "<port>.<step>/<problem>". Returns how many.
template <Port P>
int register_conformance() {
    const std::string port = P::name;
    const auto add = [&](const std::string& test, auto make) {
        ::testing::RegisterTest(port.c_str(), test.c_str(), nullptr, nullptr, __FILE__, __LINE__, make);
    };
    add("SupportsSomething", [] { return static_cast<::testing::Test*>(new detail::SupportsSomething<P>()); });
    int count = detail::register_steps<P>(add);
    if constexpr (AttentionPort<P>) count += detail::register_cases<P>(add);
    return count;
}

}  // namespace mla::inline MLA_ISA::testing
