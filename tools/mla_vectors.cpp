// Conformance vectors for ports that are not in C++: writes problems as safetensors files, and holds a folder of results against
// their answers. docs/ports.md shows how.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "mla/testing/conformance/vectors.hpp"

namespace {

namespace fs = std::filesystem;
using mla::testing::AttentionCase;
using mla::testing::CacheLayout;
using mla::testing::LseReport;
using mla::testing::Tier;

constexpr const char* usage =
    "usage: mla_vectors write FOLDER [--tier small|standard|stress] [--case NAME] [--kind KIND] [--pages 0|1|16|64]\n"
    "       mla_vectors check FOLDER [--json FILE] [--sums fp32|fp64|bf16] [--probabilities exact|bf16|fp16]\n"
    "                                [--lse natural|base2|none] [--lse-without-keys -inf|inf]\n"
    "write: a file for each case up to the tier (small), in every layout, or as the other options narrow it.\n"
    "check: every file of the folder is the result for the vector of its name; exits with 1 when one fails.\n"
    "KIND: fp64, fp32, bf16, fp16, int8, fp8 or fp8_v4\n";

/// What is wrong with the command line; the message is followed by the usage.
struct UsageError : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

struct Options {
    std::string verb;
    fs::path folder;
    fs::path json;
    Tier tier = Tier::small;
    std::string only_case;
    std::string kind;
    std::optional<mla::Index> pages;
    mla::testing::ResultReading reading;
};

template <class T>
T chosen(const std::string& option, const std::string& value, std::initializer_list<std::pair<const char*, T>> choices) {
    for (const auto& [name, choice] : choices)
        if (value == name) return choice;
    std::string names;
    for (const auto& [name, choice] : choices) names += (names.empty() ? "" : ", ") + std::string(name);
    throw UsageError(option + " is " + value + ", must be one of " + names);
}

void set_option(Options& options, const std::string& option, const std::string& value) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    const bool writes = options.verb == "write";
    if (writes && option == "--tier") {
        options.tier =
            chosen<Tier>(option, value, {{"small", Tier::small}, {"standard", Tier::standard}, {"stress", Tier::stress}});
    } else if (writes && option == "--case") {
        options.only_case = value;
    } else if (writes && option == "--kind") {
        options.kind = value;
    } else if (writes && option == "--pages") {
        options.pages = chosen<mla::Index>(option, value, {{"0", 0}, {"1", 1}, {"16", 16}, {"64", 64}});
    } else if (!writes && option == "--json") {
        options.json = value;
    } else if (!writes && option == "--sums") {
        options.reading.rounding.sums = chosen<double>(option, value, {{"fp32", 0x1p-24}, {"fp64", 0x1p-53}, {"bf16", 0x1p-8}});
    } else if (!writes && option == "--probabilities") {
        options.reading.rounding.probabilities =
            chosen<double>(option, value, {{"exact", 0.0}, {"bf16", 0x1p-8}, {"fp16", 0x1p-11}});
    } else if (!writes && option == "--lse") {
        options.reading.lse = chosen<LseReport>(
            option, value, {{"natural", LseReport::natural}, {"base2", LseReport::base2}, {"none", LseReport::none}});
    } else if (!writes && option == "--lse-without-keys") {
        options.reading.lse_without_keys = chosen<double>(option, value, {{"-inf", -infinity}, {"inf", infinity}});
    } else {
        throw UsageError(option + " is no option of " + options.verb);
    }
}

Options parse(const std::vector<std::string>& arguments) {
    if (arguments.size() < 2) throw UsageError("what to do, and in which folder, is missing");
    Options options;
    options.verb = arguments[0];
    options.folder = arguments[1];
    if (options.verb != "write" && options.verb != "check") throw UsageError("'" + options.verb + "' is neither write nor check");
    for (std::size_t i = 2; i < arguments.size(); i += 2) {
        if (i + 1 == arguments.size()) throw UsageError(arguments[i] + " lacks its value");
        set_option(options, arguments[i], arguments[i + 1]);
    }
    return options;
}

struct Vector {
    AttentionCase about;
    CacheLayout layout;
};

std::vector<Vector> all_vectors() {
    std::vector<Vector> vectors;
    for (const AttentionCase& c : mla::testing::attention_cases())
        if (!c.far_pages)  // a file would hold all that lies between them
            for (const CacheLayout& layout : mla::testing::cache_layouts()) vectors.push_back({c, layout});
    return vectors;
}

