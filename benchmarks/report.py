"""The figures as a table and as a plot."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

MODES = (
    "spanhook: structlog",
    "spanhook: structlog, no adapter spans",
    "spanhook: local",
    "spanhook: otlp",
    "spanhook: raindrop",
    "spanhook: opik",
    "spanhook: structlog, raindrop, opik",
    "OpenTelemetry, two bare spans",
    "raindrop-dspy",
    "Opik",
    "OpenInference",
    "MLflow",
)
PAGE = "benchmarks.md"
PLOT = "benchmarks.svg"
_MARKS = ("<!-- figures: written by make bench -->", "<!-- end of figures -->")

Figures = Mapping[str, Mapping[str, Any]]


def _rows(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    heads = list(heads)
    lines = [heads, ["---", *("---:" for _ in heads[1:])], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def table(figures: Figures) -> str:
    """One line a tracer."""
    heads = (
        "tracer", "one Predict", "agent", "process CPU, µs over the floor", "wall p50, µs", "wall p99, µs",
        "5 MB input, ms over the floor", "peak, MB over the floor",
    )  # fmt: skip
    return _rows(heads, (_line(mode, found) for mode, found in figures.items()))


def _line(mode: str, found: Mapping[str, Any]) -> list[object]:
    def over(case: str, unit: float = 1.0) -> float:
        figures = found[case]
        return float((figures["tracer"]["median_us"] - figures["floor"]["median_us"]) / unit)

    predict, peak = found["predict"], found["large_peak_mb"]
    return [
        mode,
        f"{predict['tracer']['ratio']:.2f}",
        f"{found['agent']['tracer']['ratio']:.2f}",
        f"{over('delivery'):.0f}",
        f"{predict['tracer']['wall_p50_us']:.0f}",
        f"{predict['tracer']['wall_p99_us']:.0f}",
        f"{over('large', 1000):.1f}",
        f"{peak['tracer'] - peak['floor']:.1f}",
    ]


def _growth(figures: Figures) -> str:
    """What one more span costs, by the number of spans in the trace and by the depth."""
    rows = []
    for mode, found in list(figures.items())[:1]:  # the backend doesn't matter to the calling thread
        for shape, label in (("wide", "{} tools under one module"), ("deep", "a module {} levels deep")):
            rows += [(mode, label.format(n), f"{cost:.0f}") for n, cost in found.get(shape, {}).items()]
    return _rows(("tracer", "trace", "a span, µs"), rows)


def plot(figures: Figures) -> str:
    """A bar for each tracer: calling-thread CPU of one Predict, as a multiple of the floor."""
    ratios = {mode: found["predict"]["tracer"]["ratio"] for mode, found in figures.items()}
    left, width, step = 290, 430, 26
    scale = width / (max(ratios.values()) - 1 or 1)
    height = step * len(ratios) + 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 70} {height}" font-family="sans-serif"'
        ' font-size="13">',
        '<text x="10" y="20" fill="#777">What one Predict costs its thread beyond one empty DSPy callback, in %</text>',
    ]
    for index, (mode, ratio) in enumerate(sorted(ratios.items(), key=lambda item: item[1])):
        y, long = 36 + index * step, max(1.0, (ratio - 1) * scale)
        colour = "#009688" if mode.startswith("spanhook") else "#b0b0b0"
        parts.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end" fill="#777">{escape(mode)}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{long:.0f}" height="17" rx="2" fill="{colour}"/>')
        parts.append(f'<text x="{left + long + 6:.0f}" y="{y + 13}" fill="#777">{(ratio - 1) * 100:.0f}</text>')
    return "\n".join([*parts, "</svg>", ""])


def write(folder: Path, figures: Figures, imports: Mapping[str, float], floor_us: float) -> None:
    """Put everything into the page and beside it."""
    packages = ("dspy", "spanhook", "opik", "raindrop-dspy", "opentelemetry-sdk", "structlog")
    machine = (
        f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in packages)}; "
        f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} cores. "
        f"The floor of one Predict was {floor_us:.0f} µs, the load average {os.getloadavg()[0]:.0f}: "
        "where that is more than the number of cores, the machine was busy with other work too, and small differences "
        "mean little."
    )
    text = "\n\n".join(
        [
            _MARKS[0],
            f"![What one Predict costs its thread]({PLOT})",
            table(figures),
            _growth(figures),
            _rows(("import over `import dspy`", "ms"), ((name, f"{took:.0f}") for name, took in imports.items())),
            machine,
            _MARKS[1],
        ]
    )
    page = folder / PAGE
    old = page.read_text(encoding="utf-8")
    pattern = f"{re.escape(_MARKS[0])}.*?{re.escape(_MARKS[1])}"
    page.write_text(re.sub(pattern, lambda _: text, old, flags=re.DOTALL), encoding="utf-8")
    (folder / PLOT).write_text(plot(figures), encoding="utf-8")


def _processor() -> str:
    try:
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        names = []
    return names[0] if names else platform.processor()
