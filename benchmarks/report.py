#!/usr/bin/env python3
"""Runs the benchmark programs and writes one folder: report.md, its plots, and the programs' JSON in raw/.

The findings and the comparison of MLA with GQA and MHA are also printed. Needs Python 3.9; matplotlib only for the plots.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from findings import findings
from goals import goals
from measurements import load
from plots import draw
from tables import accuracy, comparison, kernel_table, layer_shares, libraries, machine_table, quality, scale, serving, sparse, weights

KERNELS = ("linear", "decode", "prefill", "grouped", "layer")
PROGRAMS = ("roofline", *KERNELS, "serving", "sparse", "scale", "libraries", "compare", "quality", "accuracy")

# What a quick run measures, in about two minutes on two cores; {threads} is all of them. A full one measures every case.
QUICK = {
    "roofline": r".",
    "linear": r"/(q_b_proj|q_proj|o_proj)/bf16/T:(1|64)/threads:{threads}$",
    "decode": r"/(fp32|bf16)/L:(1024|16384|65536)/q:1/threads:{threads}$",
    "prefill": r"/bf16/T:512/L:(512|2048)/threads:{threads}$",
    "grouped": r"/bf16/L:16384/threads:{threads}$",
    "layer": r"/bf16/T:1/L:(4096|65536)/threads:{threads}$|v2_lite/bf16/weights:.*/threads:{threads}$",
    "serving": r"v2_lite/.*/threads:{threads}$",
    "sparse": r"/(select|dense|attend)/.*/bf16/.*/threads:{threads}$",
    "scale": r"/L:4096/",
    "libraries": r"/decode/.*/L:4096/q:1/threads:{threads}$|/o_proj/.*/T:64/threads:{threads}$",
    "compare": r"/T:1/L:(1024|4096|16384|65536)/|/T:512/|v2_lite/.*/T:2048/",
    "quality": r".",
    "accuracy": r"/L:1024/",
}
SECONDS_A_CASE = {"quick": "0.1", "full": "0.5"}


def program_path(folder, program):
    return str(folder / f"mla_bench_{program}")


def list_cases(command):
    result = subprocess.run([*command, "--benchmark_list_tests"], capture_output=True, text=True, check=True)
    return result.stdout.split()


def chosen_commands(bin_dir, raw, selection):
    """{program: (number of cases, command)} of a selection; programs of which it takes nothing are left out."""
    threads = re.search(r"threads:(\d+)", list_cases([program_path(bin_dir, "compare")])[0]).group(1)
    commands = {}
    for program in PROGRAMS:
        chosen = QUICK[program].format(threads=threads) if selection == "quick" else "."
        command = [program_path(bin_dir, program), f"--benchmark_filter={chosen}"]
        count = len(list_cases(command))
        if count > 0:
            output = [f"--benchmark_out={raw / program}.json", "--benchmark_out_format=json"]
            commands[program] = (count, [*command, f"--benchmark_min_time={SECONDS_A_CASE[selection]}", *output])
    return commands


def run_programs(bin_dir, raw, selection):
    """Runs the programs, a line a case, and leaves a JSON file of each in `raw`."""
    for old in raw.glob("*.json"):
        old.unlink()
    commands = chosen_commands(bin_dir, raw, selection)
    total = sum(count for count, _ in commands.values())
    done, start = 0, time.monotonic()
    for program, (_, command) in commands.items():
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            for line in process.stdout:
                # A case's line starts with its name: the time follows, or an error.
                name, _, rest = line.rstrip().partition(" ")
                if name.startswith(program + "/"):
                    done += 1
                    took = " ".join(rest.split()[:2]) if "ERROR" not in rest else rest.strip()
                    print(f"[{done:{len(str(total))}}/{total}] {time.monotonic() - start:4.0f} s  {name:70} {took}", flush=True)
        if process.returncode != 0:
            sys.exit(f"{command[0]} ended with status {process.returncode}")


def cpu_name():
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else "unknown"


def machine_section(measurements):
    context = measurements.context
    built = f"instructions: {context.get('isa')}; compiler: {context.get('compiler')}"
    return [
        "## Machine",
        "",
        f"{cpu_name()}, {context.get('num_cpus')} cores; {built}; {context.get('date')}.",
        "",
        *machine_table(measurements),
        "",
    ]


def kernel_sections(measurements):
    lines = [
        "## Kernels",
        "",
        "Times are medians. Each percentage is of what probes of registers and of DRAM reached before, between and after its steps: the",
        "peak of the type (bf16 and fp8: of what multiplies bf16 here, tile registers, dot products or multiply-adds of fp32; int8: dot",
        "products of int16; else fp32), of fp32, of memory. Steps work on changing caches and weights, as many as exceed the processor's",
        "caches, as a model of many layers does. Flops that a causal mask hides do not count, nor does decompression in prefill.",
        "",
    ]
    for program in KERNELS:
        rows = kernel_table(measurements, program)
        if rows:
            lines += [f"### {program}", "", *rows, ""]
    return lines


def plot_lines(names):
    if names is None:
        return ["No plots: matplotlib is not installed (python3-matplotlib).", ""]
    return [line for name in names for line in (f"![{Path(name).stem}]({name})", "")]


def skipped_lines(measurements):
    if not measurements.skipped:
        return []
    return ["Not measured:", "", *[f"- {name}: {why}" for name, why in measurements.skipped.items()], ""]


def write_report(out, measurements):
    """Writes report.md and the plots; returns what belongs on the screen, which ends with the comparison."""
    machine, skipped = machine_section(measurements), skipped_lines(measurements)
    sections = (goals, findings, layer_shares, scale, serving, sparse, libraries, weights, quality, accuracy, comparison)
    told = [*skipped, *[line for section in sections for line in section(measurements)]]
    page = ["# Multi-head latent attention on this machine", "", *machine, *kernel_sections(measurements)]
    page += [*plot_lines(draw(measurements, out)), *told]
    (out / "report.md").write_text("\n".join(page), encoding="utf-8")
    return "\n".join(["", *machine, *told])


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bin-dir", type=Path, help="folder of the programs mla_bench_*")
    source.add_argument("--from", type=Path, dest="recorded", help="folder of JSON files of an earlier run, instead of measuring")
    amount = parser.add_mutually_exclusive_group()
    for selection, explained in (("quick", "about two minutes (default)"), ("full", "every case of every program")):
        amount.add_argument(f"--{selection}", dest="selection", action="store_const", const=selection, default="quick", help=explained)
    options = parser.parse_args(arguments)

    options.out.mkdir(parents=True, exist_ok=True)
    raw = options.recorded
    if raw is None:
        raw = options.out / "raw"
        raw.mkdir(exist_ok=True)
        run_programs(options.bin_dir, raw, options.selection)
    print(write_report(options.out, load(raw)))
    print(f"Report: {os.path.relpath(options.out / 'report.md')}")


if __name__ == "__main__":
    main()
