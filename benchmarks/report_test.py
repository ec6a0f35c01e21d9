"""report.py runs programs, and says of recorded measurements what they say: ratios, verdicts and bounds."""

import contextlib
import importlib.util
import io
import json
import stat
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import device_json
import plots
import report
from measurements import Measurements

PEAK, FP32, DRAM = 400.0, 200.0, 40.0  # GFLOP/s, GFLOP/s, GB/s: turns at 10 flop/byte
BYTES_A_TOKEN = {"mla": 1152, "gqa": 4096, "mha": 65536}
FLOPS_A_TOKEN = {"mla": 278528, "gqa": 65536, "mha": 65536}


def case(name, seconds, flops=1.0, read=1.0, **counters):
    limits = {"peak_GFLOPS": PEAK, "fp32_GFLOPS": FP32, "dram_GBps": DRAM}
    rates = {"GFLOPS": 1e-9 * flops / seconds, "GBps": 1e-9 * read / seconds}
    shares = {"peak_pct": rates["GFLOPS"] / PEAK, "fp32_pct": rates["GFLOPS"] / FP32, "bw_pct": rates["GBps"] / DRAM}
    shares = {share: 100 * value for share, value in shares.items()}
    return {"name": name, "median_s": seconds, "flops": flops, "bytes": read, **limits, **rates, **shares, **counters}


def compared(kind, length, seconds, what="core"):
    """A decode step of DeepSeek-V3 geometry; its layer's weights are a million bytes."""
    read = length * BYTES_A_TOKEN[kind] + (1e6 if what == "layer" else 0.0)
    name = f"compare/{what}/deepseek_v3/{kind}/T:1/L:{length}/threads:2"
    return case(name, seconds, length * FLOPS_A_TOKEN[kind], read, cache_bytes_a_token=BYTES_A_TOKEN[kind])


def quality(cache, bits, seconds, bytes_a_token):
    """Reading 512 bytes of held-out text."""
    return case(f"quality/bible/{cache}/threads:1", seconds, bits_a_byte=bits, cache_bytes_a_token=bytes_a_token, tokens_a_step=512)


def accuracy(cache, mass, relative_norm, max_element, length=65536):
    return case(f"accuracy/{cache}/{mass}/L:{length}/threads:1", 0.01, relative_norm=relative_norm, max_element=max_element)


def served(name, seconds, ratio):
    """A step of four tokens."""
    return case(f"serving/{name}", seconds, 1e11 * seconds, tokens_per_s=4 / seconds, ratio=ratio)


def sparse_case(kind, length, seconds, cache="bf16", **counters):
    memory = "/pages_4k" if kind == "attend" else ""
    return case(f"sparse/{kind}/glm_5/{cache}{memory}/L:{length}/threads:2", seconds, **counters)


def beside(library, seconds):
    """A product of 4e8 flop, ours or another library's."""
    return case(f"libraries/{library}/linear/deepseek_v3/o_proj/fp32/T:8/threads:2", seconds, 4e8)


def recorded(*cases, **context):
    machine = {"date": "today", "num_cpus": 2, "isa": "test", "compiler": "test", "bf16_products": "tile registers"}
    return {"context": {**machine, **context}, "benchmarks": list(cases)}


def decode_times(length, mla, gqa, mha):
    return [compared(kind, length, seconds) for kind, seconds in (("mla", mla), ("gqa", gqa), ("mha", mha))]


