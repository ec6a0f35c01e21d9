"""SVG plots, where matplotlib is installed."""

from measurements import KIND_NAMES, KINDS, MODELS

# Colours that stay apart for colour-blind eyes (Okabe and Ito).
COLOURS = {"mla": "#0072b2", "gqa": "#e69f00", "mha": "#999999"}


def _save(figure, folder, name):
    figure.tight_layout()
    figure.savefig(folder / name)
    return name


def _decode_times(pyplot, measurements, model, folder):
    """Time of a decode step over cached tokens: attention core and whole layer."""
    series = {}
    for what in ("core", "layer"):
        for kind in KINDS:
            points = [(length, 1e3 * case["median_s"]) for length, case in measurements.decoded(what, model, kind).items()]
            if points:
                series[what, kind] = points
    if not series:
        return []
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, squeeze=False)
    panels = {"core": (axes[0][0], "attention core"), "layer": (axes[0][1], "whole layer")}
    for (what, kind), points in series.items():
        panels[what][0].plot(*zip(*points), "o-", color=COLOURS[kind], label=KIND_NAMES[kind])
    for what, (axis, title) in panels.items():
        axis.set(title=f"{model.name}, {title}", xlabel="cached tokens", yscale="log")
        axis.set_xscale("log", base=2)
        axis.grid(alpha=0.3)
        if any(drawn == what for drawn, _ in series):
            axis.legend()
    axes[0][0].set_ylabel("ms a decode step")
    return [_save(figure, folder, f"decode_{model.preset}.svg")]


def _cache_bytes(pyplot, measurements, folder):
    """Bytes a token and layer."""
    models = [model for model in MODELS if measurements.cache_bytes(model, "mla")]
    if not models:
        return []
    figure, axes = pyplot.subplots(1, len(models), figsize=(4 * len(models), 4), squeeze=False)
    for axis, model in zip(axes[0], models):
        values = [measurements.cache_bytes(model, kind) or 0 for kind in KINDS]
        bars = axis.bar([KIND_NAMES[kind] for kind in KINDS], values, color=[COLOURS[kind] for kind in KINDS])
        axis.bar_label(bars, fmt="%.0f")
        axis.set_title(model.name)
    axes[0][0].set_ylabel("cache bytes a token and layer (bf16)")
    return [_save(figure, folder, "cache_bytes.svg")]


def _percent_of_peak(pyplot, measurements, folder):
    """Decode of one query over cached tokens, of the models' geometries on the most threads measured."""
    series = {}
    for name, parts, case in measurements.named("decode/"):
        _, preset, cache_type, *_ = name.split("/")
        if parts["q"] == 1 and "_Dc" not in preset:
            series.setdefault((parts["threads"], preset, cache_type), []).append((parts["L"], case["peak_pct"]))
    if not series:
        return []
    most = max(threads for threads, _, _ in series)
    figure, axis = pyplot.subplots(figsize=(7, 4))
    for (threads, preset, cache_type), points in series.items():
        if threads == most:
            axis.plot(*zip(*sorted(points)), "o-", label=f"{preset}, {cache_type}")
    axis.set(xlabel="cached tokens", ylabel="% of the type's peak", title=f"Absorbed decode, {most} threads")
    axis.set_xscale("log", base=2)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return [_save(figure, folder, "percent_of_peak.svg")]


def _quality(pyplot, measurements, folder):
    """Bits a byte on held-out text over bytes of cache a token."""
    measured = measurements.quality()
    if not measured:
        return []
    figure, axis = pyplot.subplots(figsize=(7, 4))
    for cache, case in measured.items():
        axis.plot(case["cache_bytes_a_token"], case["bits_a_byte"], "o", label=cache)
    axis.set(xlabel="cache bytes a token", ylabel="bits a byte", title="Held-out text by type of cache")
    axis.set_xlim(left=0)
    axis.ticklabel_format(axis="y", useOffset=False)
    axis.grid(alpha=0.3)
    axis.legend()
    return [_save(figure, folder, "quality.svg")]


def draw(measurements, folder):
    """Names of the files drawn into `folder`; None without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("svg")
        from matplotlib import pyplot
    except ImportError:
        return None
    names = []
    for model in MODELS:
        names += _decode_times(pyplot, measurements, model, folder)
    names += _cache_bytes(pyplot, measurements, folder) + _percent_of_peak(pyplot, measurements, folder)
    names += _quality(pyplot, measurements, folder)
    pyplot.close("all")
    return names
