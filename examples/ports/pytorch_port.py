#!/usr/bin/env python3
"""Absorbed attention by PyTorch's scaled_dot_product_attention, as a port that is held to the conformance vectors: rows of fp32, bf16
and fp16, without sinks; it reports no LSE.

usage: pytorch_port.py VECTORS RESULTS
"""

import pathlib
import sys

import torch
from torch.nn.functional import scaled_dot_product_attention

import vectors

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def solve(vector, about):
    queries = torch.from_numpy(vector["queries"].copy())
    out = torch.zeros(*queries.shape[:2], about["latent_dim"])
    memory = torch.from_numpy(vector["memory"].copy())
    dim = about["latent_dim"] + about["rope_dim"]
    for r, length in enumerate(vector["lengths"]):
        first, end = vector["query_begin"][r : r + 2]
        if first == end or length == 0:
            continue
        bytes_ = memory[torch.from_numpy(vectors.row_numbers(vector, about, r))]
        keys = bytes_.view(DTYPES[about["kind"]])[:, :dim].float()
        mask = torch.from_numpy(vectors.visible(vector, about, r))
        found = scaled_dot_product_attention(
            queries[first:end].transpose(0, 1),
            keys.expand(about["heads"], -1, -1),
            keys[:, : about["latent_dim"]].expand(about["heads"], -1, -1),
            attn_mask=mask,
            scale=about["scale"],
        )
        # It gives NaN, or the mean of all, where a query sees no key.
        out[first:end] = torch.where(mask.any(dim=1)[:, None, None], found.transpose(0, 1), 0.0)
    return {"out": out.numpy()}


def main():
    source, target = (pathlib.Path(argument) for argument in sys.argv[1:])
    target.mkdir(parents=True, exist_ok=True)
    solved = left_out = 0
    for path in sorted(source.glob("*.safetensors")):
        vector, about = vectors.read(path)
        if about["kind"] not in DTYPES or "sinks" in vector or "kv_b" in vector:
            left_out += 1
            continue
        vectors.write(target / path.name, solve(vector, about))
        solved += 1
    print(f"PyTorch {torch.__version__}: {solved} vectors, {left_out} left out")


if __name__ == "__main__":
    main()
