#!/usr/bin/env python3
"""Writes the attention of a model with random weights as a Hugging Face checkpoint: real shapes and types, no training.

usage: write_checkpoint.py [--geometry deepseek_v2_lite|deepseek_v3|small] [--layers N] [--format FORMAT] FOLDER

A file a layer, and their index. Projections are bf16; fp8, e4m3 with one float32 scale a block of 128 x 128; fp8_channel or
int8_channel, with one float32 scale an output; or int4, eight to a word with one bf16 scale a group of 32, or of fewer where 32 does
not divide all rows. Needs nothing but Python: bytes are drawn, not values, from those that give weights of about the right size.
"""

import argparse
import json
import math
import random
import struct
from pathlib import Path

BLOCK = 128
GROUP = 32

GEOMETRIES = {
    # config.json of deepseek-ai/DeepSeek-V2-Lite
    "deepseek_v2_lite": {
        "hidden_size": 2048, "num_attention_heads": 16, "q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "rope_theta": 10000.0, "max_position_embeddings": 163840,
        "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1,
                         "mscale": 0.707, "mscale_all_dim": 0.707}},
    # config.json of deepseek-ai/DeepSeek-V3
    "deepseek_v3": {
        "model_type": "deepseek_v3", "hidden_size": 7168, "num_attention_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "rope_theta": 10000.0,
        "max_position_embeddings": 163840,
        "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1,
                         "mscale": 1.0, "mscale_all_dim": 1.0}},
    # Blocks of scales that are cut off on both sides, and heads that cross them.
    "small": {
        "hidden_size": 200, "num_attention_heads": 3, "q_lora_rank": 150, "kv_lora_rank": 140, "qk_nope_head_dim": 70,
        "qk_rope_head_dim": 10, "v_head_dim": 66, "rope_theta": 10000.0, "max_position_embeddings": 4096}}


def shapes(config):
    """(name, shape) of a layer's tensors."""
    hidden, heads, rank, latent = (config[key] for key in ("hidden_size", "num_attention_heads", "q_lora_rank", "kv_lora_rank"))
    nope, rope, value = (config[key] for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    if rank is None:
        yield "q_proj", (heads * (nope + rope), hidden)
    else:
        yield "q_a_proj", (rank, hidden)
        yield "q_a_layernorm", (rank,)
        yield "q_b_proj", (heads * (nope + rope), rank)
    yield "kv_a_proj_with_mqa", (latent + rope, hidden)
    yield "kv_a_layernorm", (latent,)
    yield "kv_b_proj", (heads * (nope + value), latent)
    yield "o_proj", (hidden, heads * value)


def bf16_weights(count, generator):
    """Magnitudes from 2^-7 to 2^-5, either sign: the upper byte is one of two, the lower any."""
    values = bytearray(2 * count)
    values[0::2] = generator.randbytes(count)
    values[1::2] = generator.randbytes(count).translate(bytes(0x3c if byte < 128 else 0xbc for byte in range(256)))
    return bytes(values)


def fp8_weights(count, generator):
    """Any e4m3 but the two NaN, whose root mean square is about 120."""
    return generator.randbytes(count).translate(bytes(byte if byte & 0x7f != 0x7f else byte - 1 for byte in range(256)))


def float_scales(shape, least, generator):
    """Float32 in [least, 2 least]."""
    count = math.prod(shape)
    return "F32", shape, struct.pack(f"<{count}f", *(generator.uniform(least, 2 * least) for _ in range(count)))


def bf16_matrix(shape, config, generator):
    yield "", "BF16", shape, bf16_weights(math.prod(shape), generator)


def fp8_matrix(shape, config, generator):
    yield "", "F8_E4M3", shape, fp8_weights(math.prod(shape), generator)
    yield "_scale_inv", *float_scales([(extent + BLOCK - 1) // BLOCK for extent in shape], 1e-4, generator)


def fp8_channel_matrix(shape, config, generator):
    yield "", "F8_E4M3", shape, fp8_weights(math.prod(shape), generator)
    yield "_scale", *float_scales([shape[0], 1], 1e-4, generator)


def int8_channel_matrix(shape, config, generator):
    """Any byte: the root mean square is about 74."""
    yield "", "I8", shape, generator.randbytes(math.prod(shape))
    yield "_scale", *float_scales([shape[0], 1], 2e-4, generator)


def int4_matrix(shape, config, generator):
    """Any half bytes, whose root mean square is about 4.6, and bf16 scales from 2^-9 to 2^-7."""
    rows, cols = shape
    words, groups = (cols + 7) // 8, cols // group_size(config)
    scales = bytearray(b"\x3b" * (2 * rows * groups))
    scales[0::2] = generator.randbytes(rows * groups)
    yield "_packed", "I32", [rows, words], generator.randbytes(4 * rows * words)
    yield "_scale", "BF16", [rows, groups], bytes(scales)
    yield "_shape", "I64", [2], struct.pack("<2q", rows, cols)


def group_size(config):
    return math.gcd(GROUP, *(shape[1] for _, shape in shapes(config) if len(shape) == 2))


def compressed_tensors(form, **weights):
    """As compressed-tensors says it in config.json."""
    group = {"targets": ["Linear"], "weights": {"symmetric": True, "dynamic": False, **weights}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}, "ignore": ["lm_head"]}


# What writes a matrix, as (end of the name, dtype, shape, bytes), and what config.json says of it.
FORMATS = {
    "bf16": (bf16_matrix, lambda config: None),
    "fp8": (fp8_matrix, lambda config: {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [BLOCK, BLOCK]}),
    "fp8_channel": (fp8_channel_matrix,
                    lambda config: compressed_tensors("float-quantized", num_bits=8, type="float", strategy="channel")),
    "int8_channel": (int8_channel_matrix,
                     lambda config: compressed_tensors("int-quantized", num_bits=8, type="int", strategy="channel")),
    "int4": (int4_matrix,
             lambda config: compressed_tensors("pack-quantized", num_bits=4, type="int", strategy="group",
                                               group_size=group_size(config)))}


def layer_tensors(config, layer, matrix, generator):
    """(name, dtype, shape, bytes)"""
    for name, shape in shapes(config):
        full = f"model.layers.{layer}.self_attn.{name}.weight"
        if len(shape) == 1:
            yield full, "BF16", shape, struct.pack("<H", 0x3f80) * shape[0]
            continue
        for end, dtype, stored_shape, data in matrix(shape, config, generator):
            yield full + end, dtype, stored_shape, data


def write_safetensors(path, tensors):
    header, begin = {}, 0
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + len(data)]}
        begin += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for *_, data in tensors:
            file.write(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="deepseek_v2_lite")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--format", choices=FORMATS, default="bf16")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(1)
    config = {"model_type": "deepseek_v2", "num_hidden_layers": options.layers, **GEOMETRIES[options.geometry]}
    matrix, quantization = FORMATS[options.format]
    if quantization(config) is not None:
        config["quantization_config"] = quantization(config)
    weight_map = {}
    for layer in range(options.layers):
        name = f"model-{layer + 1:05}-of-{options.layers:05}.safetensors"
        tensors = list(layer_tensors(config, layer, matrix, generator))
        write_safetensors(options.folder / name, tensors)
        weight_map.update({tensor[0]: name for tensor in tensors})
    (options.folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    index = {"metadata": {}, "weight_map": weight_map}
    (options.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
