"""What the benchmark programs wrote, by name of case."""

import json
import statistics
from dataclasses import dataclass, field

KINDS = ("mla", "gqa", "mha")
MEMORY_GIB = 16  # in which tokens are fitted
KIND_NAMES = {"mla": "MLA", "gqa": "GQA", "mha": "MHA"}
LIBRARY_NAMES = {"mla": "mla", "eigen": "Eigen", "openblas": "OpenBLAS", "onednn": "oneDNN", "pytorch": "PyTorch"}


@dataclass(frozen=True)
class Model:
    """A published model, as its config.json describes it (num_attention_heads, num_hidden_layers)."""

    preset: str
    name: str
    heads: int
    layers: int


MODELS = (Model("deepseek_v2_lite", "DeepSeek-V2-Lite", 16, 27), Model("deepseek_v3", "DeepSeek-V3", 128, 61))


def _parts(name):
    """layer/deepseek_v3/bf16/weights:fp8/T:8/threads:2 -> {"weights": "fp8", "T": 8, "threads": 2}"""
    pairs = (part.split(":") for part in name.split("/") if ":" in part)
    return {key: int(value) if value.isdigit() else value for key, value in pairs}


@dataclass
class Measurements:
    """`cases`: name -> counters of Google Benchmark and ours; those that could not run are in `skipped`: name -> why."""

    context: dict = field(default_factory=dict)
    cases: dict = field(default_factory=dict)
    skipped: dict = field(default_factory=dict)

    def add(self, recorded):
        self.context.update(recorded["context"])  # programs say the same, and some say more
        for case in recorded["benchmarks"]:
            if case.get("error_occurred"):
                self.skipped[case["name"]] = case["error_message"]
            else:
                self.cases[case["name"]] = case

    def named(self, prefix):
        """(name, its numbers such as T and L, counters) of the cases below `prefix`, in the order they ran."""
        return [(name, _parts(name), case) for name, case in self.cases.items() if name.startswith(prefix)]

    def compared(self, what, model, kind):
        """{(T, L): counters} of one kind of attention; `what` is core or layer."""
        found = self.named(f"compare/{what}/{model.preset}/{kind}/")
        return {(parts["T"], parts["L"]): case for _, parts, case in found}

    def decoded(self, what, model, kind):
        """{L: counters} of decode steps of one token, by L."""
        return {key[1]: case for key, case in sorted(self.compared(what, model, kind).items()) if key[0] == 1}

    def beside_libraries(self):
        """{case: {library: counters}} of the kernels beside other libraries, in the order they ran."""
        found = {}
        for name, _, case in self.named("libraries/"):
            _, library, rest = name.split("/", 2)
            found.setdefault(rest, {})[library] = case
        return found

    def quality(self):
        """{cache type: counters} of reading held-out text, in the order they ran."""
        return {name.split("/")[2]: case for name, parts, case in self.named("quality/") if "weights" not in parts}

    def weight_quality(self):
        """{weights' type: counters} of the same with projections of that type."""
        return {parts["weights"]: case for _, parts, case in self.named("quality/") if "weights" in parts}

    def weight_layers(self):
        """{preset: {weights' type: {T: counters}}} of layers over most threads, in the order they ran."""
        found = {}
        cases = [(name.split("/")[1], parts, case) for name, parts, case in self.named("layer/") if "weights" in parts]
        most = max((parts["threads"] for _, parts, _ in cases), default=0)
        for preset, parts, case in cases:
            if parts["threads"] == most:
                cached = parts["L"] * case["cache_bytes_a_token"]
                found.setdefault(preset, {}).setdefault(parts["weights"], {})[parts["T"]] = {**case, "weight_bytes": case["bytes"] - cached}
        return found

    def accuracy(self):
        """{(cache type, spread of probabilities, L): counters} of decoding beside the reference, in the order they ran."""
        return {(*name.split("/")[1:3], parts["L"]): case for name, parts, case in self.named("accuracy/")}

    def limit(self, counter):
        """Median of a machine limit over MLA's cases of the comparison, probed between the steps of each; None without any."""
        values = [case[counter] for name, _, case in self.named("compare/") if "/mla/" in name]
        return statistics.median(values) if values else None

    def threads(self):
        """The threads of the comparison."""
        return max((parts["threads"] for _, parts, _ in self.named("compare/")), default=None)

    def cache_bytes(self, model, kind):
        """Bytes of cache a token and layer; None when nothing was measured."""
        for what in ("core", "layer"):
            for case in self.compared(what, model, kind).values():
                if "cache_bytes_a_token" in case:
                    return case["cache_bytes_a_token"]
        return None

    def weight_bytes(self, model, kind):
        """Bytes of weights that a decode step of a layer reads; None when nothing was measured."""
        for length, case in self.decoded("layer", model, kind).items():
            return case["bytes"] - length * case["cache_bytes_a_token"]
        return None

    def tokens_that_fit(self, model, kind, layers):
        """Tokens whose cache of so many layers fits into MEMORY_GIB; None when nothing was measured."""
        a_token = self.cache_bytes(model, kind)
        return None if a_token is None else MEMORY_GIB * 2**30 // (a_token * layers)


def load(folder):
    """The measurements of all JSON files in a folder."""
    measurements = Measurements()
    for path in sorted(folder.glob("*.json")):
        measurements.add(json.loads(path.read_text(encoding="utf-8")))
    return measurements
