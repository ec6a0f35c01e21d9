#!/usr/bin/env python3
"""Compares presets.json, which the presets are tested against, with transformers' own classes.

`published` holds the attention fields of the model's config.json (or params.json); `expected` what transformers makes of
them: the shapes of the weights and constants of its modules, computed in double. Usage: python check_presets.py
[--write]; with --write it replaces `expected`.
"""

import copy
import importlib
import json
import re
import sys

import torch

from generate import CLASSES, FOLDER, float32_means_float64

TABLE = FOLDER / "presets.json"

# Presets whose model's geometry is the default of its configuration class; the other classes default to no such model.
DEFAULTS = ("deepseek_v3", "deepseek_v3_2", "minicpm3_4b", "longcat_flash", "glm_4_7_flash", "glm_5", "ax_k2_light", "hunyuan_4",
            "dots3_note", "dots3_note_sliding", "kimi_linear_48b", "ling_3")
GEOMETRY = ("hidden_size num_attention_heads num_key_value_heads q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim "
            "v_head_dim attention_bias rms_norm_eps").split()


def mistral4_fields(params):
    """Mistral's params.json under transformers' names. apply_scale false: no magnitude from YaRN."""
    assert params["yarn"]["apply_scale"] is False
    fields = {name: value for name, value in params.items() if name.endswith(("_rank", "_head_dim"))}
    yarn = params["yarn"]
    rope = {"rope_type": "yarn", "rope_theta": params["rope_theta"], "factor": yarn["factor"], "attention_factor": 1.0,
            "original_max_position_embeddings": yarn["original_max_position_embeddings"], "beta_fast": yarn["beta"],
            "beta_slow": yarn["alpha"], "llama_4_scaling_beta": params["llama_4_scaling"]["beta"]}
    return {**fields, "model_type": "mistral4", "hidden_size": params["dim"], "num_attention_heads": params["n_heads"],
            "num_key_value_heads": params["n_heads"], "rope_parameters": rope,
            "max_position_embeddings": params["max_position_embeddings"]}


def gate_dim(layer):
    """Outputs of the projection that makes an output gate, if there is one."""
    for name in ("g_proj", "gate_proj"):
        if hasattr(layer, name):
            return getattr(layer, name).weight.shape[0]
    return None


def from_transformers(name, published):
    fields = copy.deepcopy(published) if "model_type" in published else mistral4_fields(published)  # classes edit theirs
    model_type = fields.pop("model_type").replace("kimi_k2", "deepseek_v3")  # as transformers' own Kimi_K25Config does
    module, prefix, attention = CLASSES[model_type]
    package = f"transformers.models.{module}"
    config_class = getattr(importlib.import_module(f"{package}.configuration_{module}"), prefix + "Config")
    config = config_class(**fields)
    if name in DEFAULTS:
        for field in GEOMETRY:
            if field in fields:
                assert config.to_dict()[field] == config_class().to_dict()[field], f"{name}: {field} is not the class's default"
    modeling = importlib.import_module(f"{package}.modeling_{module}")
    with float32_means_float64():
        rotary = getattr(modeling, prefix + "RotaryEmbedding", lambda _: None)(config)
        with torch.device("meta"):
            layer = getattr(modeling, prefix + attention)(config, layer_idx=0)
    q_lora_rank = getattr(layer, "q_lora_rank", None)
    queries = layer.q_a_proj if q_lora_rank else layer.q_proj
    kv_lora_rank = layer.kv_a_layernorm.weight.shape[0]
    rope_dim = layer.kv_a_proj_with_mqa.weight.shape[0] - kv_lora_rank
    heads = layer.num_heads
    kind = f"{rotary.layer_types[0]}_" if hasattr(rotary, "layer_types") else ""
    frequencies = getattr(rotary, kind + "inv_freq") if rotary else []
    assert len(frequencies) in (0, rope_dim // 2) and layer.o_proj.weight.shape[0] == queries.weight.shape[1]
    rope = getattr(config, "rope_parameters", None) or {}
    value_dim = layer.o_proj.weight.shape[1] // heads
    indexer = getattr(layer, "indexer", None)
    if hasattr(layer, "q_gate_proj"):
        gate, query_dim = "with_query", layer.q_gate_proj.weight.shape[0] // heads - value_dim
    else:
        gate = {None: "none", heads: "per_head", heads * value_dim: "per_value"}[gate_dim(layer)]
        query_dim = (layer.q_b_proj if q_lora_rank else layer.q_proj).weight.shape[0] // heads
    return {
        "hidden_size": queries.weight.shape[1],
        "num_attention_heads": heads,
        "q_lora_rank": queries.weight.shape[0] if q_lora_rank else 0,
        "kv_lora_rank": kv_lora_rank,
        "qk_nope_head_dim": query_dim - rope_dim,
        "qk_rope_head_dim": rope_dim,
        "v_head_dim": value_dim,
        "attention_bias": layer.o_proj.bias is not None,
        "latent_norm_eps": layer.kv_a_layernorm.variance_epsilon,
        "query_multiplier": getattr(layer, "mla_scale_q_lora", getattr(layer, "q_lora_scale", 1.0)),
        "latent_multiplier": getattr(layer, "mla_scale_kv_lora", getattr(layer, "kv_lora_scale", 1.0)),
        "output_gate": gate,
        "sinks": hasattr(layer, "sinks"),
        "rope_key_norm": hasattr(layer, "k_rope_only_layernorm"),
        "sliding_window": getattr(layer, "sliding_window", None) or 0,
        "indexer": [indexer.index_topk, indexer.weights_proj.weight.shape[0], indexer.wk.weight.shape[0]] if indexer else [0, 0, 0],
        "index_norm_eps": indexer.k_norm.eps if indexer else 1e-6,
        "position_scale_beta": rope.get("llama_4_scaling_beta", 0.0),
        "position_scale_period": rope["original_max_position_embeddings"] if "llama_4_scaling_beta" in rope else 1,
        "rope_interleaved": model_type not in ("minicpm3", "hy_v4") and getattr(config, "rope_interleave", True),
        "rope_magnitude": getattr(rotary, kind + "attention_scaling") if rotary else 1.0,
        "inverse_frequencies": frequencies.tolist() if rotary else [],
        "softmax_scale": layer.scaling,
    }


def main():
    table = json.loads(TABLE.read_text())
    wrong = 0
    for name, entry in table.items():
        found = from_transformers(name, entry["published"])
        if "--write" in sys.argv:
            entry["expected"] = found
        elif found != entry["expected"]:
            differing = [field for field in found if found[field] != entry["expected"].get(field)]
            print(f"{name}: transformers differs in {', '.join(differing)}")
            wrong += 1
    if "--write" in sys.argv:
        text = json.dumps(table, indent=2)
        TABLE.write_text(re.sub(r"\[[^]]*\]", lambda numbers: " ".join(numbers[0].split()), text) + "\n")
    print(f"{len(table)} presets, {wrong} wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
