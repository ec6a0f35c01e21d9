"""Sentences about MLA beside GQA and MHA. Every number and every verdict comes from the measurements."""

from measurements import KIND_NAMES, KINDS, MEMORY_GIB, MODELS
from text import milliseconds, ratio, rounded

LEVEL = 1.03  # times that differ by less are level: the machine's own noise is larger


def ratios(measurements, what, model, other):
    """[(L, time of `other` / time of MLA)] of decode steps, by L: above 1 MLA is the faster one."""
    mla = measurements.decoded(what, model, "mla")
    beside = measurements.decoded(what, model, other)
    return [(length, beside[length]["median_s"] / case["median_s"]) for length, case in mla.items() if length in beside]


def _at(pairs):
    return ", ".join(f"{length} ({ratio(max(value, 1 / value))})" for length, value in pairs)


def who_is_faster(pairs, other):
    """[(L, ratio)] -> "GQA is faster at 4096 (1.30×) cached tokens; MLA is faster at …"."""
    groups = (
        (f"{other} is faster", [pair for pair in pairs if pair[1] <= 1 / LEVEL]),
        ("level", [pair for pair in pairs if 1 / LEVEL < pair[1] < LEVEL]),
        ("MLA is faster", [pair for pair in pairs if pair[1] >= LEVEL]),
    )
    return "; ".join(f"{text} at {_at(group)} cached tokens" for text, group in groups if group)


def _longest(measurements, model, kind):
    """(L, counters) of the longest decode of the attention core, or None."""
    return max(measurements.decoded("core", model, kind).items(), key=lambda pair: pair[0], default=None)


def _bound(case):
    """(what bounds a case, the seconds that bound allows)."""
    arithmetic = case["flops"] / (1e9 * case["peak_GFLOPS"])
    memory = case["bytes"] / (1e9 * case["dram_GBps"])
    return ("arithmetic", arithmetic) if arithmetic > memory else ("memory", memory)


def balance_lines(measurements):
    """What the machine turns at."""
    bandwidth = measurements.limit("dram_GBps")
    products = measurements.context.get("bf16_products", "at its peak")
    lines = []
    for counter, arithmetic in (("peak_GFLOPS", f"bf16, {products}"), ("fp32_GFLOPS", "fp32")):
        peak = measurements.limit(counter)
        lines.append(f"- {arithmetic}: {peak:.0f} GFLOP/s over {bandwidth:.1f} GB/s = {peak / bandwidth:.1f} flop/byte")
    if products == "tile registers":
        lines.append("- Up to four queries that share their keys are multiplied in vectors, and held against the peak of these.")
    return lines


def _limits(cases):
    """{L: counters} -> "arithmetic at 1024 (81 %); memory at …": what bounds each, and how much of that limit it reached."""
    reached = {}
    for length, case in cases.items():
        bound, best = _bound(case)
        reached.setdefault(bound, []).append(f"{length} ({100 * best / case['median_s']:.0f} %)")
    return "; ".join(f"{bound} at {', '.join(lengths)}" for bound, lengths in reached.items())


def why_lines(measurements, model):
    """What bounds each kind's decode, by its arithmetic intensity and the peaks beside each case."""
    for kind in KINDS:
        longest = _longest(measurements, model, kind)
        if longest is None:
            continue
        length, case = longest
        yield (
            f"- {KIND_NAMES[kind]}: {case['flops'] / case['bytes']:.1f} flop for each byte of cache. Bound by "
            f"{_limits(measurements.decoded('core', model, kind))} cached tokens. At {length} it took "
            f"{milliseconds(case['median_s'])}, and could take no less than {milliseconds(_bound(case)[1])}."
        )


def crossover_line(measurements, model):
    """From which balance on MLA's decode would beat GQA's, were both at their limits."""
    mla, gqa = _longest(measurements, model, "mla"), _longest(measurements, model, "gqa")
    if mla is None or gqa is None or mla[0] != gqa[0]:
        return None
    turning = mla[1]["flops"] / gqa[1]["bytes"]
    here = measurements.limit("peak_GFLOPS") / measurements.limit("dram_GBps")
    side = "below that, on GQA's side" if here < turning else "above that, on MLA's side"
    return (
        f"- GQA reads {gqa[1]['bytes'] / mla[1]['bytes']:.2f} times the bytes that MLA reads, MLA computes "
        f"{mla[1]['flops'] / gqa[1]['flops']:.2f} times the flops of GQA. With both at their limits MLA's core is the faster one "
        f"on machines that turn above {turning:.0f} flop/byte; this one turns at {here:.1f}, {side}."
    )


def _verdict(value):
    """Of a claim of 2 to 3 times."""
    if value >= 2:
        return "confirmed" if value <= 3 else "exceeded"
    if value >= LEVEL:
        return "not reached"
    return "no difference here" if value > 1 / LEVEL else "the reverse is true here"


def claim_lines(measurements, model):
    """The field's claims, against what was measured."""
    mla, mha, gqa = (measurements.cache_bytes(model, kind) for kind in ("mla", "mha", "gqa"))
    if mla and mha:
        share = mha / mla
        verdict = "confirmed" if share >= 3 else "not confirmed"
        against_gqa = f" Against GQA it is {gqa / mla:.1f} times." if gqa else ""
        yield (
            f"- “A cache many times smaller than MHA's”: {share:.1f} times ({mla:.0f} bytes a token and layer against {mha:.0f}): "
            f"{verdict}.{against_gqa}"
        )
        fit = {kind: rounded(measurements.tokens_that_fit(model, kind, model.layers)) for kind in KINDS}
        hold = f"- So {MEMORY_GIB} GiB hold {fit['mla']} tokens of all {model.layers} layers"
        yield f"{hold}, with GQA {fit['gqa']} and with MHA {fit['mha']}."
    for what, called in (("core", "attention core"), ("layer", "whole layer")):
        pairs = ratios(measurements, what, model, "gqa")
        if pairs:
            length, value = pairs[-1]
            yield (
                f"- “Decoding 2–3 times faster than GQA at long context”: {ratio(value)} the speed of GQA at {length} tokens, "
                f"{called}: {_verdict(value)}."
            )


def model_findings(measurements, model):
    """The lines of one model's section; empty without measurements."""
    lines = []
    for what, called in (("core", "Attention core"), ("layer", "Whole layer")):
        for other in ("gqa", "mha"):
            pairs = ratios(measurements, what, model, other)
            if pairs:
                lines.append(f"- {called}, one token: {who_is_faster(pairs, KIND_NAMES[other])}.")
    if not lines:
        return []
    why = [*why_lines(measurements, model), crossover_line(measurements, model)]
    return [
        f"### {model.name} geometry",
        "",
        *lines,
        "",
        "Which limit binds the attention core, and how much of it was reached:",
        "",
        *[line for line in why if line],
        "",
        "What the field says of MLA:",
        "",
        *claim_lines(measurements, model),
        "",
    ]


def findings(measurements):
    sections = [model_findings(measurements, model) for model in MODELS]
    if not any(sections):
        return []
    return [
        "## Where GQA is faster, where MLA is, and why",
        "",
        f"On {measurements.threads()} threads this machine turns from memory-bound to compute-bound at",
        "",
        *balance_lines(measurements),
        "",
        *[line for section in sections for line in section],
    ]
