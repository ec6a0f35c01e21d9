// The golden files: layers that transformers' own attention modules computed (tests/golden/generate.py).
#pragma once

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "mla/config.hpp"
#include "mla/io/hf_config.hpp"
#include "mla/io/safetensors.hpp"
#include "mla/reference/matrix.hpp"
#include "mla/reference/weights.hpp"
#include "mla/weights.hpp"

namespace mla::golden {

/// The same tokens fed in pieces.
struct Run {
    std::string name;           ///< whole, chunked or tokens
    std::vector<Index> chunks;  ///< tokens a call, in order; their sum is T
    reference::Matrix y;        ///< [T, hidden], what transformers computed
};

struct Case {
    std::string name;
    Config config;                        ///< parsed from the file's config.json
    AttentionWeights weights;             ///< refers to `file`
    reference::Matrix x;                  ///< [T, hidden], every value exact in bf16
    std::vector<std::int64_t> positions;  ///< [T]
    std::vector<Run> runs;
    reference::Matrix cache;  ///< [T, Dc+Dr] after all tokens, or of the layer whose cache is shared; the rope key in the layout
                              ///< of config.rope.pairing
    reference::Matrix index_keys;  ///< [T, Di] after all tokens, of a layer with an indexer, in the layout of its pairing
    std::vector<std::vector<Index>> selection;  ///< [T] of the whole prompt, ascending, of a layer with an indexer
    bool in_double = true;                      ///< false: transformers ran unpatched in float32
    double softmax_scale = 0.0;                 ///< as transformers' module held it
    double latent_norm_eps = 0.0;               ///< as transformers' module held it
    std::shared_ptr<io::Safetensors> file;
};

/// Every golden file by its name without the extension, in order.
[[nodiscard]] inline std::vector<std::string> names() {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(MLA_GOLDEN_DIR))
        if (entry.path().extension() == ".safetensors") found.push_back(entry.path().stem().string());
    std::sort(found.begin(), found.end());
    return found;
}

namespace detail {

[[nodiscard]] inline std::vector<std::int64_t> read_integers(const io::Safetensors& file, const char* name) {
    if (file.info(name).dtype != "I64") throw std::runtime_error("golden: integers must be I64");
    const auto bytes = file.bytes(name);
    std::vector<std::int64_t> values(bytes.size() / sizeof(std::int64_t));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
}

/// Where value i of a rotated vector lies in transformers' cache, "halves": the first of all pairs, then the second.
[[nodiscard]] inline Index place_in_halves(Index i, Index dim) { return i % 2 * dim / 2 + i / 2; }

/// transformers' cache as one matrix [T, Dc+Dr]. "halves": the rope key holds the first of all pairs, then the second.
[[nodiscard]] inline reference::Matrix read_cache(io::Safetensors& file, const Config& config, const std::string& rope_layout) {
    const reference::Matrix latent = reference::to_matrix(file.tensor("cache_latent"));
    const reference::Matrix rope =
        config.qk_rope_head_dim > 0 ? reference::to_matrix(file.tensor("cache_rope")) : reference::Matrix(latent.rows, 0);
    const bool permuted = rope_layout == "halves" && config.rope.pairing == RopePairing::interleaved;
    reference::Matrix cache(latent.rows, config.cache_dim());
    for (Index t = 0; t < latent.rows; ++t) {
        std::copy_n(latent.row(t), latent.cols, cache.row(t));
        for (Index i = 0; i < rope.cols; ++i) cache(t, latent.cols + i) = rope(t, permuted ? place_in_halves(i, rope.cols) : i);
    }
    return cache;
}

/// transformers' index keys [T, Di] in the layout of the indexer's pairing; their first values are rotated, or their last.
[[nodiscard]] inline reference::Matrix read_index_keys(io::Safetensors& file, const Config& config) {
    const reference::Matrix cached = reference::to_matrix(file.tensor("cache_index"));
    if (config.indexer.pairing != RopePairing::interleaved) return cached;
    reference::Matrix keys = cached;
    for (Index t = 0; t < keys.rows; ++t)
        for (Index i = 0; i < config.qk_rope_head_dim; ++i) keys(t, i) = cached(t, place_in_halves(i, config.qk_rope_head_dim));
    return keys;
}

[[nodiscard]] inline std::vector<std::vector<Index>> read_selection(const io::Safetensors& file, Index top_k) {
    const auto values = read_integers(file, "selection");
    std::vector<std::vector<Index>> rows(values.size() / static_cast<std::size_t>(top_k));
    for (std::size_t i = 0; i < values.size(); ++i)
        if (values[i] >= 0) rows[i / static_cast<std::size_t>(top_k)].push_back(values[i]);
    return rows;
}

}  // namespace detail

/// @throws when the file is missing, malformed, or does not hold what its configuration calls for
[[nodiscard]] inline Case load(const std::string& name) {
    Case loaded;
    loaded.name = name;
    loaded.file = std::make_shared<io::Safetensors>(std::filesystem::path(MLA_GOLDEN_DIR) / (name + ".safetensors"));
    io::Safetensors& file = *loaded.file;
    const auto about = nlohmann::json::parse(file.metadata().at("golden"));
    loaded.config = io::parse_hf_layers(about.at("config")).at(about.value("layer", std::size_t{0})).value();
    if (file.contains("rope_log_factors") && loaded.config.qk_rope_head_dim > 0)
        loaded.config.rope.log_factors = reference::to_matrix(file.tensor("rope_log_factors")).values;
    for_each_tensor(loaded.config, loaded.weights,
                    [&](const char* tensor, TensorRef& weight, Index, Index) { weight = file.tensor(tensor); });
    validate(loaded.config, loaded.weights);
    loaded.x = reference::to_matrix(file.tensor("x"));
    loaded.positions = detail::read_integers(file, "positions");
    const Index tokens = loaded.x.rows;
    loaded.runs = {
        {"whole", {tokens}, reference::to_matrix(file.tensor("y_whole"))},
        {"chunked", about.at("chunks").get<std::vector<Index>>(), reference::to_matrix(file.tensor("y_chunked"))},
        {"tokens", std::vector<Index>(static_cast<std::size_t>(tokens), 1), reference::to_matrix(file.tensor("y_tokens"))}};
    loaded.cache = detail::read_cache(file, loaded.config, about.at("cache_rope_layout").get<std::string>());
    if (loaded.config.indexer.heads > 0) {
        loaded.index_keys = detail::read_index_keys(file, loaded.config);
        loaded.selection = detail::read_selection(file, loaded.config.indexer.most_selected());
    }
    loaded.in_double = about.at("compute").get<std::string>() == "float64";
    loaded.softmax_scale = about.at("softmax_scale").get<double>();
    loaded.latent_norm_eps = about.at("latent_norm_eps").get<double>();
    return loaded;
}

}  // namespace mla::golden
