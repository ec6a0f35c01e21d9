#!/usr/bin/env python3
"""Trains one model of each kind given on the King James Bible, byte by byte, on one CPU core, and measures it on held-out text.

usage: train.py --out FOLDER [--steps N] mla [mha] [gqa] [mqa]

Writes FOLDER/<kind>.json with what was measured and, of mla, the checkpoint FOLDER/model: config.json, safetensors files in bf16
and their index, as transformers saves them. With the same seed and number of steps every kind sees the same text in the same order.
"""

import argparse
import json
import math
import pathlib
import time

import torch
from torch.nn.functional import cross_entropy

import corpus
import models

WINDOWS = 4            # sequences a step, of models.CONTEXT bytes each
PEAK_RATE = 3e-3
WARM_UP = 60           # steps
BIAS_STEP = 3e-3       # how fast the routers' bias evens out the experts' loads, at the peak rate
SHARD = "3MB"


def loss_of(model, windows):
    """Mean nats a byte over all but the first byte of each window."""
    logits = model(windows, use_cache=False).logits
    return cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), windows[:, 1:].reshape(-1))


class LoadBalance:
    """Routing without an auxiliary loss (DeepSeek-V3, section 2.1.2): experts chosen too often get a lower bias."""

    def __init__(self, model):
        self.chosen = {}
        for layer in model.model.layers[model.config.first_k_dense_replace:]:
            layer.mlp.gate.register_forward_hook(self._remember)

    def _remember(self, gate, _, outputs):
        self.chosen[gate] = outputs[2]

    def step(self, size):
        for gate, chosen in self.chosen.items():
            loads = torch.bincount(chosen.flatten(), minlength=gate.num_experts).float()
            gate.e_score_correction_bias += size * torch.sign(loads.mean() - loads)


def rate(step, steps):
    """Rises linearly, then falls linearly to nothing: a share of the peak."""
    return min((step + 1) / WARM_UP, (steps - step) / (steps - WARM_UP))


def optimizer_of(model):
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98))


def train(model, text, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    balance, optimizer = LoadBalance(model), optimizer_of(model)
    model.train()
    start = time.process_time()
    for step in range(steps):
        begins = torch.randint(len(text) - models.CONTEXT, (WINDOWS,), generator=generator)
        loss = loss_of(model, torch.stack([text[begin:begin + models.CONTEXT] for begin in begins]).long())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * rate(step, steps)
        optimizer.step()
        balance.step(BIAS_STEP * rate(step, steps))
        if step % 50 == 49:
            print(f"step {step + 1}: {loss.item() / math.log(2):.3f} bits a byte, {time.process_time() - start:.0f} s", flush=True)
    return time.process_time() - start


def as_stored(model):
    """Rounds the weights to bf16, as the checkpoint holds them."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))


@torch.no_grad()
def bits_a_byte(model, pieces):
    """Held-out text in windows that do not overlap; the first byte of a window is not predicted."""
    model.eval()
    nats = []
    for piece in pieces:
        whole = len(piece) // models.CONTEXT * models.CONTEXT
        windows = torch.frombuffer(bytearray(piece[:whole]), dtype=torch.uint8).long().view(-1, models.CONTEXT)
        nats += [loss_of(model, window[None]).item() for window in windows]
    return sum(nats) / len(nats) / math.log(2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", choices=models.HEADS)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    learnt, held_out = corpus.split(corpus.bible(options.out / "corpus"))
    text = torch.frombuffer(bytearray(learnt), dtype=torch.uint8)
    for kind in options.kinds:
        model = models.make(kind, options.seed)
        seconds = train(model, text, options.steps, options.seed)
        as_stored(model)
        values = models.cached_values(kind)
        measured = {
            "kind": kind,
            "heads": models.HEADS[kind],
            "parameters": sum(p.numel() for p in model.parameters()),
            "attention_parameters": sum(p.numel() for p in model.model.layers[0].self_attn.parameters()),
            "cached_values_a_token_and_layer": values,
            "cache_bytes_a_token_bf16": 2 * values * model.config.num_hidden_layers,
            "steps": options.steps,
            "bytes_learnt": options.steps * WINDOWS * models.CONTEXT,
            "bytes_in_corpus": len(learnt),
            "seconds": round(seconds),
            "held_out_bits_a_byte": round(bits_a_byte(model, held_out), 4),
        }
        print(json.dumps(measured), flush=True)
        (options.out / f"{kind}.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        if kind == "mla":
            model.to(torch.bfloat16).save_pretrained(options.out / "model", max_shard_size=SHARD)


if __name__ == "__main__":
    main()
