// Problems and results as safetensors files, for ports that are not in C++: a file a problem, named by its case and layout.
//
//     queries       F32 [T, H, Dc+Dr]     exact in bf16 and fp16; of an expanded case (nope_dim > 0) [T, H, Dn+Dr]
//     kv_b          F32 [H, Dn+Dv, Dc]    of an expanded case, W_UK above W_UV; exact likewise
//     memory        U8  [rows, row bytes] cached rows; what belongs to no token holds NaN
//     block_tables  I32 [R, entries]      with pages; entries that no token uses name no page
//     first_rows    I64 [R]               without pages: where a request's rows begin
//     lengths       I32 [R]   query_begin I32 [R + 1]
//     sinks         F32 [H]   selection   I32 [T, k]   tree_<r> U8 [T_r, T_r]   where the case has them
//     expected_out  F64 [T, H, Dc], expanded [T, H, Dv]   expected_lse F64 [T, H]: natural logarithms, −inf for rows without keys
//
// The metadata's `mla_vector` is JSON: schema, case, tier, kind of row, page_size, heads, dimensions, scale, row_bytes,
// and where the parts of a row lie. A port answers with a file of the same name: `out` like expected_out, of F64, F32, F16 or
// BF16, and, if it has one, `lse` [T, H], of F64 or F32.
#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "mla/io/safetensors.hpp"
#include "mla/io/safetensors_writer.hpp"
#include "mla/testing/conformance/port.hpp"

