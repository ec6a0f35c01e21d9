"""Writes inputs for the fuzz targets: real files, and real files with something broken in them.

usage: make_corpus.py <output folder> <golden folder> <model folder>

The folders safetensors, index, config and gguf of the output folder are written anew. The same call writes the same files.
"""

import json
import random
import shutil
import struct
import sys
from pathlib import Path

LARGEST = 32768  # bytes of a seed: small ones are mutated faster


def with_header(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def shrunk(path, count=4):
    """A real safetensors file with its first few tensors, cut down to rows of at most four values."""
    file = path.read_bytes()
    size = struct.unpack_from("<Q", file)[0]
    header = json.loads(file[8:8 + size])
    small, data = {"__metadata__": header.get("__metadata__", {})}, b""
    sizes = {"F64": 8, "I64": 8, "F32": 4, "BF16": 2, "F16": 2, "U8": 1}
    for name in [name for name in header if name != "__metadata__"][:count]:
        shape = [min(extent, 4) for extent in header[name]["shape"]]
        length = sizes[header[name]["dtype"]]
        for extent in shape:
            length *= extent
        begin = 8 + size + header[name]["data_offsets"][0]
        small[name] = tensor(header[name]["dtype"], shape, len(data), len(data) + length)
        data += file[begin:begin + length]
    return with_header(small, data)


def safetensors_seeds(golden, model):
    for path in sorted([*golden.glob("*.safetensors"), *model.glob("*.safetensors")]):
        yield path.stem, shrunk(path)
    one = tensor("F32", [2, 2], 0, 16)
    data = bytes(range(16))
    yield "overlap", with_header({"a": one, "b": tensor("F32", [2], 8, 16)}, data)
    yield "gap", with_header({"a": tensor("F32", [1], 0, 4), "b": tensor("F32", [1], 8, 12)}, data[:12])
    yield "backwards", with_header({"a": tensor("F32", [2, 2], 16, 0)}, data)
    yield "beyond", with_header({"a": tensor("F32", [2, 4], 0, 32)}, data)
    yield "too_many_elements", with_header({"a": tensor("F64", [2**62, 2**62], 0, 16)}, data)
    yield "product_wraps_to_size", with_header({"a": tensor("F32", [2**62 + 1, 4], 0, 16)}, data)
    yield "offsets_at_2_63", with_header({"a": tensor("F32", [1], 2**63 - 4, 2**63)}, data)
    yield "header_of_2_63", with_header({"a": one}, data, 2**63)
    yield "header_of_2_64", with_header({"a": one}, data, 2**64 - 1)
    yield "header_of_zero", with_header(b"", data)
    yield "no_bytes", b""
    yield "seven_bytes", b"\0" * 7
    yield "deep", with_header(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}")
    yield "fp8", with_header({"a": tensor("F8_E4M3", [4, 4], 0, 16), "a_scale_inv": tensor("F32", [1, 1], 16, 20)}, data + data[:4])
    yield "later_types", with_header({"a": tensor("F4", [4, 4], 0, 8), "b": tensor("F3_LATER", [7], 8, 16)}, data)
    yield "no_metadata", with_header({"__metadata__": None, "a": tensor("I8", [4, 4], 0, 16)}, data)
    yield "misaligned", with_header({"a": tensor("U8", [1], 0, 1), "b": tensor("F64", [1], 1, 9)}, data[:9])


def index_seeds(model):
    index = json.loads((model / "model.safetensors.index.json").read_text(encoding="utf-8"))
    index["weight_map"] = dict(list(index["weight_map"].items())[:20])
    yield "real", json.dumps(index).encode()
    yield "traversal", b'{"weight_map":{"a":"../b","c":"/d"}}'
    yield "twice", b'{"weight_map":{"a":"b","a":"c"},"weight_map":{}}'
    yield "deep", b'{"metadata":' + b"[" * 5000 + b"]" * 5000 + b',"weight_map":{}}'
    yield "nested", b'{"weight_map":{"a":{"b":"c"}}}'
    yield "escapes", b'{"weight_map":{"\\u0000\\ud83d\\ude00":"\\u002e\\u002e"}}'


def config_seeds(golden, model):
    yield "model", (model / "config.json").read_bytes()
    for name, preset in sorted(json.loads((golden / "presets.json").read_text(encoding="utf-8")).items()):
        yield name, json.dumps(preset["published"]).encode()
    plain = json.loads((model / "config.json").read_text(encoding="utf-8"))
    wrong = {"nan": float("nan"), "infinity": float("inf"), "huge": 1e300, "negative": -1, "text": "8", "list": [8], "null": None}
    for name, value in wrong.items():
        yield f"rope_theta_{name}", json.dumps({**plain, "rope_parameters": {"rope_theta": value}}).encode()
        yield f"hidden_size_{name}", json.dumps({**plain, "hidden_size": value}).encode()
    yield "deep", b'{"model_type":"deepseek_v3","x":' + b"[" * 5000 + b"]" * 5000 + b"}"
    yield "number_too_large", b'{"model_type":"deepseek_v3","hidden_size":1e999}'


def gguf_string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def gguf_value(value):
    """Type and value, by the type in Python."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + gguf_string(value)
    if isinstance(value, list):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(gguf_string, value))
    return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)


def gguf(metadata, tensors, counts=None, version=3):
    """A file; tensors are (name, type, shape from the innermost dimension, bytes)."""
    head, data = b"", b""
    for key, value in metadata.items():
        head += gguf_string(key) + gguf_value(value)
    for name, kind, shape, values in tensors:
        head += gguf_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        data += values + b"\0" * (-len(values) % 32)
    start = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(metadata)))) + head
    return start + b"\0" * (-len(start) % 32) + data


def gguf_model(apart):
    """A layer of one head, W_UK and W_UV in one tensor or two, in F32 and Q8_0."""
    fields = {"embedding_length": 32, "attention.head_count": 1, "attention.kv_lora_rank": 32, "attention.key_length": 34,
              "attention.value_length": 32, "attention.layer_norm_rms_epsilon": 1e-6, "rope.dimension_count": 2,
              "rope.freq_base": 1e4, "rope.scaling.type": "yarn", "rope.scaling.factor": 40.0,
              "rope.scaling.original_context_length": 4096, "rope.scaling.yarn_log_multiplier": 0.0707}
    if apart:
        fields |= {"attention.key_length_mla": 34, "attention.value_length_mla": 32}
    metadata = {"general.architecture": "deepseek2", "tokenizer.ggml.tokens": ["a", "b"]}
    metadata |= {f"deepseek2.{key}": value for key, value in fields.items()}
    f32, q8_0 = (0, lambda count: struct.pack(f"<{count}f", *range(count))), (8, lambda count: bytes(range(34)) * (count // 32))
    heads = [("k_b", (32, 32, 1), q8_0), ("v_b", (32, 32, 1), f32)] if apart else [("kv_b", (32, 64), q8_0)]
    shapes = [("q", (32, 34), f32), ("kv_a_mqa", (32, 34), q8_0), ("kv_a_norm", (32,), f32), *heads, ("output", (32, 32), q8_0)]
    tensors = []
    for name, shape, (kind, values) in shapes:
        count = 1
        for extent in shape:
            count *= extent
        tensors.append((f"blk.0.attn_{name}.weight", kind, shape, values(count)))
    return metadata, tensors


def gguf_seeds():
    for apart in (False, True):
        yield "apart" if apart else "together", gguf(*gguf_model(apart))
    one = ("w", 0, (4,), bytes(16))
    yield "version_2", gguf({"general.alignment": 32}, [one], version=2)
    for count in (2**32, 2**63, 2**64 - 1):
        yield f"tensors_{count}", gguf({}, [one], counts=(count, 0))
        yield f"metadata_{count}", gguf({"k": 1}, [], counts=(0, count))
        yield f"extent_{count}", gguf({}, [("w", 0, (count, 4), bytes(16))])
    for alignment in (0, 24, 2**31):
        yield f"alignment_{alignment}", gguf({"general.alignment": alignment}, [one])
    yield "twice", gguf({}, [one, one])
    yield "no_dimensions", gguf({}, [("w", 0, (), b"")])
    yield "nine_dimensions", gguf({}, [("w", 0, (1,) * 9, bytes(4))])
    yield "later_type", gguf({}, [one, ("later", 99, (4,), bytes(16)), ("q4_k", 12, (256,), bytes(144))])
    yield "nested", b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_string("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 2000
    yield "no_bytes", b""


def mutated(seed, generator):
    """Bytes changed, dropped, doubled or cut off."""
    data = bytearray(seed)
    for _ in range(generator.randint(1, 4)):
        if not data:
            break
        at = generator.randrange(len(data))
        kind = generator.randrange(4)
        if kind == 0:
            data[at] = generator.randrange(256)
        elif kind == 1:
            del data[at:at + generator.randint(1, 16)]
        elif kind == 2:
            data[at:at] = data[at:at + generator.randint(1, 16)]
        else:
            del data[at:]
    return bytes(data)


def write(folder, seeds):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    generator = random.Random(1)
    for name, seed in seeds:
        seed = seed[:LARGEST]
        (folder / name).write_bytes(seed)
        for number in range(4):
            (folder / f"{name}.{number}").write_bytes(mutated(seed, generator))


def main():
    out, golden, model = (Path(argument) for argument in sys.argv[1:])
    write(out / "safetensors", safetensors_seeds(golden, model))
    write(out / "index", index_seeds(model))
    write(out / "config", config_seeds(golden, model))
    write(out / "gguf", gguf_seeds())


if __name__ == "__main__":
    main()