class Report(unittest.TestCase):
    def setUp(self):
        undrawn = mock.patch("report.draw", return_value=[])  # it takes a second
        self.addCleanup(undrawn.stop)
        undrawn.start()

    def report_of(self, *cases, **context):
        """report.md of the cases, and what was printed."""
        with tempfile.TemporaryDirectory() as folder:
            raw, out = Path(folder, "raw"), Path(folder, "out")
            raw.mkdir()
            (raw / "compare.json").write_text(json.dumps(recorded(*cases, **context)), encoding="utf-8")
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                report.main(["--from", str(raw), "--out", str(out)])
            return (out / "report.md").read_text(encoding="utf-8"), printed.getvalue()

    def row(self, text, label):
        """The cells of a table's row."""
        rows = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith(f"| {label} ")]
        self.assertEqual(len(rows), 1, f"{label} in:\n{text}")
        return [cell.strip() for cell in rows[0]]

    def test_ratios_are_times_divided(self):
        text, printed = self.report_of(*decode_times(65536, 0.1, 0.025, 0.3))
        for shown in (text, printed):
            times = self.row(shown, "decode, attention core, 65536 cached")[1:]
            self.assertEqual(times, ["100 ms", "25.0 ms", "300 ms", "0.25×", "3.00×"])
            self.assertEqual(self.row(shown, "cache bytes a token and layer")[1:], ["1152", "4096", "65.5 k", "3.56×", "56.9×"])

    def test_tokens_that_fit_count_all_layers(self):
        text, _ = self.report_of(*decode_times(1024, 1.0, 1.0, 1.0))
        # 2^34 / (1152 · 61), / (4096 · 61), / (65536 · 61)
        self.assertEqual(self.row(text, "tokens in 16 GiB, 61 layers")[1:4], ["244 k", "68.8 k", "4297"])

    def test_the_comparison_is_the_last_table_on_the_screen(self):
        _, printed = self.report_of(*decode_times(1024, 1.0, 1.0, 1.0))
        self.assertGreater(printed.index("## MLA beside GQA and MHA"), printed.index("## Where GQA is faster"))

    def test_verdict_when_gqa_is_faster(self):
        text, _ = self.report_of(*decode_times(1024, 0.002, 0.001, 0.002), *decode_times(65536, 0.1, 0.025, 0.3))
        self.assertIn("- Attention core, one token: GQA is faster at 1024 (2.00×), 65536 (4.00×) cached tokens.", text)
        self.assertIn("level at 1024 (1.00×) cached tokens; MLA is faster at 65536 (3.00×) cached tokens.", text)
        self.assertIn("0.25× the speed of GQA at 65536 tokens, attention core: the reverse is true here.", text)
        self.assertIn("56.9 times (1152 bytes a token and layer against 65536): confirmed.", text)

    def test_verdict_when_mla_is_not_slower(self):
        for gqa, verdict in ((0.25, "2.50× the speed of GQA at 65536 tokens, attention core: confirmed."),
                             (0.15, "1.50× the speed of GQA at 65536 tokens, attention core: not reached."),
                             (0.40, "4.00× the speed of GQA at 65536 tokens, attention core: exceeded."),
                             (0.10, "1.00× the speed of GQA at 65536 tokens, attention core: no difference here.")):
            text, _ = self.report_of(*decode_times(65536, 0.1, gqa, 0.3))
            self.assertIn("- Attention core, one token: " + ("MLA is faster at 65536" if gqa > 0.1 else "level at 65536"), text)
            self.assertIn(verdict, text)

    def test_bounds_come_from_intensity_and_balance(self):
        text, _ = self.report_of(*decode_times(65536, 0.1, 0.025, 0.3))
        self.assertIn("- bf16, tile registers: 400 GFLOP/s over 40.0 GB/s = 10.0 flop/byte", text)
        self.assertIn("- Up to four queries that share their keys are multiplied in vectors", text)
        # 278528 / 1152 flop a byte; 65536 · 278528 flop at 400 GFLOP/s.
        self.assertIn("MLA: 241.8 flop for each byte of cache. Bound by arithmetic at 65536 (46 %) cached tokens. At 65536 it took "
                      "100 ms, and could take no less than 45.6 ms.", text)
        self.assertIn("MHA: 1.0 flop for each byte of cache. Bound by memory at 65536 (36 %) cached tokens.", text)
        # 278528 flop of MLA in the time that 4096 bytes of GQA take.
        self.assertIn("turn above 68 flop/byte; this one turns at 10.0, below that, on GQA's side.", text)

    def test_each_length_has_its_bound(self):
        at_the_limit = compared("gqa", 4096, 4096 * BYTES_A_TOKEN["gqa"] / (1e9 * DRAM))
        in_vectors = {**at_the_limit, "peak_GFLOPS": 2 * PEAK}  # beside which memory is the lower limit
        text, _ = self.report_of(*decode_times(65536, 0.1, 0.025, 0.3), in_vectors)
        self.assertIn("GQA: 16.0 flop for each byte of cache. Bound by memory at 4096 (100 %); arithmetic at 65536 (43 %) cached tokens.",
                      text)
        self.assertIn("- bf16, tile registers: 400 GFLOP/s", text)

    def test_weights_are_what_a_layer_reads_beside_its_cache(self):
        text, _ = self.report_of(*[compared(kind, 1024, 0.001, "layer") for kind in BYTES_A_TOKEN])
        self.assertEqual(self.row(text, "weight bytes a layer")[1:4], ["1.00 M"] * 3)

    def test_a_case_that_could_not_run_is_named_and_left_out(self):
        name = "compare/core/deepseek_v3/mha/T:1/L:65536/threads:2"
        skipped = {"name": name, "error_occurred": True, "error_message": "not enough memory"}
        text, _ = self.report_of(compared("mla", 65536, 0.1), compared("gqa", 65536, 0.025), skipped)
        self.assertIn(f"- {name}: not enough memory", text)
        times = self.row(text, "decode, attention core, 65536 cached")[1:]
        self.assertEqual(times, ["100 ms", "25.0 ms", "–", "0.25×", "–"])

    def test_without_matplotlib_there_is_a_note(self):
        with mock.patch.dict(sys.modules, {"matplotlib": None}), mock.patch("report.draw", plots.draw):
            text, _ = self.report_of(*decode_times(1024, 1.0, 1.0, 1.0))
        self.assertIn("No plots: matplotlib is not installed", text)

    @unittest.skipUnless(importlib.util.find_spec("matplotlib"), "matplotlib is not installed")
    def test_every_plot_is_drawn_and_shown(self):
        decoded = case("decode/deepseek_v3/bf16/L:1024/q:1/threads:2", 0.002, 4e8, 8e6)
        with mock.patch("report.draw", plots.draw):
            text, _ = self.report_of(*decode_times(1024, 0.1, 0.2, 0.3), *decode_times(2048, 0.2, 0.4, 0.6), decoded,
                                     quality("fp32", 2.0, 0.064, 1024))
        for plot in ("decode_deepseek_v3", "cache_bytes", "percent_of_peak", "quality"):
            self.assertIn(f"![{plot}]({plot}.svg)", text)

    def test_a_rounded_cache_is_held_against_the_first(self):
        text, printed = self.report_of(quality("fp32", 2.0, 0.064, 1024), quality("bf16", 2.25, 0.032, 512))
        for shown in (text, printed):
            self.assertEqual(self.row(shown, "fp32")[1:], ["2.00000", "+0.00000", "4.0000", "1024", "8000"])
            self.assertEqual(self.row(shown, "bf16")[1:], ["2.25000", "+0.25000", "4.7568", "512", "16.0 k"])

    def test_narrow_weights_are_held_against_the_first(self):
        def layer(kind, tokens, seconds, read):
            name = f"layer/deepseek_v3/bf16/weights:{kind}/T:{tokens}/L:4096/threads:2"
            return case(name, seconds, read=read + 4096 * 1152, cache_bytes_a_token=1152, projections_pct=60.0)

        def lost(kind, bits, error):
            return case(f"quality/bible/weights:{kind}/threads:1", 0.1, bits_a_byte=bits, logit_error=error)

        cases = [layer("bf16", 1, 0.04, 374e6), layer("fp8", 1, 0.02, 193e6), layer("fp8", 64, 0.8, 193e6), lost("bf16", 2.0, 0.0),
                 lost("fp8", 2.0003, 0.012)]
        for shown in self.report_of(*cases, quality("bf16", 2.25, 0.032, 512)):
            self.assertEqual(self.row(shown, "deepseek_v3, bf16")[1:],
                             ["374", "40.0 ms", "1.00", "60 %", "25", "–", "–", "2.00000", "0.0 %"])
            self.assertEqual(self.row(shown, "deepseek_v3, fp8")[1:],
                             ["193", "20.0 ms", "0.50", "60 %", "50", "–", "80", "2.00030", "1.2 %"])
            self.assertEqual(self.row(shown, "bf16")[1:3], ["2.25000", "+0.00000"])
            self.assertNotIn("Where a layer's step goes", shown)

    def test_accuracy_is_shown_by_cache_and_spread_of_probabilities(self):
        even = accuracy("fp32", "even", 2.04e-7, 1.2e-6, length=1024)
        for shown in self.report_of(even, accuracy("fp32", "flat", 3e-7, 2e-6), accuracy("int8", "flat", 4e-3, 5e-2)):
            self.assertEqual(self.row(shown, "even, 1024 cached")[1:], ["2.0e-07 (1e-06)", "–"])
            self.assertEqual(self.row(shown, "flat, 65536 cached")[1:], ["3.0e-07 (2e-06)", "4.0e-03 (5e-02)"])

    def test_more_threads_are_held_against_one_and_the_nearer_limit(self):
        many = case("scale/decode/deepseek_v3/bf16/L:4096/threads:16", 0.001, 2e8, 3e7, ratio=14.25)
        one = case("scale/decode/deepseek_v3/bf16/L:4096/threads:1", 0.001, 2e8, 1e7)
        for shown in self.report_of(one, many):
            self.assertEqual(self.row(shown, "decode/deepseek_v3/bf16/L:4096/threads:1")[1:],
                             ["1.00 ms", "10.0", "–", "50", "25", "arithmetic"])
            self.assertEqual(self.row(shown, "decode/deepseek_v3/bf16/L:4096/threads:16")[1:],
                             ["1.00 ms", "30.0", "14.2× of 16", "50", "75", "memory"])

    def test_serving_is_held_against_its_reference(self):
        text, printed = self.report_of(served("cascade/deepseek_v2_lite/bf16/requests:16/threads:2", 0.05, 1.345))
        for shown in (text, printed):
            row = self.row(shown, "cascade/deepseek_v2_lite/bf16/requests:16/threads:2")[1:]
            self.assertEqual(row, ["50.0 ms", "80", "25", "1.34×"])

    def test_selecting_keys_is_held_against_attending_to_all(self):
        text, printed = self.report_of(sparse_case("dense", 4096, 0.004), sparse_case("select", 4096, 0.001),
                                       sparse_case("dense", 131072, 0.128), sparse_case("select", 131072, 0.030),
                                       sparse_case("attend", 131072, 0.002, ratio=0.9))
        rows = [" ".join(line.split()) for line in text.splitlines()]
        self.assertIn("| glm_5, bf16 | 131072 | 128 ms | 30.0 ms | 2.00 ms | 32.0 ms | 4.00× |", rows)
        self.assertIn("| glm_5, bf16 | 4096 | 4.00 ms | 1.00 ms | 2.00 ms | 3.00 ms | 1.33× |", rows)
        self.assertIn("| glm_5/bf16/pages_4k/L:131072/threads:2 | 2.00 ms | 90 % |", rows)
        self.assertIn("## Sparse attention", printed)

    def goal(self, what, *cases):
        """The cells of a goal's row behind its unit, and the goals that have a row."""
        text, _ = self.report_of(*cases)
        section = text[text.index("## Goals"):]
        return self.row(section, what)[2:], section

    def test_goals_name_the_lowest_case(self):
        cases = [case(f"decode/deepseek_v3/bf16/L:{length}/q:1/threads:2", 1.0, 4e9 * share) for length, share in ((1024, 95), (4096, 81))]
        row, section = self.goal("decode, bf16, 128 heads", *cases)
        self.assertEqual(row, ["92", "1 of 2", "81", "95", "decode/deepseek_v3/bf16/L:4096/q:1/threads:2"])
        self.assertNotIn("decode, fp32", section)
        self.assertNotIn("2 threads", section)

    def test_goals_hold_more_queries_and_threads_against_one(self):
        cases = [case(f"decode/deepseek_v3/bf16/L:1024/q:{queries}/threads:{threads}", 1.0, flops)
                 for queries, threads, flops in ((1, 1, 1e11), (1, 2, 1.5e11), (4, 2, 1.2e11))]
        row, section = self.goal("decode, 4 queries", *cases)
        self.assertEqual(row, ["100", "0 of 1", "80", "80", "decode/deepseek_v3/bf16/L:1024/q:4/threads:2"])
        row = self.row(section, "decode and prefill, 2 threads")[2:]
        self.assertEqual(row, ["190", "0 of 1", "150", "150", "decode/deepseek_v3/bf16/L:1024/q:1/threads:2"])

    def test_goals_hold_geometries_against_their_neighbours(self):
        # 128 heads stand behind 8 in the alphabet, not here; the case of 1 head is bounded by memory.
        names = {heads: f"decode/H{heads}_Dc256/fp32/L:4096/q:1/threads:1" for heads in (1, 8, 128)}
        cases = [case(names[1], 1.0, 4e9, 20e9), case(names[8], 1.0, 4e9 * 20), case(names[128], 1.0, 4e9 * 90)]
        row, _ = self.goal("decode, other geometries", *cases)
        self.assertEqual(row, ["50", "2 of 3", "22", "450", names[8]])

    def test_a_layers_step_is_divided(self):
        step = case("layer/deepseek_v3/bf16/T:1/L:1024/threads:2", 0.02, projections_pct=80.04, attention_pct=19.5, rest_pct=0.46)
        prompt = case("layer/deepseek_v3/bf16/T:512/L:512/threads:2", 0.2)
        text, printed = self.report_of(step, prompt)
        for shown in (text, printed):
            self.assertEqual(self.row(shown, "deepseek_v3, bf16")[1:], ["1024", "2", "20.0 ms", "80.0", "19.5", "0.5"])

    def test_kernels_are_held_against_the_fastest_library(self):
        text, printed = self.report_of(beside("mla", 0.002), beside("eigen", 0.008), beside("onednn", 0.004))
        for shown in (text, printed):
            self.assertEqual(self.row(shown, "case")[1:], ["mla", "Eigen", "oneDNN", "mla vs the best other"])
            row = self.row(shown, "linear/deepseek_v3/o_proj/fp32/T:8/threads:2")[1:]
            self.assertEqual(row, ["200 (50 %)", "50 (12 %)", "100 (25 %)", "2.00×"])

    def test_pytorch_stands_beside_or_is_said_to_lack(self):
        text, _ = self.report_of(beside("mla", 0.002), beside("pytorch", 0.008), pytorch="2.15.0")
        self.assertEqual(self.row(text, "case")[1:], ["mla", "PyTorch", "mla vs the best other"])
        self.assertIn("PyTorch 2.15.0, in a process of its own", text)
        _, printed = self.report_of(beside("mla", 0.002), pytorch="not installed")
        self.assertIn("PyTorch is not beside them: the python3 of this run has none.", printed)
        self.assertEqual(self.row(printed, "case")[1:], ["mla", "mla vs the best other"])

    def test_what_one_program_says_of_the_machine_stands_beside_what_others_say(self):
        measurements = Measurements()
        measurements.add(recorded(pytorch="2.15.0"))
        measurements.add(recorded(isa="last"))
        self.assertEqual((measurements.context["pytorch"], measurements.context["isa"]), ("2.15.0", "last"))

    def test_libraries_are_compared_by_what_they_reach_of_the_peak_beside_them(self):
        slowed = {**beside("mla", 0.008), "peak_pct": 50.0}  # while the machine ran at a quarter of its speed
        text, _ = self.report_of(slowed, beside("onednn", 0.004))
        row = self.row(text, "linear/deepseek_v3/o_proj/fp32/T:8/threads:2")[1:]
        self.assertEqual(row, ["50 (50 %)", "100 (25 %)", "2.00×"])

    def test_kernels_other_than_the_comparison_have_their_tables(self):
        text, _ = self.report_of(case("decode/deepseek_v3/bf16/L:1024/q:1/threads:2", 0.002, 4e8, 8e6))
        row = self.row(text, "deepseek_v3/bf16/L:1024/q:1/threads:2")[1:]
        self.assertEqual(row, ["2.00 ms", "200", "50", "100", "4.00", "10"])
        self.assertNotIn("## MLA beside", text)


