"""Every kernel has a benchmark for every type that it exists for; tests go over the lists of types themselves.

usage: kernel_types_test.py <mla_kernel_types> <folder of the benchmarks>
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kernel:
    """A kernel, the list of its types, and its benchmark with the place of the type in a case's name."""

    name: str
    types: str
    benchmark: str
    type_part: int


KERNELS = (
    Kernel("decode_absorbed", "cache", "decode", 2),
    Kernel("prefill_expanded", "cache", "prefill", 2),
    Kernel("linear", "weight", "linear", 3),
    Kernel("grouped_attention", "storage", "grouped", 2),
)
CHECKED_ONLY = {"fp64"}  # double is there to check with: it has no benchmarks


def printed(*command):
    return subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True).stdout


def differences(what, expected, found):
    for kind in sorted(expected - found):
        yield f"{what} lacks {kind}"
    for kind in sorted(found - expected):
        yield f"{what} names {kind}, which is in no list"


def check(kernel, lists, benchmarks):
    """What is missing of the types of `lists` in the benchmarks, as the programs list them."""
    types = lists[kernel.types]
    measured = {case.split("/")[kernel.type_part] for case in benchmarks.split()}
    yield from differences(f"{kernel.name}: benchmark {kernel.benchmark}", types - CHECKED_ONLY, measured)


def main():
    types, benchmarks = (Path(argument) for argument in sys.argv[1:])
    lists = {name: set(names) for name, *names in (line.split() for line in printed(types).splitlines())}
    wrong = [
        problem
        for kernel in KERNELS
        for problem in check(
            kernel,
            lists,
            printed(benchmarks / f"mla_bench_{kernel.benchmark}", "--benchmark_list_tests"),
        )
    ]
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
