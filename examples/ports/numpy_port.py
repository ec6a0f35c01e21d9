#!/usr/bin/env python3
"""Absorbed and expanded attention in NumPy, in float32, as a port that is held to the conformance vectors.

usage: numpy_port.py VECTORS RESULTS

    mla_vectors write vectors && numpy_port.py vectors results && mla_vectors check results
"""

import pathlib
import sys

try:
    import numpy as np
except ImportError:
    sys.exit(77)  # CTest counts that as skipped

import vectors


def narrow_values(about, bytes_):
    """e4m3 or int8, times a scale for each group: [L, narrow]."""
    count = about["narrow_values"]
    if about["kind"] == "int8":
        stored = bytes_[:, :count].view(np.int8).astype(np.float32)
    else:
        codes = np.arange(256)
        exponent, mantissa = codes >> 3 & 15, codes & 7
        magnitude = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(8 + mantissa, exponent - 10))
        magnitude[codes & 127 == 127] = np.nan
        table = np.where(codes < 128, magnitude, -magnitude).astype(np.float32)
        stored = table[bytes_[:, :count]]
    groups = -(-count // about["values_per_scale"])
    first = about["scale_offset"]
    if about["kind"] == "fp8_v4":
        scales = np.ldexp(np.float32(1), bytes_[:, first : first + groups].astype(np.int32) - 127)
    else:
        scales = np.ascontiguousarray(bytes_[:, first : first + 4 * groups]).view(np.float32)
    return stored * np.repeat(scales, about["values_per_scale"], axis=1)[:, :count].astype(np.float32)


def rows(about, bytes_):
    """Cached rows [L, Dc + Dr] as float32."""
    narrow = about["narrow_values"]
    wide = about["latent_dim"] + about["rope_dim"] - narrow
    size = {"fp64": 8, "fp32": 4}.get(about["kind"], 2)
    raw = np.ascontiguousarray(bytes_[:, about["wide_offset"] :][:, : wide * size])
    if about["kind"] in ("fp64", "fp32", "fp16"):
        values = raw.view({"fp64": np.float64, "fp32": np.float32, "fp16": np.float16}[about["kind"]]).astype(np.float32)
    else:
        values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return values if narrow == 0 else np.concatenate([narrow_values(about, bytes_), values], axis=1)


def heads(about, cached, kv_b):
    """Keys [H, L, query_dim] and values [H, L, out_dim]: the rows themselves for all heads, or what kv_b makes of them."""
    latent = cached[:, : about["latent_dim"]]
    if kv_b is None:
        return cached[None], latent[None]
    nope = about["nope_dim"]
    rope = np.broadcast_to(cached[:, about["latent_dim"] :], (len(kv_b), len(cached), about["rope_dim"]))
    return np.concatenate([latent @ kv_b[:, :nope].swapaxes(1, 2), rope], axis=2), latent @ kv_b[:, nope:].swapaxes(1, 2)


def attend(q, keys, values, scale, mask, sinks):
    """out [T, H, out_dim] and LSE [T, H] of queries [T, H, query_dim]."""
    products = (q.swapaxes(0, 1) @ keys.swapaxes(1, 2)).swapaxes(0, 1)
    scores = np.where(mask[:, None], products * np.float32(scale), -np.inf)
    largest = scores.max(axis=2, initial=-np.inf)
    p = np.exp(scores - np.where(np.isinf(largest), 0, largest)[:, :, None])
    total = p.sum(axis=2)
    with np.errstate(divide="ignore", over="ignore"):
        lse = np.where(total > 0, largest + np.log(total), -np.inf)
        total = total + (0 if sinks is None else np.exp(sinks - np.where(np.isinf(largest), 0, largest)))
    p = p / np.where(total > 0, total, 1)[:, :, None]
    return (p.swapaxes(0, 1).astype(np.float32) @ values).swapaxes(0, 1), lse


def solve(vector, about):
    queries = vector["queries"]
    out = np.zeros((*queries.shape[:2], about["value_dim"] or about["latent_dim"]), np.float32)
    lse = np.full(queries.shape[:2], -np.inf, np.float32)
    for r, length in enumerate(vector["lengths"]):
        first, end = vector["query_begin"][r : r + 2]
        if first == end or length == 0:
            continue
        cached = rows(about, vector["memory"][vectors.row_numbers(vector, about, r)])
        keys, values = heads(about, cached, vector.get("kv_b"))
        mask = vectors.visible(vector, about, r)
        out[first:end], lse[first:end] = attend(queries[first:end], keys, values, about["scale"], mask, vector.get("sinks"))
    return {"out": out, "lse": lse}


def main():
    source, target = (pathlib.Path(argument) for argument in sys.argv[1:])
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("*.safetensors")):
        vectors.write(target / path.name, solve(*vectors.read(path)))


if __name__ == "__main__":
    main()