# Stands in for a program: lists cases, and writes one measurement for each that the filter lets through.
FAKE_PROGRAM = """#!{python}
import json, re, sys
cases = {cases}
flags = dict(flag.removeprefix("--benchmark_").partition("=")[::2] for flag in sys.argv[1:])
chosen = [case for case in cases if re.search(flags.get("filter", "."), case["name"])]
for case in chosen:
    print(case["name"], "" if "list_tests" in flags else "  1.00 ms  1.00 ms  10")
if "list_tests" not in flags:
    open(flags["out"], "w").write(json.dumps({{"context": {{}}, "benchmarks": chosen}}))
sys.exit({status})
"""


# A case of each program; a quick run takes those of roofline and quality, and of compare at 1024 tokens.
FAKE_CASES = {
    "roofline": [case("roofline/fma_fp32/threads:2", 1.0)],
    "linear": [case("linear/deepseek_v3/o_proj/bf16/T:8/threads:2", 1.0)],
    "decode": [case("decode/deepseek_v3/bf16/L:2048/q:1/threads:2", 1.0)],
    "prefill": [case("prefill/deepseek_v3/bf16/T:2048/L:2048/threads:2", 1.0)],
    "grouped": [case("grouped/deepseek_v3/bf16/L:2048/threads:2", 1.0)],
    "layer": [case("layer/deepseek_v3/bf16/T:1/L:2048/threads:2", 1.0)],
    "serving": [served("paged/deepseek_v3/bf16/page:64/L:16384/threads:2", 1.0, 1.0)],
    "sparse": [sparse_case("attend", 131072, 0.002, "fp8", ratio=0.9)],
    "scale": [case("scale/decode/deepseek_v3/bf16/L:65536/threads:2", 1.0, ratio=1.9)],
    "libraries": [beside("mla", 1.0)],
    "compare": decode_times(1024, 0.1, 0.05, 0.2) + decode_times(2048, 0.1, 0.05, 0.2),
    "quality": [quality("bf16", 2.0, 0.064, 512)],
    "accuracy": [accuracy("bf16", "flat", 2e-3, 1e-2)],
}


