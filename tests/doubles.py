"""Plugins and distributions that exist for one test only."""

from __future__ import annotations

import logging
import re
import textwrap
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import spanhook
from spanhook import BackendStats, Call, RetryLater, Signal, Span, Tracer

WAIT_S = 30.0  # for what is bound to happen


class Memory:
    """A backend that keeps what it gets: each hook's name and arguments, in the order of the calls.

    Args:
        emit: called instead of only keeping the batch, for backends that raise or block.
    """

    def __init__(self, emit: Callable[[Sequence[Span]], None] | None = None) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.threads: set[str] = set()
        self._emit = emit

    @spanhook.hookimpl
    def emit(self, spans: Sequence[Span]) -> None:
        if self._emit is not None:
            self._emit(spans)
        self._note("emit", list(spans))

    @spanhook.hookimpl
    def identify(self, user_id: str, traits: Mapping[str, Any]) -> None:
        self._note("identify", (user_id, traits))

    @spanhook.hookimpl
    def track_signal(self, signal: Signal) -> None:
        self._note("track_signal", signal)

    @spanhook.hookimpl
    def flush(self, timeout: float) -> None:
        self._note("flush", timeout)

    @spanhook.hookimpl
    def shutdown(self, timeout: float) -> None:
        self._note("shutdown", timeout)

    def _note(self, hook: str, argument: Any) -> None:
        self.threads.add(threading.current_thread().name)
        self.calls.append((hook, argument))

    @property
    def hooks(self) -> list[str]:
        return [hook for hook, _ in self.calls]

    @property
    def spans(self) -> list[Span]:
        return [span for hook, spans in self.calls if hook == "emit" for span in spans]

    @property
    def signals(self) -> list[Signal]:
        return [signal for hook, signal in self.calls if hook == "track_signal"]

    @property
    def identities(self) -> list[Any]:
        return [identity for hook, identity in self.calls if hook == "identify"]


def away(_: object) -> None:
    """What `emit` of a backend does whose server can't be reached."""
    raise RetryLater("down")


class Noting:
    """An extractor that notes its calls in a list that it shares with others, and says `facts` of each."""

    def __init__(self, name: str, notes: list[Any], facts: Any = None) -> None:
        self.name, self.notes, self.facts = name, notes, facts

    @spanhook.hookimpl
    def span_start(self, span: Span, call: Call) -> None:
        self.notes.append(f"{self.name} starts {span.kind}")

    @spanhook.hookimpl
    def span_end(self, span: Span, call: Call) -> Any:
        self.notes.append(f"{self.name} ends {span.kind}")
        return self.facts() if callable(self.facts) else self.facts


def messages(records: Sequence[logging.LogRecord]) -> list[str]:
    """What was logged, without the file and line at the end that an error was raised at."""
    return [re.sub(r" \(\S+\.py:\d+\)$", "", record.getMessage()) for record in records]


class Gate:
    """Blocks whoever passes until it is opened; `reached` is set when someone stands there."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def __call__(self, *_: object) -> None:
        self.reached.set()
        assert self._open.wait(WAIT_S)

    def open(self) -> None:
        self._open.set()


def wait_for(done: Callable[[], object]) -> None:
    """Wait until `done()` is true; for what nothing tells of when it happens."""
    deadline = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def tracer_of(*backends: Any, **sections: Any) -> Tracer:
    """A tracer with these backends alone, named a, b, …; `sections` are sections of `tracing.toml`."""
    sections["tracing"] = {"backends": [], "extractors": [], **sections.get("tracing", {})}
    return spanhook.configure(sections, plugins=dict(zip("abcdefgh", backends, strict=False)))


def traced_by(**plugins: Any) -> tuple[Tracer, Memory]:
    """A tracer with these plugins alone, in this order, before a backend that keeps everything."""
    memory = Memory()
    config = {"tracing": {"backends": [], "extractors": []}}
    return spanhook.configure(config, plugins={**plugins, "memory": memory}), memory


def counts(tracer: Tracer, name: str = "a") -> BackendStats:
    """The counts of a backend; they have to add up."""
    stats = tracer.stats().backends[name]
    assert stats.accepted == stats.delivered + stats.queued + stats.failed + sum(stats.dropped.values())
    return stats


def one_span(tracer: Tracer, name: str = "work") -> None:
    """Make one span."""
    with tracer.span(name):
        pass


def install(
    folder: Path, name: str, *, backends: str = "", extractors: str = "", metadata: bool = True, **modules: str
) -> None:
    """Put a distribution into a folder that is on `sys.path`: what pip leaves there, without pip.

    Args:
        folder: where.
        name: the distribution's; its version is 1.0.
        backends: the lines of the group `spanhook.backends`.
        extractors: the lines of the group `spanhook.extractors`.
        metadata: False leaves METADATA out, as a broken install does.
        modules: source by module name.
    """
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    groups = {"spanhook.backends": backends, "spanhook.extractors": extractors}
    points = "\n".join(f"[{group}]\n{lines}" for group, lines in groups.items() if lines)
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    if metadata:
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