namespace mla::inline MLA_ISA::testing {

inline constexpr int vector_schema = 1;

/// "<case>.<kind of row>[.pages_<size>]", without an extension.
[[nodiscard]] inline std::string vector_name(const AttentionCase& c, const CacheLayout& layout) {
    const std::string pages = layout.page_size > 0 ? ".pages_" + std::to_string(layout.page_size) : "";
    return c.name + "." + std::string(name(layout.kind)) + pages;
}

namespace detail {

template <class T>
[[nodiscard]] io::StoredTensor stored(std::string name, const char* dtype, std::vector<Index> shape, const T* values) {
    Index count = 1;
    for (const Index extent : shape) count *= extent;
    return {std::move(name), dtype, std::move(shape), io::as_bytes(values, count)};
}

[[nodiscard]] inline nlohmann::json vector_metadata(const AttentionProblem& problem) {
    const AttentionCase& c = problem.about;
    const reference::RowGeometry& row = problem.row;
    return {{"schema", vector_schema},
            {"case", c.name},
            {"tier", name(c.tier)},
            {"seed", std::to_string(seed_of(c))},
            {"kind", name(problem.layout.kind)},
            {"page_size", problem.layout.page_size},
            {"heads", c.heads},
            {"latent_dim", c.latent_dim},
            {"rope_dim", c.rope_dim},
            {"nope_dim", c.nope_dim},
            {"value_dim", c.value_dim},
            {"scale", problem.scale},
            {"row_bytes", problem.row_bytes},
            {"narrow_values", row.narrow()},
            {"values_per_scale", row.group()},
            {"scale_offset", row.scale_offset()},
            {"wide_offset", row.wide_offset()}};
}

}  // namespace detail

/// The tensors of a problem with its answer.
[[nodiscard]] inline std::vector<io::StoredTensor> vector_tensors(const AttentionProblem& problem, const Results& answer) {
    const Index T = problem.tokens(), H = problem.about.heads, R = problem.requests();
    std::vector<io::StoredTensor> tensors;
    const auto add = [&](const char* name, const char* dtype, std::vector<Index> shape, const auto* values) {
        tensors.push_back(detail::stored(name, dtype, std::move(shape), values));
    };
    add("queries", "F32", {T, H, problem.about.query_dim()}, problem.queries.data());
    add("memory", "U8", {static_cast<Index>(problem.memory.size()) / problem.row_bytes, problem.row_bytes},
        problem.memory.data());
    add("lengths", "I32", {R}, problem.lengths.data());
    add("query_begin", "I32", {R + 1}, problem.query_begin.data());
    if (problem.paged()) {
        add("block_tables", "I32", {R, problem.table_width}, problem.block_tables.data());
    } else {
        const std::vector<std::int64_t> first(problem.first_rows.begin(), problem.first_rows.end());
        add("first_rows", "I64", {R}, first.data());
    }
    if (problem.about.expanded())
        add("kv_b", "F32", {H, problem.about.nope_dim + problem.about.value_dim, problem.about.latent_dim}, problem.kv_b.data());
    if (!problem.sinks.empty()) add("sinks", "F32", {H}, problem.sinks.data());
    if (problem.about.selected > 0) add("selection", "I32", {T, problem.about.selected}, problem.selection.data());
    for (std::size_t r = 0; r < problem.trees.size(); ++r) {
        const Index queries = problem.queries_of(static_cast<Index>(r));
        add(("tree_" + std::to_string(r)).c_str(), "U8", {queries, queries}, problem.trees[r].data());
    }
    add("expected_out", "F64", {T, H, problem.about.out_dim()}, answer.out.values.data());
    add("expected_lse", "F64", {T, H}, answer.lse.data());
    return tensors;
}

/// @throws std::system_error when the file cannot be written
inline void write_vector(const std::filesystem::path& folder, const AttentionCase& c, const CacheLayout& layout) {
    const AttentionProblem problem = make_problem(c, layout);
    const Results answer = solve(read(problem), c.out_dim());
    io::write_safetensors(folder / (vector_name(c, layout) + ".safetensors"), vector_tensors(problem, answer),
                          {{"mla_vector", detail::vector_metadata(problem).dump()}});
}

/// How results were made: what their numbers are, beside their type.
struct ResultReading {
    Rounding rounding = {};
    LseReport lse = LseReport::natural;
    double lse_without_keys = -std::numeric_limits<double>::infinity();
};

namespace detail {

/// A result's values; `roundoff` becomes that of its type.
/// @throws io::SafetensorsError when it is missing, of another type or shape
[[nodiscard]] inline std::vector<double> result_values(const io::Safetensors& file, const char* tensor,
                                                       const std::vector<Index>& shape, double& roundoff) {
    const io::TensorInfo& info = file.info(tensor);
    if (std::vector<Index>(info.shape.begin(), info.shape.end()) != shape)
        io::detail::throw_safetensors(file.name(), std::string("tensor '") + tensor + "'", io::detail::list_text(info.shape),
                                      io::detail::list_text(shape));
    const std::span<const std::byte> bytes = file.bytes(tensor);
    const auto values = [&](std::size_t size, auto&& value) {
        std::vector<double> read;
        for (std::size_t at = 0; at < bytes.size(); at += size) read.push_back(value(bytes.data() + at));
        return read;
    };
    using reference::detail::load;
    if (info.dtype == "F64") return values(8, [](const std::byte* from) { return load<double>(from); });
    if (info.dtype == "F32") return values(4, [](const std::byte* from) { return static_cast<double>(load<float>(from)); });
    const bool half = info.dtype == "F16";
    if (!half && info.dtype != "BF16")
        io::detail::throw_safetensors(file.name(), std::string("tensor '") + tensor + "'", info.dtype, "F64, F32, F16 or BF16");
    roundoff = half ? 0x1p-11 : 0x1p-8;
    const reference::FloatLayout layout = half ? reference::fp16_layout : reference::bf16_layout;
    return values(2, [=](const std::byte* from) { return reference::value_of(layout, load<std::uint16_t>(from)); });
}

}  // namespace detail

/// Holds a port's result, a file with `out` and perhaps `lse`, against the problem.
/// @throws io::CheckpointError or std::system_error when the file is none, or lacks or misshapes what it must hold
[[nodiscard]] inline PortJudgement judge_result(const std::filesystem::path& result, const AttentionProblem& problem,
                                                const ResultReading& reading) {
    const io::Safetensors file(result);
    Rounding rounding = reading.rounding;
    const Index T = problem.tokens(), H = problem.about.heads;
    const std::vector<double> out = detail::result_values(file, "out", {T, H, problem.about.out_dim()}, rounding.outputs);
    std::vector<double> lse;
    if (reading.lse != LseReport::none && file.contains("lse")) {
        if (const std::string& dtype = file.info("lse").dtype; dtype != "F64" && dtype != "F32")
            io::detail::throw_safetensors(file.name(), "tensor 'lse'", dtype, "F64 or F32");
        double exact = 0.0;
        lse = detail::natural_lse(reading.lse, reading.lse_without_keys, detail::result_values(file, "lse", {T, H}, exact));
    }
    return judge_found(problem, solve(problem), rounding, {out, lse});
}

}  // namespace mla::inline MLA_ISA::testing