class RunPrograms(unittest.TestCase):
    def run_report(self, folder, *arguments, status=0):
        for program, cases in FAKE_CASES.items():
            path = Path(report.program_path(folder, program))
            path.write_text(FAKE_PROGRAM.format(python=sys.executable, cases=cases, status=status), encoding="utf-8")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            report.main(["--bin-dir", str(folder), "--out", str(folder / "out"), *arguments])
        return printed.getvalue()

    def test_quick_measures_its_selection_with_progress(self):
        with tempfile.TemporaryDirectory() as folder:
            printed = self.run_report(Path(folder))
        self.assertRegex(printed, r"\[4/5\] +\d+ s +compare/core/deepseek_v3/mha/T:1/L:1024/threads:2 +1\.00 ms")
        self.assertIn("decode, attention core, 1024 cached", printed)
        self.assertNotIn("2048 cached", printed)

    def test_full_measures_everything_and_keeps_the_raw_files(self):
        with tempfile.TemporaryDirectory() as folder:
            printed = self.run_report(Path(folder), "--full")
            raw = sorted(path.name for path in Path(folder, "out", "raw").iterdir())
        self.assertIn("2048 cached", printed)
        self.assertEqual(raw, sorted(f"{program}.json" for program in report.PROGRAMS))

    def test_a_program_that_fails_ends_the_run(self):
        with tempfile.TemporaryDirectory() as folder, self.assertRaises((SystemExit, report.subprocess.CalledProcessError)):
            self.run_report(Path(folder), status=3)


