#!/usr/bin/env python3
"""Writes the golden files beside this script: Hugging Face transformers' own attention modules, run on small random
layers. Versions are pinned in requirements.txt and recorded in the files. Usage: python generate.py

A file holds the layer's weights under the names of mla::AttentionWeights, the input `x` [T, hidden] and its
`positions` [T], the output for the whole prompt (`y_whole`), chunk by chunk (`y_chunked`) and token by token
(`y_tokens`), each [T, hidden], and what transformers' cache holds after the whole prompt: `cache_latent` [T, Dc] and
`cache_rope` [T, Dr]. Interleaved rope keys lie permuted in that cache (the first of each pair, then the second), except
for DeepSeek-V2 and those that are not rotated; `cache_rope_layout` says which. Layers that select their keys also have `cache_index` [T, Di], as it lies in that
cache, and `selection` [T, index_topk] of the whole prompt: for each token the keys it attends to, −1 for none. The entry `golden` of the metadata is JSON: the config.json, the
chunks, and constants as the modules hold them. Of a layer that shares a cache the latents and rope keys are given, and the file says which layer of the model it is.
"""

import contextlib
import dataclasses
import importlib
import json
import math
import pathlib
import zlib

import torch
import transformers
from safetensors.torch import save_file
from transformers import DynamicCache

FOLDER = pathlib.Path(__file__).resolve().parent

# model type -> (module, prefix of its classes, name of its attention class)
CLASSES = {
    "axk1": ("axk1", "AXK1", "Attention"),
    "axk2": ("axk2", "AXK2", "Attention"),
    "bailing_hybrid": ("bailing_hybrid", "BailingHybrid", "Attention"),
    "deepseek_v2": ("deepseek_v2", "DeepseekV2", "Attention"),
    "deepseek_v3": ("deepseek_v3", "DeepseekV3", "Attention"),
    "deepseek_v32": ("deepseek_v32", "DeepseekV32", "Attention"),
    "dots3_note_text": ("dots3_note", "Dots3NoteText", "Attention"),
    "glm4_moe_lite": ("glm4_moe_lite", "Glm4MoeLite", "Attention"),
    "glm5_next_text": ("glm5_next", "Glm5NextText", "Attention"),
    "glm_moe_dsa": ("glm_moe_dsa", "GlmMoeDsa", "Attention"),
    "hy_v4": ("hy_v4", "HYV4", "Attention"),
    "kimi_linear": ("kimi_linear", "KimiLinear", "Attention"),
    "longcat_flash": ("longcat_flash", "LongcatFlash", "MLA"),
    "minicpm3": ("minicpm3", "MiniCPM3", "Attention"),
    "mistral4": ("mistral4", "Mistral4", "Attention"),
    "mistral_large4_text": ("mistral_large4", "MistralLarge4Text", "Attention"),
    "youtu": ("youtu", "Youtu", "Attention"),
}

# What transformers' modules call a tensor, where it is not the name in mla::AttentionWeights.
TENSORS = {
    "q_a_proj.bias": "q_a_bias",
    "kv_a_proj_with_mqa.bias": "kv_a_bias",
    "o_proj.bias": "o_bias",
    "indexer.k_norm.bias": "indexer.k_norm_bias",
    "g_proj.weight": "gate_proj",
    "k_rope_only_layernorm.weight": "k_rope_layernorm",
    "softmax_scaling.scale": "query_scale",
    "softmax_scaling.bias": "query_scale_bias",
    "indexer.softmax_scaling.scale": "indexer.query_scale",
    "indexer.softmax_scaling.bias": "indexer.query_scale_bias",
    "indexer.q_input_norm.bias": "indexer.q_input_norm_bias",
    "indexer.index_kpool_compress_gate": "indexer.pool_gate",
    "indexer.index_kpool_compress_ape": "indexer.pool_positions",
}

PUBLISHED_FIELDS = (
    "model_type hidden_size num_attention_heads num_key_value_heads q_lora_rank kv_lora_rank qk_nope_head_dim "
    "qk_rope_head_dim v_head_dim attention_bias rms_norm_eps max_position_embeddings rope_interleave rope_parameters "
    "num_hidden_layers head_dim layer_types index_topk index_head_dim index_n_heads indexer_types sliding_window per_layer_config "
    "no_rope_layers kv_source_layers index_kpool index_kpool_always_select_tail"
).split()