int write(const Options& options) {
    fs::create_directories(options.folder);
    int count = 0;
    for (const auto& [c, layout] : all_vectors()) {
        if (options.only_case.empty() ? c.tier > options.tier : c.name != options.only_case) continue;
        if (!options.kind.empty() && name(layout.kind) != options.kind) continue;
        if (options.pages && *options.pages != layout.page_size) continue;
        mla::testing::write_vector(options.folder, c, layout);
        ++count;
    }
    if (count == 0) throw UsageError("no vector is of that case, kind and page size");
    std::printf("%d vectors\n", count);
    return 0;
}

/// A result and what became of it. `status`: passed, failed, or error where the file could not be judged.
struct Checked {
    std::string vector;
    std::string status;
    std::string text;
    mla::testing::PortJudgement judged;
};

Checked check_one(const fs::path& file, const std::vector<Vector>& vectors, const Options& options) {
    const std::string stem = file.stem().string();
    const auto known = std::find_if(vectors.begin(), vectors.end(),
                                    [&](const Vector& v) { return mla::testing::vector_name(v.about, v.layout) == stem; });
    if (known == vectors.end()) return {stem, "error", file.string() + ": no vector is called that", {}};
    try {
        const auto problem = mla::testing::make_problem(known->about, known->layout);
        mla::testing::PortJudgement judged = mla::testing::judge_result(file, problem, options.reading);
        if (judged.judgement.passed) return {stem, "passed", "", std::move(judged)};
        std::string text = mla::testing::report(problem, judged.judgement, judged.diagnoses);
        return {stem, "failed", std::move(text), std::move(judged)};
    } catch (const std::exception& error) {
        return {stem, "error", error.what(), {}};
    }
}

/// Numbers that JSON has no spelling for become strings.
nlohmann::json number(double value) {
    if (std::isfinite(value)) return value;
    return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

nlohmann::json as_json(const Checked& checked) {
    nlohmann::json json{{"vector", checked.vector}, {"status", checked.status}};
    if (checked.status == "error") json["message"] = checked.text;
    if (checked.status == "error") return json;
    const mla::testing::Judgement& judgement = checked.judged.judgement;
    json["wrong"] = judgement.wrong;
    json["error_norm"] = number(judgement.error_norm);
    json["norm_bound"] = number(judgement.norm_bound);
    if (const auto& worst = judgement.worst)
        json["worst"] = {{"query", worst->query},
                         {"head", worst->head},
                         {"value", worst->value < 0 ? nlohmann::json("lse") : nlohmann::json(worst->value)},
                         {"expected", number(worst->expected)},
                         {"found", number(worst->found)},
                         {"bound", number(worst->bound)}};
    json["diagnoses"] = checked.judged.diagnoses;
    return json;
}

int check(const Options& options) {
    const std::vector<Vector> vectors = all_vectors();
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(options.folder))
        if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    if (files.empty()) throw UsageError(options.folder.string() + " holds no results");
    nlohmann::json results = nlohmann::json::array();
    mla::testing::Diagnoses diagnoses;
    int passed = 0;
    for (const fs::path& file : files) {
        const Checked checked = check_one(file, vectors, options);
        passed += checked.status == "passed" ? 1 : 0;
        diagnoses.add(checked.judged.diagnoses);
        std::printf("%-6s %s\n", checked.status.c_str(), checked.text.empty() ? checked.vector.c_str() : checked.text.c_str());
        results.push_back(as_json(checked));
    }
    const int failed = static_cast<int>(files.size()) - passed;
    std::printf("%d of %zu passed\n", passed, files.size());
    const auto [likely, explained] = diagnoses.most_likely();
    if (explained > 0) std::printf("most likely: %s (explains %d)\n", likely.c_str(), explained);
    if (!options.json.empty()) {
        std::ofstream out(options.json);
        out << nlohmann::json{{"schema", mla::testing::vector_schema},
                              {"passed", passed},
                              {"failed", failed},
                              {"most_likely", likely},
                              {"explains", explained},
                              {"results", results}}
                   .dump(2)
            << '\n';
        out.close();
        if (!out) throw std::runtime_error("cannot write " + options.json.string());
    }
    return failed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) try {
    const Options options = parse({argv + 1, argv + argc});
    return options.verb == "write" ? write(options) : check(options);
} catch (const UsageError& error) {
    std::fprintf(stderr, "mla_vectors: %s\n%s", error.what(), usage);
    return 2;
} catch (const std::exception& error) {
    std::fprintf(stderr, "mla_vectors: %s\n", error.what());
    return 2;
}
