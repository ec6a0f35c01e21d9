"""The tables of a report."""

from text import milliseconds, ratio, rounded, significant, table
from measurements import KIND_NAMES, KINDS, LIBRARY_NAMES, MEMORY_GIB, MODELS


def machine_table(measurements):
    """Peaks by number of threads."""
    rows = {}
    for name, parts, case in measurements.named("roofline/"):
        what = "/".join(part for part in name.split("/")[1:] if ":" not in part)
        unit, value = ("GB/s", case["GBps"]) if "GBps" in case else ("GOP/s" if "int8" in what else "GFLOP/s", case["GFLOPS"])
        rows.setdefault((what, unit), {})[parts["threads"]] = f"{value:.0f}"
    counts = sorted({count for row in rows.values() for count in row})
    if not rows:
        return []
    header = ["peak", *[f"{count} thread{'s' if count > 1 else ''}" for count in counts]]
    cells = [[f"{what}, {unit}", *[row.get(count, "–") for count in counts]] for (what, unit), row in rows.items()]
    return table(header, cells)


def kernel_table(measurements, program):
    """Every case of a program: median time, rates, and their share of what the machine could do."""
    header = ["case", "median", "GFLOP/s", "% of peak", "% of fp32 peak", "GB/s", "% of DRAM"]
    rows = []
    for name, _, case in measurements.named(program + "/"):
        shares = [f"{case[counter]:.0f}" for counter in ("peak_pct", "fp32_pct")]
        bandwidth = [significant(case["GBps"]), f"{case['bw_pct']:.0f}"]
        rows.append([name.split("/", 1)[1], milliseconds(case["median_s"]), f"{case['GFLOPS']:.0f}", *shares, *bandwidth])
    return table(header, rows) if rows else []


def layer_shares(measurements):
    """Where the time of a layer's decode step goes."""
    rows = []
    for name, parts, case in measurements.named("layer/"):
        if "attention_pct" not in case or "weights" in parts:
            continue
        _, preset, kind, *_ = name.split("/")
        shares = [f"{case[share]:.1f}" for share in ("projections_pct", "attention_pct", "rest_pct")]
        rows.append([f"{preset}, {kind}", str(parts["L"]), str(parts["threads"]), milliseconds(case["median_s"]), *shares])
    if not rows:
        return []
    return [
        "## Where a layer's step goes",
        "",
        "Percent of the time of a step of one token. Attention: between absorbing the query and decompressing the output.",
        "",
        *table(["layer", "cached tokens", "threads", "median", "projections", "attention", "norms, rope and append"], rows),
        "",
    ]


def serving(measurements):
    """Many requests at once, each case beside the one it took turns with."""
    cases = measurements.named("serving/")
    if not cases:
        return []
    header = ["case", "median", "tokens/s", "% of peak", "throughput against its reference"]
    rows = [
        [name.split("/", 1)[1], milliseconds(case["median_s"]), rounded(case["tokens_per_s"]), f"{case['peak_pct']:.0f}", ratio(case["ratio"])]
        for name, _, case in cases
    ]
    return [
        "## Serving",
        "",
        "References: of pages the contiguous cache, of formats bf16, of a batch and a layer one call for each request, of a cascade the",
        "same batch with its shared prefix read once for each request.",
        "",
        *table(header, rows),
        "",
    ]


def scale(measurements):
    """What more threads bring, and which limit they near."""
    rows = []
    for name, parts, case in measurements.named("scale/"):
        speed_up = f"{case['ratio']:.1f}× of {parts['threads']}" if "ratio" in case else "–"
        shares = [speed_up, f"{case['peak_pct']:.0f}", f"{case['bw_pct']:.0f}"]
        limit = "memory" if case["bw_pct"] > case["peak_pct"] else "arithmetic"
        rows.append([name.split("/", 1)[1], milliseconds(case["median_s"]), significant(1e-6 * case["bytes"]), *shares, limit])
    if not rows:
        return []
    return [
        "## More threads",
        "",
        "One token, in turns with one thread. The nearer limit: the type's peak, or memory's rate, of as many threads.",
        "",
        *table(["case", "median", "MB a step", "speed-up", "% of peak", "% of DRAM", "nearer limit"], rows),
        "",
    ]


def _sparse_rows(measurements, model, cache):
    """A row for each number of cached tokens: dense attention beside an indexer and attention to what it selects."""
    def times(kind):
        return {parts["L"]: case["median_s"] for _, parts, case in measurements.named(f"sparse/{kind}/{model}/{cache}/")}

    dense, select, attend = times("dense"), times("select"), times("attend")
    if not attend:
        return []
    attending = attend[max(attend)]  # to as many keys, from the largest cache
    rows = []
    for length in sorted(dense.keys() & select.keys()):
        both = select[length] + attending
        cells = [milliseconds(each) for each in (dense[length], select[length], attending, both)]
        rows.append([f"{model}, {cache}", str(length), *cells, ratio(dense[length] / both)])
    return rows