def yarn(**changes):
    return {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "original_max_position_embeddings": 4096,
            "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, **changes}


def plain(theta):
    return {"rope_type": "default", "rope_theta": theta}


def longrope(original):
    return {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": original,
            "short_factor": [1.0, 1.3, 2.1, 4.7], "long_factor": [1.1, 1.9, 5.3, 17.9]}


@dataclasses.dataclass
class Case:
    name: str
    model_type: str
    hidden: int
    heads: int
    q_lora: int | None
    kv_lora: int
    dims: tuple[int, int, int]  # Dn, Dr, Dv
    rope: dict
    chunks: list[int]
    options: dict = dataclasses.field(default_factory=dict)  # further fields of the configuration
    first_position: int = 0
    input_scale: float = 1.0
    weights: torch.dtype = torch.bfloat16  # values are exact in it and stored as it
    compute: torch.dtype = torch.float64
    layer: int = 0  # of the model; one that shares a cache attends to random latents


CASES = [
    # What V2-Lite is: no q_lora, YaRN, both magnitude coefficients 0.707.
    Case("v2_lite_yarn", "deepseek_v2", 45, 3, None, 20, (10, 8, 14), yarn(mscale=0.707, mscale_all_dim=0.707), [5, 1, 8]),
    Case("v2_q_lora_bias", "deepseek_v2", 44, 4, 18, 22, (12, 6, 10), plain(1e4), [3, 9, 1], {"attention_bias": True}),
    Case("v3_yarn", "deepseek_v3", 42, 5, 26, 20, (11, 12, 9), yarn(), [1, 7, 9]),
    # The magnitude of cos and sin, and that of the softmax scale, are both away from 1.
    Case("v3_yarn_mscale_ratio", "deepseek_v3", 39, 3, None, 27, (14, 8, 11), yarn(mscale=1.3, mscale_all_dim=0.6), [4, 4, 5],
         weights=torch.float32),
    # Without mscale_all_dim cos and sin take m(factor, 1), and the softmax scale stays.
    Case("v3_yarn_no_mscale", "deepseek_v3", 33, 2, 17, 16, (9, 10, 13),
         {k: v for k, v in yarn(factor=4.0, original_max_position_embeddings=64).items() if "mscale" not in k}, [6, 7]),
    # Kimi-K2: beta 1/1 makes the ramp of YaRN one dimension wide.
    Case("v3_yarn_beta_1", "deepseek_v3", 37, 3, 21, 19, (8, 12, 10), yarn(rope_theta=5e4, factor=32.0, beta_fast=1.0), [2, 11]),
    Case("v3_half_split", "deepseek_v3", 41, 4, None, 23, (13, 6, 8), plain(1e4), [8, 1, 6], {"rope_interleave": False}),
    # Small inputs, so that the eps of the latent norms decides: transformers' modules keep 1e-6.
    Case("v3_bias_eps", "deepseek_v3", 43, 3, 24, 18, (10, 10, 12), plain(5e4), [2, 3, 8],
         {"attention_bias": True, "rms_norm_eps": 1e-5}, input_scale=2e-3),
    Case("v3_far_positions", "deepseek_v3", 35, 3, 19, 17, (9, 8, 10), yarn(), [6, 1, 7], first_position=1_000_000),
    # As shipped: nothing patched, float32 from end to end.
    Case("v3_float32", "deepseek_v3", 42, 5, 26, 20, (11, 12, 9), yarn(), [1, 7, 9], compute=torch.float32),
    Case("glm4_moe_lite", "glm4_moe_lite", 38, 5, 15, 22, (12, 8, 17), plain(1e6), [9, 2, 3], {"rms_norm_eps": 1e-5},
         input_scale=2e-3),
    Case("longcat_flash", "longcat_flash", 48, 3, 14, 21, (10, 8, 12), plain(1e7), [3, 1, 9], {"rms_norm_eps": 1e-5}),
    Case("minicpm3", "minicpm3", 40, 4, 20, 18, (9, 8, 10), longrope(64), [7, 1, 5],
         {"rms_norm_eps": 1e-5, "max_position_embeddings": 64}),
    # Beyond the original context: the long factors, and cos and sin scaled.
    Case("minicpm3_long", "minicpm3", 40, 4, None, 18, (9, 8, 7), longrope(64), [6, 7], {"max_position_embeddings": 512},
         first_position=200),
    Case("youtu", "youtu", 34, 3, 16, 18, (10, 8, 9), plain(1.6e6), [4, 1, 6]),
    Case("axk1", "axk1", 36, 3, 17, 19, (9, 10, 8), yarn(factor=8.0, mscale=0.8), [3, 8]),
    Case("kimi_linear", "kimi_linear", 38, 4, None, 21, (11, 8, 10), plain(1e4), [5, 1, 7],
         {"layer_types": ["full_attention"], "num_hidden_layers": 1}),
    Case("bailing_hybrid", "bailing_hybrid", 40, 4, None, 20, (10, 8, 12), yarn(factor=4.0), [6, 1, 4],
         {"layer_types": ["full_attention"], "num_hidden_layers": 1}),
    # Sparse: from token index_topk on each attends to fewer keys than are before it. Heads enough that no two keys score 0, all
    # products being negative: of equal scores torch chooses as it likes.
    Case("deepseek_v32", "deepseek_v32", 42, 3, 22, 20, (11, 8, 9), yarn(), [9, 1, 12],
         {"index_topk": 6, "index_n_heads": 9, "index_head_dim": 14, "num_hidden_layers": 1}),
    Case("glm_moe_dsa", "glm_moe_dsa", 40, 4, 19, 18, (13, 6, 10), plain(1e6), [4, 1, 15],
         {"index_topk": 5, "index_n_heads": 8, "index_head_dim": 10, "num_hidden_layers": 1, "rms_norm_eps": 1e-5,
          "attention_bias": True}),
    Case("axk2", "axk2", 36, 3, 18, 16, (8, 6, 10), yarn(factor=4.0, original_max_position_embeddings=64), [7, 1, 10],
         {"index_topk": 4, "index_n_heads": 8, "index_head_dim": 12, "num_hidden_layers": 1}),
    Case("hy_v4", "hy_v4", 38, 4, 20, 17, (9, 8, 11), plain(1e4), [1, 9, 8],
         {"index_topk": 5, "index_n_heads": 7, "index_head_dim": 16, "num_hidden_layers": 1}, input_scale=2e-2),
    Case("dots3_note", "dots3_note_text", 44, 3, 20, 22, (10, 8, 12), {"indexed_attention": plain(8e7)}, [6, 1, 11],
         {"index_topk": 5, "index_n_heads": 10, "index_head_dim": 12, "num_hidden_layers": 1, "head_dim": 18,
          "layer_types": ["indexed_attention"]}),
    Case("dots3_note_sliding", "dots3_note_text", 44, 3, 20, 22, (10, 8, 12), {"sliding_attention": plain(5e4)}, [6, 1, 11],
         {"num_hidden_layers": 1, "head_dim": 18, "layer_types": ["sliding_attention"], "sliding_window": 4,
          "per_layer_config": {0: {"num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 17, "kv_lora_rank": 15, "head_dim": 20,
                                   "qk_nope_head_dim": 14, "qk_rope_head_dim": 6, "v_head_dim": 9}}}),
    # Pools of tokens are selected, and those after the last whole one.
    Case("glm5_next", "glm5_next_text", 40, 4, 19, 18, (13, 0, 10), plain(1e4), [5, 1, 2, 16],
         {"index_topk": 9, "index_n_heads": 8, "index_head_dim": 10, "index_kpool": 3, "num_hidden_layers": 1,
          "layer_types": ["indexed_attention"], "indexer_types": ["full"]}),
    # Learned frequencies, and queries scaled by the logarithm of their position; then a layer in which nothing is rotated.
    Case("mistral_large4", "mistral_large4_text", 40, 3, None, 18, (10, 8, 11),
         {**yarn(factor=16.0, original_max_position_embeddings=32), "attention_factor": 1.0, "mscale": None, "mscale_all_dim": None},
         [6, 1, 10], {"index_topk": 5, "index_n_heads": 8, "index_head_dim": 12, "num_hidden_layers": 1, "no_rope_layers": [1]}),
    Case("mistral_large4_nope", "mistral_large4_text", 40, 3, None, 18, (10, 8, 11), plain(1e4),
         [6, 1, 10], {"index_topk": 5, "index_n_heads": 8, "index_head_dim": 12, "num_hidden_layers": 1, "no_rope_layers": [0]}),
    Case("mistral_large4_shared", "mistral_large4_text", 40, 3, None, 18, (10, 8, 11), plain(1e4),
         [6, 1, 10], {"index_topk": 5, "index_n_heads": 8, "index_head_dim": 12, "num_hidden_layers": 2, "no_rope_layers": [1, 1],
                      "kv_source_layers": [0, 0], "indexer_types": ["full", "full"]}, layer=1),
    # The query scale steps up at every multiple of the original context, 8 here. YaRN's ramp has no width: at such a
    # context and beta both of its ends are 0.
    Case("mistral4", "mistral4", 36, 3, 22, 19, (10, 8, 11),
         yarn(factor=16.0, original_max_position_embeddings=8, beta_fast=2.0, beta_slow=2.0, llama_4_scaling_beta=0.1),
         [5, 6, 6]),
]


@contextlib.contextmanager
def float32_means_float64():
    """transformers names float32 in its norms, softmax and rotary angles; within this, that name means double."""
    saved = torch.float32, torch.float, torch.Tensor.float, torch.get_default_dtype()
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = saved[:3]
        torch.set_default_dtype(saved[3])


def make_config(case):
    module, prefix, _ = CLASSES[case.model_type]
    config_class = getattr(importlib.import_module(f"transformers.models.{module}.configuration_{module}"), prefix + "Config")
    rope_parameters = {key: dict(value) if isinstance(value, dict) else value for key, value in case.rope.items()}
    nope, rope, value = case.dims
    fields = dict(hidden_size=case.hidden, num_attention_heads=case.heads, num_key_value_heads=case.heads,
                  q_lora_rank=case.q_lora, kv_lora_rank=case.kv_lora, qk_nope_head_dim=nope, qk_rope_head_dim=rope,
                  v_head_dim=value, max_position_embeddings=163840, rope_parameters=rope_parameters)
    if case.model_type == "longcat_flash":
        fields["head_dim"] = rope
    config = config_class(**{**fields, **case.options})
    config._attn_implementation = "eager"
    return config


def make_layer(case, config):
    """The attention and rotary modules of transformers, with random weights."""
    module, prefix, attention = CLASSES[case.model_type]
    modeling = importlib.import_module(f"transformers.models.{module}.modeling_{module}")
    layer = getattr(modeling, prefix + attention)(config, layer_idx=case.layer).eval()
    generator = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))
    for name, parameter in sorted(layer.named_parameters()):
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if "norm.weight" in name:
            values = 1.0 + 0.2 * values
        elif name == "sinks":
            pass
        elif "softmax_scaling" in name:
            values = 0.3 * values + (1.0 if name.endswith("bias") else 0.0)
        elif name.endswith("bias"):
            values = 0.1 * case.input_scale * values
        else:
            values = values / math.sqrt(parameter.shape[1])
        with torch.no_grad():
            parameter.copy_(values.to(case.weights))
    x = torch.randn((sum(case.chunks), case.hidden), generator=generator, dtype=torch.float64) * case.input_scale
    rotary = getattr(modeling, prefix + "RotaryEmbedding", None)
    rotary = rotary and rotary(config)
    if hasattr(rotary, "alpha"):
        rotary.alpha.copy_(0.5 * torch.randn(rotary.alpha.shape, generator=generator, dtype=torch.float64))
    return layer, rotary, x.to(torch.bfloat16).to(case.compute)