class DeviceCheck(unittest.TestCase):
    def gathered(self, tests, **raw):
        """The status and the file of device_json.py for lines of tests and texts of raw files."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "raw").mkdir()
            for program, text in raw.items():
                (folder / "raw" / f"{program}.json").write_text(text, encoding="utf-8")
            (folder / "tests").write_text(tests, encoding="utf-8")
            with mock.patch.object(sys, "argv", ["", name, str(folder / "out.json"), "abc"]), contextlib.redirect_stdout(io.StringIO()):
                status = device_json.main()
            return status, json.loads((folder / "out.json").read_text(encoding="utf-8"))

    def test_all_that_ran_is_in_one_file(self):
        status, found = self.gathered("avx2 linear true\n", decode=json.dumps(recorded(beside("mla", 1.0))))
        self.assertEqual((status, found["commit"], list(found["runs"]), found["unfinished"]), (0, "abc", ["decode"], []))
        self.assertEqual(found["tests"], [{"target": "avx2", "test": "linear", "passed": True}])

    def test_a_program_that_was_cut_off_is_named_and_fails(self):
        status, found = self.gathered("avx2 linear true\n", decode=json.dumps(recorded()), scale='{"benchmarks": [')
        self.assertEqual((status, list(found["runs"]), found["unfinished"]), (1, ["decode"], ["scale"]))

    def test_a_failed_test_or_none_at_all_fails(self):
        for tests in ("", "avx2 linear true\navx2 targets false\n"):
            self.assertEqual(self.gathered(tests, decode=json.dumps(recorded()))[0], 1)


if __name__ == "__main__":
    unittest.main()