def sparse(measurements):
    """Where selecting keys pays, and what scattered rows cost."""
    cases = [(name, case) for name, _, case in measurements.named("sparse/")]
    models = dict.fromkeys(tuple(name.split("/")[2:4]) for name, _ in cases)
    crossover = [row for model, cache in models for row in _sparse_rows(measurements, model, cache)]
    scattered = [[name.split("/", 2)[2], milliseconds(case["median_s"]), f"{100 * case['ratio']:.0f} %"]
                 for name, case in cases if name.startswith("sparse/attend/")]
    if not cases:
        return []
    lines = ["## Sparse attention", ""]
    if crossover:
        lines += [
            "One token, without the projections: dense attention to all cached tokens beside an indexer that scores all and attention to",
            "the 2048 that it selects, which must be read from wherever they lie. Above 1× selecting pays.",
            "",
            *table(["model", "cached tokens", "dense", "indexer", "sparse", "indexer + sparse", "dense / both"], crossover),
            "",
        ]
    if scattered:
        lines += [
            "Attention to scattered rows, and its speed against dense attention to as many, with small pages of memory and large ones:",
            "",
            *table(["case", "median", "of dense speed"], scattered),
            "",
        ]
    return lines


def _pytorch_lines(measurements):
    """How PyTorch was measured, or that it was not."""
    version = measurements.context.get("pytorch")
    if version is None:
        return []
    if version == "not installed":
        return ["PyTorch is not beside them: the python3 of this run has none."]
    return [f"PyTorch {version}, in a process of its own, takes weights as they lie; its results were held against float64."]


def libraries(measurements):
    """Our kernels beside the matrix products of other libraries, those that were there."""
    cases = measurements.beside_libraries()
    if not cases:
        return []
    names = [library for library in LIBRARY_NAMES if any(library in measured for measured in cases.values())]
    rows = []
    for name, measured in cases.items():
        reached = {library: case["peak_pct"] for library, case in measured.items()}
        cells = [f"{measured[each]['GFLOPS']:.0f} ({reached[each]:.0f} %)" if each in reached else "–" for each in names]
        best = max((percent for library, percent in reached.items() if library != "mla"), default=None)
        rows.append([name, *cells, ratio(reached["mla"] / best if best and "mla" in reached else None)])
    return [
        "## Beside libraries",
        "",
        "GFLOP/s, and percent of the type's peak as probed beside each, which the last column compares: the machine's speed drifts. A",
        "library decodes with two products over the whole cache and a softmax between; in a projection it lays out its weights",
        "beforehand, where it has a way to. Each result was held against ours before it was timed.",
        *_pytorch_lines(measurements),
        "",
        *table(["case", *[LIBRARY_NAMES[library] for library in names], "mla vs the best other"], rows),
        "",
    ]


def quality(measurements):
    """What a rounded cache costs, in bits a byte beyond those of the first type, its bytes and its speed."""
    measured = measurements.quality()
    if not measured:
        return []
    first = next(iter(measured.values()))["bits_a_byte"]
    header = ["cache", "bits a byte", "beyond", "perplexity of a byte", "bytes a token", "tokens/s"]
    rows = []
    for cache, case in measured.items():
        bits = case["bits_a_byte"]
        cells = [f"{bits:.5f}", f"{bits - first:+.5f}", f"{2**bits:.4f}", rounded(case["cache_bytes_a_token"])]
        rows.append([cache, *cells, rounded(case["tokens_a_step"] / case["median_s"])])
    return [
        "## What a rounded cache costs",
        "",
        "The model of examples/generate on text that it has not seen, read byte by byte as a decoder does that writes.",
        "",
        *table(header, rows),
        "",
    ]


def _weight_rows(layers, quality, preset):
    """A line for each type of weights of a preset's layer."""
    first = next(iter(layers.values())).get(1)
    for kind, cases in layers.items():
        one = cases.get(1)
        rates = [rounded(tokens / cases[tokens]["median_s"]) if tokens in cases else "–" for tokens in (1, 16, 64)]
        step = ["–"] * 3
        if one:
            share = f"{one['projections_pct']:.0f} %" if "projections_pct" in one else "–"
            step = [milliseconds(one["median_s"]), f"{one['median_s'] / first['median_s']:.2f}" if first else "–", share]
        read = next(iter(cases.values()))["weight_bytes"]
        told = quality.get(kind)
        lost = ["–"] * 2 if told is None else [f"{told['bits_a_byte']:.5f}", f"{100 * told['logit_error']:.1f} %"]
        yield [f"{preset}, {kind}", f"{1e-6 * read:.0f}", *step, *rates, *lost]


