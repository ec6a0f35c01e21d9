// What a port is to the conformance kit: a class that says what it supports and computes a problem.
#pragma once

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "mla/core/views.hpp"
#include "mla/testing/conformance/append_step.hpp"
#include "mla/testing/conformance/diagnosis.hpp"
#include "mla/testing/conformance/gradient_errors.hpp"
#include "mla/testing/conformance/layer_step.hpp"

namespace mla::inline MLA_ISA::testing {

/// How a port reports the log-sum-exp of a row.
enum class LseReport : std::uint8_t { none, natural, base2 };

/// What a port supports. What it does not is left out by name, and counted.
struct Supported {
    std::vector<reference::RowKind> kinds;
    std::function<bool(Index)> page_size = [](Index) { return true; };  ///< tokens a page; 0: rows in one piece
    /// What of a case's heads and dimensions is beyond the port, or nothing.
    std::function<std::string(const AttentionCase&)> geometry = [](const AttentionCase&) { return std::string(); };
    bool batches = true;          ///< several requests in a call
    bool several_queries = true;  ///< of a request: prompts, chunks, drafts
    bool fewer_keys = true;       ///< than queries, and requests without any
    bool sinks = true;
    bool trees = true;
    bool wild_tables = true;  ///< whether entries of a block table that no token uses may be anything
    bool selections = true;   ///< sparse attention
    bool absorbed = true;     ///< decode on the latents themselves
    bool expanded = false;    ///< prefill on keys and values that kv_b makes of them
    LseReport lse = LseReport::natural;
    double lse_without_keys = -std::numeric_limits<double>::infinity();  ///< as reported
    std::function<std::string(const Config&)> layer = [](const Config&) {
        return std::string();
    };  ///< what is beyond it, or nothing
    std::function<LayerRounding(const LayerProblem&)> layer_rounding = [](const LayerProblem&) { return LayerRounding{}; };
    std::function<GradientRounding(const GradientProblem&)> gradient_rounding = [](const GradientProblem&) {
        return GradientRounding{};
    };
    RopeInCache rope_in_cache = RopeInCache::as_given;  ///< of the rows that it appends
    std::function<Rounding(const AttentionProblem&)> rounding = [](const AttentionProblem&) { return Rounding{}; };
};

/// A port: `Output` is float or double, the type that it hands results over in. It computes attention, or steps around it
/// (run_step.hpp), or both.
template <class P>
concept Port = requires(P& port, typename P::Output output) {
    { P::name } -> std::convertible_to<std::string>;
    { port.supported() } -> std::same_as<Supported>;
};

/// `attend` writes out [T, H, out_dim] and lse [T, H] of a problem, which gives it everything that a kernel needs.
template <class P>
concept AttentionPort = Port<P> &&
    requires(P& port, const AttentionProblem& problem, HeadsView<typename P::Output> out, MatrixView<typename P::Output> lse) {
    port.attend(problem, out, lse);
};

/// Why a case in a layout is none for a port, or nothing.
[[nodiscard]] inline std::string unsupported(const Supported& port, const AttentionCase& c, const CacheLayout& layout) {
    const auto any = [&](auto&& f) { return std::any_of(c.requests.begin(), c.requests.end(), f); };
    if (std::find(port.kinds.begin(), port.kinds.end(), layout.kind) == port.kinds.end())
        return std::string(name(layout.kind)) + " rows";
    if (!port.page_size(layout.page_size))
        return layout.page_size == 0 ? "rows in one piece" : "pages of " + std::to_string(layout.page_size);
    if (!(c.expanded() ? port.expanded : port.absorbed)) return c.expanded() ? "the expanded form" : "the absorbed form";
    if (std::string reason = port.geometry(c); !reason.empty()) return reason;
    if (!port.batches && c.requests.size() > 1) return "batches";
    if (!port.several_queries && any([](const RequestSize& r) { return r.queries != 1; })) return "several queries a request";
    if (!port.fewer_keys && any([](const RequestSize& r) { return r.length < r.queries; })) return "fewer keys than queries";
    if (!port.sinks && c.sinks) return "sinks";
    if (!port.trees && c.tree) return "trees";
    if (c.far_pages && layout.page_size == 0) return "far pages without pages";
    if (!port.wild_tables && c.wild_table) return "wild entries of block tables";
    if (!port.selections && c.selected > 0) return "selections";
    return {};
}

namespace detail {

/// LSE as natural logarithms, −inf for rows without keys. `without_keys`: what is reported for those; another value's −inf is
/// none of a row with keys, and becomes NaN.
template <class Output>
[[nodiscard]] std::vector<double> natural_lse(LseReport report, double without_keys, const std::vector<Output>& reported) {
    std::vector<double> lse;
    if (report == LseReport::none) return lse;
    constexpr double none = -std::numeric_limits<double>::infinity();
    for (const Output output : reported) {
        const auto value = static_cast<double>(output);
        const double natural = value * (report == LseReport::base2 ? std::numbers::ln2 : 1.0);
        lse.push_back(value == without_keys ? none : value == none ? std::numeric_limits<double>::quiet_NaN() : natural);
    }
    return lse;
}

}  // namespace detail

/// How much of its results a port wrote.
enum class Written : std::uint8_t { all, not_all_lses, not_all_outputs, nothing };

[[nodiscard]] constexpr const char* diagnosis(Written written) noexcept {
    switch (written) {
        case Written::all: return "everything is written";
        case Written::not_all_lses: return "some LSEs are not written";
        case Written::not_all_outputs: return "some outputs are not written";
        case Written::nothing: return "nothing is written";
    }
    return "unknown";
}

/// What a port answered: outputs and natural logarithms, or none.
struct PortResult {
    std::vector<double> out;
    std::vector<double> lse;
    Written written = Written::all;

