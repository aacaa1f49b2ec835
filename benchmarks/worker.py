"""Measures one tracer in one process and prints the figures as JSON: `python worker.py MODE SINK SCALE`.

Blocks of calls with the tracer, with one empty callback (the floor) and with nothing take turns, so that whatever else
the machine does meets all three alike. Times are CPU times of the calling thread unless they say otherwise.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy

import workloads
from tracers import MODES, Mode

Clock = Callable[[], int]


class Case:
    """One program in all modes; what is new of each is kept."""

    def __init__(self, make: Callable[[], dspy.Module], modes: dict[str, Mode], text: str = workloads.QUESTION) -> None:
        self._runs = {name: (mode, mode.wrap(make())) for name, mode in modes.items()}
        self._text = text

    def block(self, name: str, calls: int, clock: Clock, walls: list[int] | None = None, flush: bool = False) -> float:
        """Time of one call in µs, as the average of a block."""
        mode, program = self._runs[name]
        text = self._text
        with mode.on(), dspy.context(callbacks=[*mode.callbacks]):
            started = clock()
            for _ in range(calls):
                if walls is not None:
                    at = time.perf_counter_ns()
                program(question=text)
                if walls is not None:
                    walls.append(time.perf_counter_ns() - at)
            if flush:
                mode.flush()
            taken = clock() - started
        if not flush:
            mode.flush()
        return taken / calls / 1e3

    def rounds(self, count: int, calls: int, clock: Clock, flush: bool = False) -> dict[str, Any]:
        """Minima, medians, and the median of each mode's ratio to the floor of the same round."""
        names = list(self._runs)
        times: dict[str, list[float]] = {name: [] for name in names}
        walls: dict[str, list[int]] = {name: [] for name in names}
        for name in names:  # warm
            self.block(name, calls, clock)
        for round_ in range(count):
            for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
                times[name].append(self.block(name, calls, clock, walls[name] if not flush else None, flush))
        return {
            name: {
                "min_us": min(taken),
                "median_us": statistics.median(taken),
                "ratio": statistics.median(a / b for a, b in zip(taken, times["floor"], strict=True)),
                **({"wall_p50_us": _at(walls[name], 0.5), "wall_p99_us": _at(walls[name], 0.99)} if not flush else {}),
            }
            for name, taken in times.items()
        }

    def peak_mb(self, name: str) -> float:
        """The most memory that Python holds during one call and its delivery, over what it held before."""
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        self.block(name, 1, time.thread_time_ns, flush=True)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return (peak - before) / 1e6


def _at(values: list[int], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] / 1e3


def measure(name: str, sink: str, scale: float) -> dict[str, Any]:
    """All figures of one mode."""
    # What DSPy keeps of its last calls is as long as it may get, as in any program that has run for a while. Else it
    # grows, and each new page of memory is charged to whichever tracer runs when it is taken.
    dspy.configure(lm=workloads.model(), max_history_size=100, max_trace_size=100)
    mode = MODES[name](sink)
    modes = {"off": MODES["off"](sink), "floor": MODES["floor"](sink), "tracer": mode}

    def times(number: int) -> int:
        return max(1, round(number * scale))

    def sizes(*all_: int) -> tuple[int, ...]:
        return all_ if times(600) > 10 else all_[:1]

    large = Case(workloads.predict, modes, "x" * 5_000_000)
    predict = Case(workloads.predict, modes)
    found: dict[str, Any] = {
        "predict": predict.rounds(times(60), times(20), time.thread_time_ns),
        "agent": Case(workloads.Agent, modes).rounds(times(40), times(4), time.thread_time_ns),
        "delivery": predict.rounds(times(20), times(200), time.process_time_ns, flush=True),
        "large": large.rounds(times(15), 1, time.thread_time_ns),
        "large_peak_mb": {name: large.peak_mb(name) for name in modes},
    }
    if name.startswith("spanhook"):
        found["wide"] = {n: _per_span(lambda n=n: workloads.Wide(n), n + 1, modes, times) for n in sizes(10, 100, 1000)}
        found["deep"] = {n: _per_span(lambda n=n: workloads.Deep(n), n + 1, modes, times) for n in sizes(1, 10, 50)}
    mode.close()
    return found


def _per_span(
    make: Callable[[], dspy.Module], spans: int, modes: dict[str, Mode], times: Callable[[int], int]
) -> float:
    """What a span costs the calling thread over the floor, in µs."""
    figures = Case(make, modes).rounds(times(12), max(1, times(600) // spans), time.thread_time_ns)
    return (figures["tracer"]["median_us"] - figures["floor"]["median_us"]) / spans


if __name__ == "__main__":
    mode, sink, scale = sys.argv[1:]
    figures, sys.stderr = sys.stdout, open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    json.dump(measure(mode, sink, float(scale)), figures)
    figures.flush()
    os._exit(0)  # how long a tracer takes to end is not measured here