def rotations(layer, rotary, tokens, position_ids):
    """The cosines and sines that a layer is called with, where it is called with some."""
    if rotary is None:
        return {}
    if hasattr(rotary, "layer_types"):
        return {"position_embeddings": rotary(tokens, position_ids, rotary.layer_types[0])}
    return {"position_embeddings": rotary(tokens, position_ids)}


def shared_rows(layer, x):
    """What a layer that shares a cache finds there: latents [T, Dc] and rotated rope keys [T, Dr]; nothing for any other."""
    if not getattr(layer, "is_kv_shared_layer", False):
        return None
    generator = torch.Generator().manual_seed(20)
    return tuple(torch.randn((len(x), dim), generator=generator, dtype=torch.float64).to(torch.bfloat16).to(x.dtype)
                 for dim in (layer.kv_lora_rank, layer.qk_rope_head_dim))


def run(layer, rotary, x, positions, chunks):
    """Feeds the tokens in the given chunks; returns the outputs [T, hidden] and the cache."""
    rows = shared_rows(layer, x)
    sparse = getattr(layer, "indexer", None) is not None
    cache = DynamicCache(config=layer.config) if sparse else DynamicCache()
    window = getattr(layer, "sliding_window", None)
    outputs = []
    begin = 0
    for count in chunks:
        tokens = x[None, begin:begin + count]
        position_ids = positions[None, begin:begin + count]
        visible = torch.ones(count, begin + count, dtype=torch.bool).tril(begin)  # bottom right
        if window:
            visible &= ~torch.ones_like(visible).tril(begin - window)
        mask = torch.zeros(visible.shape, dtype=x.dtype).masked_fill(~visible, -math.inf)
        pools = hasattr(getattr(layer, "indexer", None), "index_kpool")
        given = torch.ones(1, count, dtype=torch.bool) if pools else mask[None, None]
        shared = {"rope": tuple(part[None, None, :begin + count] for part in rows)} if rows else {}
        output, *_ = layer(hidden_states=tokens, attention_mask=given, past_key_values=cache,
                           position_ids=position_ids, shared_kv_states=shared, **rotations(layer, rotary, tokens, position_ids))
        outputs.append(output[0])
        begin += count
    return torch.cat(outputs), cache.layers[layer.layer_idx if rows else 0]


