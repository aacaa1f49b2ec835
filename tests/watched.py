"""A tracer whose spans are watched: each that began has to end, once."""

from __future__ import annotations

import threading
from collections import Counter

import spanhook
from doubles import WAIT_S, Memory
from spanhook import Call, Span, Tracer


class Watching(Memory):
    """Notes which spans begin; a finished one is in `spans`."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[str] = []

    @spanhook.hookimpl
    def span_start(self, span: Span, call: Call) -> None:
        self.begun.append(span.span_id)


class Watched:
    """A tracer, and what it saw."""

    def __init__(self) -> None:
        self.memory = Watching()
        self.tracer: Tracer = spanhook.configure({"tracing": {"backends": []}}, plugins={"watching": self.memory})
        self.ended: list[str] = []
        self.changed = threading.Condition()

    def note(self, span: Span) -> None:
        """A span has ended."""
        with self.changed:
            self.ended.append(span.span_id)
            self.changed.notify_all()

    def spans(self) -> list[Span]:
        """The finished spans; every span that began has ended, once, and the tracer had no trouble of its own."""
        with self.changed:  # what dspy.Parallel gave up on runs on
            assert self.changed.wait_for(lambda: len(self.ended) >= len(self.memory.begun), WAIT_S)
        assert self.tracer.flush(WAIT_S)
        assert Counter(span.span_id for span in self.memory.spans) == Counter(self.memory.begun)
        assert self.tracer.stats().errors == {}
        return self.memory.spans
