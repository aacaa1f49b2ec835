"""Large traces and many at once: what has ended is let go of, however much still runs around it."""

from __future__ import annotations

import contextvars
import gc
from collections import Counter
from typing import Any

import dspy
import pytest
from dspy.utils.dummies import DummyLM

import spanhook
from doubles import Memory, one_span, tracer_of
from spanhook import Span
from spanhook.active import OpenSpan
from spanhook.totals import Part
from spanhook.trace import Trace

SPANS = 5_000
TRACES = 1_000
ROOM = {"delivery": {"queue_spans": 10 * SPANS}}


class Counting:
    """A backend that remembers no span, only how many had which parent."""

    def __init__(self) -> None:
        self.parents: Counter[str | None] = Counter()

    @spanhook.hookimpl
    def emit(self, spans: Any) -> None:
        self.parents.update(span.parent_id for span in spans)


def alive() -> Counter[str]:
    """How many of our objects there are in this process."""
    gc.collect()
    kinds = (Span, OpenSpan, Trace, Part)
    return Counter(type(one).__name__ for one in gc.get_objects() if type(one) in kinds)


@pytest.mark.timeout(300)
def test_a_large_trace_is_let_go_of_while_it_runs():
    """All spans under one root arrive; once they have, only the root is still there, and after it nothing."""
    before = alive()
    tracer = tracer_of(backend := Counting(), **ROOM)
    with tracer.span("root") as root:
        for _ in range(SPANS):
            one_span(tracer)
        assert tracer.flush(60)
        assert alive() - before <= Counter({"Span": 2, "OpenSpan": 2, "Trace": 1})
    del root
    assert tracer.flush(60)
    assert sorted(backend.parents.values()) == [1, SPANS]
    assert alive() - before <= Counter({"Span": 1, "OpenSpan": 1, "Trace": 1})  # what a frame may still hold


def test_lm_calls_leave_their_sums_alone():
    """Of an LM call under a root that runs on, its sums stay, for the root's own; its span and content don't."""
    before = alive()
    tracer = tracer_of(Counting(), tracing={"extractors": ["history"]}, **ROOM)
    lm = DummyLM([{"answer": "Paris"}] * 200)
    with tracer.span("root"), dspy.context(lm=lm, adapter=dspy.ChatAdapter(), disable_history=False):
        for _ in range(200):
            lm("France?")
        assert tracer.flush(60)
        left = alive() - before
        assert left["Part"] == 200
        assert max(left["Span"], left["OpenSpan"]) <= 3
    assert tracer.flush(60)
    assert (alive() - before)["Part"] == 0


def test_dropped_lm_calls_leave_their_sums_alone():
    """Where the queue is full, nothing of the dropped calls stays with their parent but their sums."""
    before = alive()
    memory = Memory()
    tracer = tracer_of(memory, tracing={"extractors": ["history"]}, delivery={"queue_spans": 1, "interval_s": 60})
    lm = DummyLM([{"answer": "Paris"}] * 200)
    with tracer.interaction() as interaction, dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        for _ in range(200):
            lm("France?")
        left = alive() - before
        assert max(left["Span"], left["OpenSpan"]) <= 5
        assert interaction.usage_by_model is None  # this model reports none
    dropped = tracer.stats().backends["a"].dropped
    assert dropped["queue_full"] > 100


def test_many_open_traces():
    """Traces that are open at once in contexts of their own keep apart, and leave nothing behind."""
    before = alive()
    memory = Memory()
    tracer = tracer_of(memory, **ROOM)
    contexts = [contextvars.copy_context() for _ in range(TRACES)]
    roots = [tracer.interaction(convo_id=str(number)) for number in range(TRACES)]
    for context, root in zip(contexts, roots, strict=True):
        context.run(root.__enter__)
    for context in contexts:
        context.run(one_span, tracer)
    for context, root in zip(reversed(contexts), reversed(roots), strict=True):
        context.run(root.__exit__, None, None, None)
    assert tracer.flush(60)
    spans, tops = memory.spans, {span.trace_id: span for span in memory.spans if span.parent_id is None}
    assert len(spans) == 2 * TRACES
    assert len(tops) == TRACES
    assert all(span.parent_id == tops[span.trace_id].span_id for span in spans if span.parent_id is not None)
    assert all(span.convo_id == tops[span.trace_id].convo_id for span in spans)
    del contexts, context, roots, root, spans, tops
    memory.calls.clear()
    assert max((alive() - before).values(), default=0) <= 3
