#!/usr/bin/env python3
"""PyTorch's part of mla_bench_libraries, which starts it: prepares a case, holds it against float64, and times steps one by one.

A request a line on standard input, an answer a line on standard output; types as PyTorch names them:

    decode <type> <heads> <latent dim> <rope dim> <cached tokens> <softmax scale> <copies> <threads>   ready
    linear <type> <tokens> <in> <out> <copies> <threads>                                               ready
    step                                                                                               <seconds> <a value of the result>

What fails is answered by "error: <why>". Steps take caches and weights in turn, of which there are as many as `copies`.
"""

import itertools
import math
import sys
import time

import torch


class Decode:
    """Absorbed decode of a token: two products over the whole cache and a softmax between."""

    def __init__(self, kind, heads, latent_dim, rope_dim, tokens, scale, copies):
        self.kind, self.latent_dim, self.scale = kind, latent_dim, scale
        self.queries = torch.randn(heads, latent_dim + rope_dim).to(kind)
        self.copies = [torch.randn(tokens, latent_dim + rope_dim).to(kind) for _ in range(copies)]

    def step(self, cache):
        scores = (self.queries @ cache.T).float().mul_(self.scale)
        return torch.softmax(scores, dim=-1).to(self.kind) @ cache[:, :self.latent_dim]

    def reference(self, cache):
        """In float64, and a bound of what rounding in the case's type takes from it."""
        cache = cache.double()
        scores = self.scale * (self.queries.double() @ cache.T)
        # Rounding a score moves a probability by as much of itself, and so random rows, on the whole, by as much of their norm.
        bound = rounding(self.kind, cache.shape[1]) * (1 + scores.abs().max().item())
        return torch.softmax(scores, dim=-1) @ cache[:, :self.latent_dim], bound


class Linear:
    """A projection of all heads together, its weights as they lie in a checkpoint, [out, in]."""

    def __init__(self, kind, tokens, inputs, outputs, copies):
        self.kind = kind
        self.x = torch.randn(tokens, inputs).to(kind)
        self.copies = [torch.randn(outputs, inputs).div_(math.sqrt(inputs)).to(kind) for _ in range(copies)]

    def step(self, weight):
        return torch.nn.functional.linear(self.x, weight)

    def reference(self, weight):
        return self.x.double() @ weight.double().T, rounding(self.kind, weight.shape[1])


def rounding(kind, depth):
    """Of a result of the type: a last place, beside the random walk of a sum of `depth` products in float32."""
    return torch.finfo(kind).eps + math.sqrt(depth) * torch.finfo(torch.float32).eps


def require_right(case):
    copy = case.copies[0]
    exact, bound = case.reference(copy)
    error = ((case.step(copy).double() - exact).norm() / exact.norm()).item()
    if not error <= bound:
        raise ValueError(f"differs from float64 by {error:.2g} of its norm, must be at most {bound:.2g}")


def prepared(kind, arguments):
    """The case of a request, checked, and its copies in turn."""
    name, *sizes, threads = arguments
    torch.set_num_threads(int(threads))
    make = {"decode": Decode, "linear": Linear}[kind]
    case = make(getattr(torch, name), *[float(size) if "." in size else int(size) for size in sizes])
    require_right(case)
    return case, itertools.cycle(case.copies)


def timed(case, copy):
    start = time.perf_counter()
    result = case.step(copy)
    return f"{time.perf_counter() - start:.9f} {result[0, 0].item():.9g}"


@torch.inference_mode()
def main():
    case = copies = None
    for line in sys.stdin:
        request, *arguments = line.split()
        try:
            if request == "step":
                answer = timed(case, next(copies))
            else:
                case = copies = None  # before the next one takes as much memory
                case, copies = prepared(request, arguments)
                answer = "ready"
        except (RuntimeError, ValueError) as error:
            answer = "error: " + " ".join(str(error).split())
        print(answer, flush=True)


if __name__ == "__main__":
    main()
