"""Measures every tracer, one after the other, and writes docs/explanation/benchmarks.md and its plot: `make bench`.

Options: `--scale 0.1` for a quick look, and names of modes to measure only those. Without names the figures go into the
docs; with names they are only printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import report

HERE = Path(__file__).parent
ROOT = HERE.parent
UV = ROOT / ".tools/bin/uv"

# What our own environment does not have anyway gets one that can be thrown away.
OWN_ENVIRONMENT = {
    "OpenInference": ["openinference-instrumentation-dspy", "opentelemetry-exporter-otlp-proto-http"],
    "MLflow": ["mlflow", "opentelemetry-exporter-otlp-proto-http"],
}
IMPORTS = {
    "Spanhook": "spanhook",
    "structlog": "structlog",
    "OpenTelemetry with OTLP": "opentelemetry.sdk.trace, opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "raindrop-dspy": "raindrop_dspy",
    "Opik": "opik.integrations.dspy.callback",
    "OpenInference": "openinference.instrumentation.dspy",
    "MLflow": "mlflow.dspy",
}
ENVIRONMENT = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONHASHSEED": "0"}
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is not compiled at each import


def python_for(mode: str) -> str | None:
    """The interpreter that has what a mode needs; None where that can't be installed."""
    packages = OWN_ENVIRONMENT.get(mode)
    if packages is None:
        return sys.executable
    python = ROOT / ".venvs" / f"bench-{mode.lower()}" / "bin" / "python"
    try:
        if not python.exists():
            subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, python.parent.parent], check=True)
        install = [UV, "pip", "install", "--quiet", "--python", python, f"dspy=={version('dspy')}", *packages]
        subprocess.run(install, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{mode}: not measured: {error}", file=sys.stderr)
        return None
    return str(python)


def measure(mode: str, python: str, sink: str, scale: float) -> dict[str, Any] | None:
    """The figures of one mode, from a process of its own; None where that fails."""
    done = subprocess.run(
        [python, HERE / "worker.py", mode, sink, str(scale)], env=ENVIRONMENT, capture_output=True, text=True
    )
    if done.returncode:
        print(f"{mode}: failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}", file=sys.stderr)
        return None
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def import_ms(python: str, modules: str) -> float | None:
    """What importing `modules` takes when DSPy has been imported, in ms; the least of some runs."""
    code = f"import time, dspy; t = time.perf_counter(); import {modules}; print((time.perf_counter() - t) * 1000)"
    runs = [subprocess.run([python, "-c", code], env=ENVIRONMENT, capture_output=True, text=True) for _ in range(5)]
    times = [float(run.stdout) for run in runs if not run.returncode]
    return min(times) if times else None


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modes", nargs="*", choices=[[], *report.MODES], metavar="MODE")
    parser.add_argument("--scale", type=float, default=1.0, help="how many rounds, as a share of the usual number")
    asked = parser.parse_args()
    sink = subprocess.Popen([sys.executable, HERE / "sink.py"], stdout=subprocess.PIPE, text=True)
    assert sink.stdout is not None
    figures: dict[str, Any] = {}
    imports: dict[str, float] = {}
    try:
        url = sink.stdout.readline().strip()
        for mode in asked.modes or report.MODES:
            python = python_for(mode)
            if python is None:
                continue
            print(f"{mode} …", file=sys.stderr, flush=True)
            if (found := measure(mode, python, url, asked.scale)) is not None:
                figures[mode] = found
            if mode in IMPORTS and not asked.modes and (took := import_ms(python, IMPORTS[mode])) is not None:
                imports[mode] = took
    finally:
        sink.terminate()
        sink.wait()
    for name in IMPORTS:
        if not asked.modes and name not in imports and name not in OWN_ENVIRONMENT:
            took = import_ms(sys.executable, IMPORTS[name])
            imports.update({name: took} if took is not None else {})
    print(report.table(figures))
    if not asked.modes:
        floors = [one["predict"]["floor"]["median_us"] for one in figures.values()]
        report.write(ROOT / "docs/explanation", figures, imports, statistics.median(floors))


if __name__ == "__main__":
    main()