@contextlib.contextmanager
def selections(layer):
    """Within this the indices that a layer's indexer chooses are gathered."""
    gathered = []
    if getattr(layer, "indexer", None) is None:
        yield gathered
        return
    hook = layer.indexer.register_forward_hook(lambda module, inputs, chosen: gathered.append(chosen[0]))
    try:
        yield gathered
    finally:
        hook.remove()


def visible_selection(chosen, config):
    """The indices of each query of a whole prompt that it may see, ascending, then −1."""
    pool = getattr(config, "index_kpool", 1)
    rows = torch.full((len(chosen), config.index_topk + pool - 1), -1, dtype=torch.int64)
    for t, row in enumerate(chosen.tolist()):
        kept = sorted(index for index in row if 0 <= index <= t)
        assert len(kept) == min((t + 1) // pool * pool, config.index_topk) + (t + 1) % pool
        rows[t, :len(kept)] = torch.tensor(kept)
    return rows


def rope_of(case):
    """The one rope of the layer's type."""
    return case.rope if "rope_type" in case.rope else next(iter(case.rope.values()))


def inverse_frequencies(case, dim):
    """The rope frequencies by the formulas, without torch."""
    rope = rope_of(case)
    plain_frequencies = [rope["rope_theta"] ** (-2.0 * i / dim) for i in range(dim // 2)]
    if rope["rope_type"] == "default":
        return plain_frequencies
    original = rope["original_max_position_embeddings"]
    if rope["rope_type"] == "longrope":
        factors = rope["long_factor" if case.first_position >= original else "short_factor"]
        return [f / factor for f, factor in zip(plain_frequencies, factors)]

    def dimension(rotations):
        return dim * math.log(original / (2.0 * math.pi * rotations)) / (2.0 * math.log(rope["rope_theta"]))

    low = max(math.floor(dimension(rope["beta_fast"])), 0)
    high = min(math.ceil(dimension(rope["beta_slow"])), dim - 1)
    high += 0.001 if low == high else 0.0
    ramps = [min(max((i - low) / (high - low), 0.0), 1.0) for i in range(dim // 2)]
    return [f / rope["factor"] * ramp + f * (1.0 - ramp) for f, ramp in zip(plain_frequencies, ramps)]


def relative_error(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def check_precision(case, config, layer, rotary, x, positions, whole):
    """That the run was one in double, and of the same layer that transformers ships."""
    assert whole.dtype == torch.float64
    if rotary is not None:
        named = f"{rotary.layer_types[0]}_inv_freq" if hasattr(rotary, "layer_types") else "inv_freq"
        frequencies = getattr(rotary, named)
        assert frequencies.dtype == torch.float64
        expected = torch.tensor(inverse_frequencies(case, 2 * len(frequencies)), dtype=torch.float64)
        assert ((frequencies - expected).abs() <= 4e-16 * expected).all(), case.name
    if hasattr(layer, "sinks"):  # which torch's own attention does not know
        return
    config._attn_implementation = "sdpa"
    assert relative_error(run(layer, rotary, x, positions, [len(x)])[0], whole) < 1e-14
    config._attn_implementation = "eager"


def check_shipped(case, whole):
    """Unpatched float32 gives the same to float32's precision (not at positions whose angles float32 cannot hold)."""
    if case.first_position >= 1_000_000:
        return
    layer, rotary, x = make_layer(case, make_config(case))
    positions = torch.arange(len(x)) + case.first_position
    with torch.no_grad():
        shipped, _ = run(layer, rotary, x.float(), positions, case.chunks)
    assert shipped.dtype == torch.float32 and relative_error(shipped, whole) < 2e-5, case.name


def compute(case):
    config = make_config(case)
    layer, rotary, x = make_layer(case, config)
    positions = torch.arange(len(x)) + case.first_position
    with torch.no_grad():
        with selections(layer) as chosen:
            whole, cache = run(layer, rotary, x, positions, [len(x)])
        chunked, _ = run(layer, rotary, x, positions, case.chunks)
        tokens, _ = run(layer, rotary, x, positions, [1] * len(x))
        if case.compute == torch.float64:
            check_precision(case, config, layer, rotary, x, positions, whole)
    for other in (chunked, tokens):
        assert relative_error(other, whole) < (1e-14 if case.compute == torch.float64 else 1e-6), case.name
    return config, layer, rotary, x, positions, (whole, chunked, tokens), cache, chosen


def write(case, config, layer, rotary, x, positions, outputs, cache, chosen):
    latent, rope = shared_rows(layer, x) or (cache.keys[0, 0], cache.values[0, 0])
    tensors = {"x": x.to(torch.bfloat16), "positions": positions, "cache_latent": latent.double(), "cache_rope": rope.double()}
    tensors |= {f"y_{name}": y.double() for name, y in zip(("whole", "chunked", "tokens"), outputs)}
    if chosen:
        width = config.index_head_dim * (2 if hasattr(config, "index_kpool") else 1)  # without what marks padding
        tensors["cache_index"] = cache.indexer_keys[0, :, :width].double()
        tensors["selection"] = visible_selection(chosen[0], config)
    if hasattr(rotary, "alpha"):
        tensors["rope_log_factors"] = rotary.alpha.double()
    for name, parameter in layer.named_parameters():
        tensors[TENSORS.get(name, name.removesuffix(".weight"))] = parameter.detach().to(case.weights)
    published = config.to_dict()
    about = {
        "config": {name: published[name] for name in PUBLISHED_FIELDS if name in published},
        "attention_class": type(layer).__name__,
        "compute": str(case.compute).removeprefix("torch."),
        "chunks": case.chunks,
        "softmax_scale": layer.scaling,
        "latent_norm_eps": getattr(layer.kv_a_layernorm, "variance_epsilon", config.rms_norm_eps),
        "cache_rope_layout": "pairs" if case.model_type in ("deepseek_v2", "kimi_linear") else "halves",
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    } | ({"layer": case.layer} if case.layer else {})
    # One metadata entry only: the writer does not keep the order of several.
    path = FOLDER / f"{case.name}.safetensors"
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path,
              metadata={"golden": json.dumps(about, sort_keys=True)})
    return path.stat().st_size


def main():
    torch.set_num_threads(1)
    total = 0
    for case in CASES:
        if case.compute == torch.float64:
            with float32_means_float64():
                results = compute(case)
            check_shipped(case, results[5][0])
        else:
            results = compute(case)
        size = write(case, *results)
        total += size
        print(f"{case.name:24} {size:8} bytes, softmax scale {results[1].scaling:.6f}")
    print(f"{total} bytes in all")


if __name__ == "__main__":
    main()