def weights(measurements):
    """What layers save whose weights have fewer bits, and what a model loses by them."""
    layers, quality = measurements.weight_layers(), measurements.weight_quality()
    rows = [row for preset, of_preset in layers.items() for row in _weight_rows(of_preset, quality, preset)]
    if not rows:
        return []
    header = ["layer, its projections", "MB of weights", "a token", "of bf16's", "projections' share", "tokens/s, 1 at a time", "16", "64"]
    return [
        "## Weights of fewer bits",
        "",
        "A layer with a bf16 cache of 4096 tokens and its projections as named, kv_b_proj in fp8 beside narrow ones. Bits a byte and the",
        "error of logits are those of the model of examples/generate on text that it has not seen.",
        "",
        *table([*header, "bits a byte", "error of logits"], rows),
        "",
    ]


def accuracy(measurements):
    """What decoding errs by, a cache type a column."""
    measured = measurements.accuracy()
    if not measured:
        return []
    caches = list(dict.fromkeys(cache for cache, _, _ in measured))
    rows = []
    for mass, length in dict.fromkeys((mass, length) for _, mass, length in measured):
        errors = [measured.get((cache, mass, length)) for cache in caches]
        cells = ["–" if case is None else f"{case['relative_norm']:.1e} ({case['max_element']:.0e})" for case in errors]
        rows.append([f"{mass}, {length} cached", *cells])
    return [
        "## Accuracy",
        "",
        "Errors of decoding against the double reference on the rows as they read back: ‖out − ref‖ / ‖ref‖, and in brackets the",
        "largest of an element in units of the rms. Of the keys weigh: even all the same; peaked eight 1, the others 1e-6; decaying",
        "the first 1, the others 1e-3 to 1e-5; flat the first 1, the others 1e-5; rising the last 1, the others 1e-5.",
        "",
        *table(["probabilities", *caches], rows),
        "",
    ]


def _row(label, values, text, better="less"):
    """A line of the comparison: the three kinds, then how many times better MLA is than GQA and than MHA."""
    mla, *others = values
    beside = []
    for other in others:
        known = mla is not None and other is not None
        beside.append(ratio((other / mla if better == "less" else mla / other) if known else None))
    return [label, *[text(value) for value in values], *beside]


def comparison_table(measurements, model):
    """MLA beside GQA and MHA; empty without measurements."""
    def of_each(quantity, *arguments):
        return [quantity(model, kind, *arguments) for kind in KINDS]

    cache = of_each(measurements.cache_bytes)
    if not any(cache):
        return []
    kv_heads = f" ({model.heads * cache[1] / cache[2]:.0f} kv heads)" if cache[1] and cache[2] else ""
    names = [KIND_NAMES[kind] for kind in KINDS]
    header = ["", names[0], names[1] + kv_heads, names[2], "MLA vs GQA", "MLA vs MHA"]

    rows = [
        _row("cache bytes a token and layer", cache, rounded),
        _row("weight bytes a layer", of_each(measurements.weight_bytes), rounded),
    ]
    for layers in (1, model.layers):
        label = f"tokens in {MEMORY_GIB} GiB, {layers} layer{'s' if layers > 1 else ''}"
        rows.append(_row(label, of_each(measurements.tokens_that_fit, layers), rounded, better="more"))
    measured = {what: [measurements.compared(what, model, kind) for kind in KINDS] for what in ("core", "layer")}
    keys = sorted({key for cases in measured.values() for each in cases for key in each})
    for decoding in (True, False):
        for what, called in (("core", "attention core"), ("layer", "whole layer")):
            for key in keys:
                times = [each[key]["median_s"] if key in each else None for each in measured[what]]
                if (key[0] == 1) == decoding and any(times):
                    step = f"decode, {called}, {key[1]} cached" if decoding else f"prefill, {called}, {key[0]} tokens"
                    rows.append(_row(step, times, milliseconds))
    return table(header, rows)


def comparison(measurements):
    lines = []
    for model in MODELS:
        rows = comparison_table(measurements, model)
        if rows:
            title = f"{model.name} geometry: {model.heads} heads, bf16 weights and cache, {measurements.threads()} threads"
            lines += [f"### {title}", "", *rows, ""]
    if not lines:
        return []
    return [
        "## MLA beside GQA and MHA",
        "",
        "Same number of heads, hidden size, types, executor and tiles; time of one step of one layer. The last two columns say how",
        "many times better MLA is: less time, fewer bytes, more tokens. Below 1× it is the worse one.",
        "",
        *lines,
    ]
