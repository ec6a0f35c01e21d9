"""A benchmark program runs the cases it is asked for, under the names and with the counters of its contract.

usage: program_test.py <program> <regular expression of case names> <number of cases> <counter>...
"""

import json
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path


def check(recorded, names, count, counters):
    """What is wrong with the recorded cases."""
    cases = recorded["benchmarks"]
    if len(cases) != count:
        yield f"{len(cases)} cases match {names}, must be {count}"
    for case in cases:
        if not re.fullmatch(names, case["name"]):
            yield f"{case['name']} is no name of the form {names}"
        if case.get("error_occurred"):
            yield f"{case['name']}: {case['error_message']}"
            continue
        for counter in counters:
            value = case.get(counter, math.nan)
            if not (value > 0 and math.isfinite(value)):
                yield f"{case['name']}: {counter} is {value}, must be finite and positive"
    for key in ("isa", "compiler", "threads", "peak_fp32_GFLOPS_threads_1", "peak_dram_GBps_threads_1"):
        if key not in recorded["context"]:
            yield f"the context lacks {key}"


def main():
    program, names, count, *counters = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.json")
        flags = [f"--benchmark_filter=^{names}$", "--benchmark_min_time=0.001", f"--benchmark_out={out}"]
        subprocess.run([program, *flags], check=True)
        text = out.read_text(encoding="utf-8")
    wrong = list(check(json.loads(text), names, int(count), counters)) if text else ["no case ran"]
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
