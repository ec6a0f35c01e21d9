#!/usr/bin/env python3
"""Writes what the tests compare with: held-out text, and what transformers makes of it in float32 with the committed model.

usage: expected.py --work FOLDER        (a folder for the corpus; train.py's --out will do)

Writes ../held_out.txt, the first 2 KiB of eight held-out pieces, and ../../../tests/generate/expected.safetensors:
  tokens [256]            the bytes whose logits follow
  logits [256, 256]       after each of them
  greedy_prompt [64], greedy_text [200]   the likeliest continuation; no byte of it was a close choice
and as metadata the bits a byte of the whole held-out text, in windows of the model's context.
"""

import argparse
import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file
from transformers import DeepseekV3ForCausalLM

import corpus
import models
import train

FOLDER = pathlib.Path(__file__).resolve().parent.parent
EXCERPT = 2048
LEAST_MARGIN = 1e-2  # between the best logit and the next, many times what rounding can change


@torch.no_grad()
def continue_greedily(model, prompt, count):
    """The continuation, and the smallest margin that one of its bytes won by."""
    tokens, margin = prompt[None], float("inf")
    step, cache = tokens, None
    for _ in range(count):
        output = model(step, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        best = output.logits[0, -1].topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        step = best.indices[:1][None]
        tokens = torch.cat([tokens, step], dim=1)
    return tokens[0, len(prompt):], margin


def clear_continuation(model, excerpts):
    """Of the first excerpt whose continuation has no close choice."""
    for excerpt in excerpts:
        prompt = torch.frombuffer(bytearray(excerpt[:64]), dtype=torch.uint8).long()
        text, margin = continue_greedily(model, prompt, 200)
        print(f"smallest margin {margin:.4f}: {bytes(text.tolist())}")
        if margin >= LEAST_MARGIN:
            return prompt, text
    raise SystemExit("every continuation has a choice too close for a test")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    excerpts = [piece[:EXCERPT] for piece in corpus.split(corpus.bible(options.work / "corpus"))[1][:8]]
    (FOLDER / "held_out.txt").write_bytes(b"".join(excerpts))

    model = DeepseekV3ForCausalLM.from_pretrained(FOLDER / "model", dtype=torch.float32).eval()
    tokens = torch.frombuffer(bytearray(excerpts[0][:256]), dtype=torch.uint8).long()
    with torch.no_grad():
        logits = model(tokens[None], use_cache=False).logits[0]
    prompt, text = clear_continuation(model, excerpts)
    about = {"context": models.CONTEXT, "held_out_bits_a_byte": train.bits_a_byte(model, excerpts),
             "torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    print(about)
    tensors = {"tokens": tokens.to(torch.uint8), "logits": logits.contiguous(), "greedy_prompt": prompt.to(torch.uint8),
               "greedy_text": text.to(torch.uint8)}
    path = FOLDER.parent.parent / "tests/generate/expected.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path, metadata={"about": json.dumps(about, sort_keys=True)})


if __name__ == "__main__":
    main()
