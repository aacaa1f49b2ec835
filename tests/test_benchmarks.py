"""That each benchmark runs; no test says how long anything may take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

pytest.importorskip("dspy.lm15", reason="the benchmarks' language model is an engine of DSPy 3.4")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["spanhook: structlog", "OpenTelemetry, two bare spans"])
def test_a_benchmark_runs(mode):
    """One round of each measurement gives figures for DSPy alone, for the floor and for the tracer."""
    if mode.startswith("OpenTelemetry"):
        pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    sink = subprocess.Popen([sys.executable, BENCHMARKS / "sink.py"], stdout=subprocess.PIPE, text=True)
    assert sink.stdout is not None
    try:
        url = sink.stdout.readline().strip()
        worker = [sys.executable, BENCHMARKS / "worker.py", mode, url, "0.001"]
        done = subprocess.run(worker, capture_output=True, text=True, timeout=280)
    finally:
        sink.terminate()
        sink.wait()
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    for case in ("predict", "agent", "delivery", "large"):
        assert set(figures[case]) == {"off", "floor", "tracer"}
        assert all(one["min_us"] > 0 for one in figures[case].values())
    assert all(peak > 0 for peak in figures["large_peak_mb"].values())
