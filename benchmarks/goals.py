"""What the kernels aim at, and how far the cases of a run are."""

import re
from dataclasses import dataclass
from typing import Callable

from text import table

LIMITS = {"peak_pct": "% of peak", "bw_pct": "% of DRAM"}


@dataclass(frozen=True)
class Goal:
    """At least `percent`, in `unit`, of each (name, percentage) that `cases(measurements)` gives."""

    what: str
    unit: str
    percent: int
    cases: Callable


def _share(what, names, percent, counter="peak_pct"):
    """A goal for a share of what the machine could do; `names` is a regular expression."""
    def cases(measurements):
        return [(name, case[counter]) for name, _, case in measurements.named("") if re.match(names, name)]

    return Goal(what, LIMITS[counter], percent, cases)


def _over(measurements, prefix, part, base):
    """(name, percentage of the speed of the case that differs in having `part` as `base`) of cases that have it otherwise."""
    for name, _, case in measurements.named(prefix):
        other = re.sub(rf"/{part}:\d+", f"/{part}:{base}", name)
        if other != name and other in measurements.cases:
            yield name, 100 * case["GFLOPS"] / measurements.cases[other]["GFLOPS"]


def _over_one_thread(measurements):
    """Of what arithmetic bounds."""
    pairs = [*_over(measurements, "decode/", "threads", 1), *_over(measurements, "prefill/", "threads", 1)]
    return [(name, share) for name, share in pairs if name.endswith("/threads:2") and "/H" not in name]


def _beside_neighbours(measurements):
    """Of geometries that differ in their heads only, each beside the better one of its neighbours; percent of the nearer limit."""
    lines = {}
    for name, _, case in measurements.named("decode/H"):
        heads, line = re.match(r"decode/H(\d+)_(.*)", name).groups()
        lines.setdefault(line, []).append((int(heads), max(case["peak_pct"], case["bw_pct"]), name))
    for line in lines.values():
        line.sort()
        for before, (_, share, name), after in zip([None, *line], line, [*line[1:], None]):
            neighbours = [other[1] for other in (before, after) if other is not None]
            if neighbours:
                yield name, 100 * share / max(neighbours)


V3, V2_LITE = "decode/deepseek_v3/", "decode/deepseek_v2_lite/"
GOALS = (
    _share("decode, fp32, 128 heads", V3 + "fp32/.*q:1/", 93),
    _share("decode, fp32, 16 heads", V2_LITE + "fp32/.*q:1/", 88),
    _share("decode, bf16, 128 heads", V3 + "bf16/.*q:1/", 92),
    _share("decode, bf16, 16 heads", V2_LITE + "bf16/.*q:1/", 82),
    _share("decode, fp16, 128 heads", V3 + "fp16/.*q:1/", 88),
    _share("decode, int8, 128 heads", V3 + "int8/.*q:1/", 80),
    _share("decode, int8, 16 heads", V2_LITE + "int8/.*q:1/", 68),
    _share("decode, fp8, 128 heads", V3 + "fp8/.*q:1/", 85),
    Goal("decode, 4 queries", "% of 1 query's speed", 100, lambda m: _over(m, "decode/", "q", 1)),
    Goal("decode, other geometries", "% of neighbours' share", 50, _beside_neighbours),
    _share("prefill, fp32, 2048 tokens", "prefill/.*/fp32/T:2048/", 90),
    _share("prefill, bf16, 2048 tokens", "prefill/.*/bf16/T:2048/", 85),
    _share("projections, 64 tokens and more", "linear/.*/(fp32|bf16)/T:(64|512)/", 90),
    _share("projections, 1 token", "linear/.*/(fp32|bf16)/T:1/", 92, "bw_pct"),
    _share("GQA and MHA, 65536 cached", "compare/core/.*/(gqa|mha)/T:1/L:65536/", 88, "bw_pct"),
    Goal("decode and prefill, 2 threads", "% of 1 thread's speed", 190, _over_one_thread),
)


def goals(measurements):
    """The goals that cases of this run speak to."""
    rows = []
    for goal in GOALS:
        found = sorted((share, name) for name, share in goal.cases(measurements))
        if found:
            reached = sum(share >= goal.percent for share, _ in found)
            shares = [f"{share:.0f}" for share, _ in (found[0], found[-1])]
            rows.append([goal.what, goal.unit, str(goal.percent), f"{reached} of {len(found)}", *shares, found[0][1]])
    if not rows:
        return []
    return [
        "## Goals",
        "",
        "Peaks are of the type's dot product, or of fp32's where that is faster, and like DRAM's probed beside each case.",
        "",
        *table(["goal", "unit", "at least", "reached by", "lowest", "highest", "lowest at"], rows),
        "",
    ]
