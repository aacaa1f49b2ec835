"""The bound for the spans of one trace: what goes out, what is counted, and what is still added up."""

from __future__ import annotations

import contextvars

import dspy
import pytest
from dspy.utils.dummies import DummyLM

import spanhook
from doubles import Memory, one_span, tracer_of
from lm_server import LMServer
from spanhook import Signal, Span
from spanhook.delivery.trace_limit import DROPPED, MAX_TRACES, TraceLimit


def test_a_trace_that_is_too_long():
    """Its first spans and its root go out; the others count as dropped, for every backend, and the root says so."""
    backends = Memory(), Memory()
    tracer = tracer_of(*backends, tracing={"max_spans_per_trace": 5})
    with tracer.interaction():
        for number in range(12):
            one_span(tracer, f"{number}")
    assert tracer.flush() is False  # not all of it was delivered
    for name, memory in zip("ab", backends, strict=True):
        assert [span.name for span in memory.spans] == ["0", "1", "2", "3", "interaction"]
        assert memory.spans[-1].attributes == {DROPPED: 8}
        stats = tracer.stats().backends[name]
        assert (stats.accepted, stats.delivered, stats.dropped) == (13, 5, {"trace_full": 8})


@pytest.mark.parametrize("children", [0, 3, 4])
def test_a_trace_that_just_fits(children):
    """It is whole, and nothing is said."""
    memory = Memory()
    tracer = tracer_of(memory, tracing={"max_spans_per_trace": 5})
    with tracer.interaction():
        for number in range(children):
            one_span(tracer, f"{number}")
    assert tracer.flush()
    assert len(memory.spans) == children + 1
    assert not memory.spans[-1].attributes


def test_the_next_trace_begins_anew():
    """A full trace takes no room from others, also from those that run at the same time."""
    memory = Memory()
    tracer = tracer_of(memory, tracing={"max_spans_per_trace": 2})
    for _ in range(3):
        with tracer.span("root"):
            one_span(tracer)
    assert tracer.flush()
    assert len(memory.spans) == 6


def test_tokens_and_cost_of_spans_that_did_not_go_out():
    """The root's sums are those of all LM calls under it."""
    memory = Memory()
    with LMServer() as server:
        tracer = tracer_of(memory, tracing={"max_spans_per_trace": 3, "extractors": ["history"]})
        with tracer.interaction(), dspy.context(lm=server.lm()):
            for number in range(5):
                dspy.Predict("question -> answer")(question=f"{number}")
        tracer.flush()
        expected = sum(answered.tokens.prompt for answered in server.answered.values() if answered.tokens)
    root = memory.spans[-1]
    assert len(memory.spans) == 3
    assert root.usage is not None
    assert root.usage.input_tokens == expected


def test_programs_get_their_answers():
    """With room for the root alone."""
    tracer = tracer_of(Memory(), tracing={"max_spans_per_trace": 1})
    with tracer.interaction(), dspy.context(lm=DummyLM([{"answer": "Paris"}]), adapter=dspy.ChatAdapter()):
        assert dspy.Predict("question -> answer")(question="?").answer == "Paris"


def test_interactions_that_share_a_trace_have_a_bound_each():
    """Under one caller's trace several may run here at once: each root tells of what was under it."""
    memory = Memory()
    tracer = tracer_of(memory, tracing={"max_spans_per_trace": 3})
    caller = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    with spanhook.attach(caller):
        long, short = tracer.interaction(event="long"), tracer.interaction(event="short")
    with long:
        for _ in range(4):
            one_span(tracer)
        here = contextvars.copy_context()
        contextvars.Context().run(_run_short, short, tracer)
        here.run(one_span, tracer)
    assert tracer.flush() is False
    roots = {span.name: span.attributes.get(DROPPED) for span in memory.spans if span.kind == "interaction"}
    assert roots == {"long": 3, "short": None}


def _run_short(interaction: spanhook.Interaction, tracer: spanhook.Tracer) -> None:
    with interaction:
        one_span(tracer)


def test_a_backend_that_takes_no_spans_loses_none():
    """What a backend has no hook for is nothing to it."""

    class Signals:
        @spanhook.hookimpl
        def track_signal(self, signal: Signal) -> None:
            pass

    tracer = tracer_of(Memory(), Signals(), tracing={"max_spans_per_trace": 1})
    with tracer.interaction():
        one_span(tracer)
    tracer.flush()
    assert tracer.stats().backends["b"] == spanhook.BackendStats()


def test_traces_that_never_end_leave_little_behind():
    """Of the oldest the count begins anew."""
    limit = TraceLimit(2)

    def admits(root: int) -> bool:
        return limit.admits(Span("a" * 32, "c", f"{root}", "e", "custom", "c", 0, local_root_id=f"{root}"))

    assert [admits(0), admits(0)] == [True, False]
    assert all(admits(root) for root in range(1, MAX_TRACES + 1))
    assert admits(0)