    [[nodiscard]] Found found() const noexcept { return {out, lse}; }
};

namespace detail {

/// What outputs hold before a port writes them: a NaN that no operation gives.
template <class Output>
[[nodiscard]] constexpr Output unwritten() noexcept {
    if constexpr (std::is_same_v<Output, double>)
        return std::bit_cast<double>(std::uint64_t{0x7ff8'1234'5678'9abc});
    else
        return std::bit_cast<float>(std::uint32_t{0x7fc1'2345});
}
/// `lse`: empty where none is reported.
template <class Output>
[[nodiscard]] Written what_is_written(const std::vector<Output>& out, const std::vector<Output>& lse) {
    const auto count = [](const std::vector<Output>& values) {
        constexpr Output before = unwritten<Output>();
        return static_cast<std::size_t>(std::count_if(
            values.begin(), values.end(), [&](const Output& value) { return std::memcmp(&value, &before, sizeof value) == 0; }));
    };
    if (!out.empty() && count(out) == out.size()) return Written::nothing;
    if (count(out) > 0) return Written::not_all_outputs;
    return count(lse) > 0 ? Written::not_all_lses : Written::all;
}

}  // namespace detail

/// Lets a port compute a problem, on outputs that hold NaN, with elements behind them that must stay as they are.
/// @throws std::runtime_error when the port wrote behind its outputs
template <AttentionPort P>
[[nodiscard]] PortResult run_port(P& port, const AttentionProblem& problem) {
    using Output = typename P::Output;
    constexpr std::size_t behind = 64;
    const auto sentinel = static_cast<Output>(-12345);
    const auto rows = static_cast<std::size_t>(problem.tokens() * problem.about.heads);
    const std::size_t values = rows * static_cast<std::size_t>(problem.about.out_dim());
    std::vector<Output> out(values, detail::unwritten<Output>());
    std::vector<Output> lse(rows, detail::unwritten<Output>());
    out.resize(values + behind, sentinel);
    lse.resize(rows + behind, sentinel);
    port.attend(problem, HeadsView<Output>(out.data(), problem.tokens(), problem.about.heads, problem.about.out_dim()),
                MatrixView<Output>(lse.data(), problem.tokens(), problem.about.heads));
    const auto kept = [&](const std::vector<Output>& array, std::size_t size) {
        return std::all_of(array.begin() + static_cast<Index>(size), array.end(), [&](Output v) { return v == sentinel; });
    };
    if (!kept(out, values) || !kept(lse, rows)) throw std::runtime_error(problem.about.name + ": written behind the outputs");
    out.resize(values);
    lse.resize(rows);
    const Supported supported = port.supported();
    if (supported.lse == LseReport::none) lse.clear();
    return {{out.begin(), out.end()},
            detail::natural_lse(supported.lse, supported.lse_without_keys, lse),
            detail::what_is_written(out, lse)};
}

/// How a port did on a problem, with what is likely wrong where it failed.
struct PortJudgement {
    Judgement judgement;
    std::vector<std::string> diagnoses;
};

/// `answer`: the problem's. `explained`: whether a failure is to be diagnosed, which takes a hundred times as long as to see it.
[[nodiscard]] inline PortJudgement judge_found(const AttentionProblem& problem, const Answer& answer, const Rounding& rounding,
                                               const Found& found, bool explained = true) {
    PortJudgement judged{judge(problem, answer, rounding, found), {}};
    if (!judged.judgement.passed && explained) judged.diagnoses = diagnose(problem, answer, rounding, found);
    return judged;
}

/// Lets a port compute a problem and judges what it found.
template <AttentionPort P>
[[nodiscard]] PortJudgement judge_port(P& port, const AttentionProblem& problem, const Answer& answer, bool explained = true) {
    const PortResult result = run_port(port, problem);
    PortJudgement judged = judge_found(problem, answer, port.supported().rounding(problem), result.found(),
                                       explained && result.written != Written::nothing);
    if (explained && result.written != Written::all) judged.diagnoses.emplace_back(diagnosis(result.written));
    return judged;
}

/// The layouts that every case is laid out in: each kind of row in one piece and in pages of 16, bf16 in pages of 1 and 64 too.
[[nodiscard]] inline std::vector<CacheLayout> cache_layouts() {
    std::vector<CacheLayout> layouts;
    for (const reference::RowKind kind : reference::row_kinds)
        for (const Index page_size : {0, 16}) layouts.push_back({kind, page_size});
    for (const Index page_size : {1, 64}) layouts.push_back({reference::RowKind::bf16, page_size});
    return layouts;
}

}  // namespace mla::inline MLA_ISA::testing
