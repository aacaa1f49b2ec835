"""A configured tracer: replaced by the next, disabled, sampling, and when the program takes its callback away."""

from __future__ import annotations

import uuid

import dspy
import pytest
from dspy.utils.callback import BaseCallback

from doubles import Memory, tracer_of
from programs import Answerer
from spanhook.dspy_compat import process_callbacks

pytestmark = pytest.mark.usefixtures("dummy_lm")


def test_configuring_again_replaces(memory: Memory) -> None:
    """One callback of ours at any time; that of someone else stays; the first tracer has delivered what it had."""

    class Foreign(BaseCallback):  # type: ignore[misc]
        pass

    foreign = Foreign()
    before = process_callbacks()
    second = Memory()
    dspy.configure(callbacks=[foreign])
    try:
        first_tracer = tracer_of(memory)
        Answerer()(question="first")
        second_tracer = tracer_of(second)
        Answerer()(question="second")
        assert process_callbacks() == [foreign, second_tracer.callback]
        second_tracer.shutdown()
        assert process_callbacks() == [foreign]
    finally:
        dspy.configure(callbacks=before)
    assert [s.inputs["question"] for s in memory.spans if s.name == "Answerer"] == ["first"]
    assert [s.inputs["question"] for s in second.spans if s.name == "Answerer"] == ["second"]
    assert first_tracer.shutdown()


def test_disabled_means_nothing_happens(memory: Memory) -> None:
    """enabled = false: no callback, no plugin, and the API still works."""
    tracer = tracer_of(memory, tracing={"enabled": False})
    with tracer.interaction(user_id="u1") as interaction, tracer.span("work") as span:
        span.outputs = 1
        Answerer()(question="Why?")
    assert uuid.UUID(interaction.event_id)
    assert tracer.callback not in dspy.settings.callbacks
    assert tracer.identify("u1") is False
    assert tracer.flush()
    assert memory.spans == []


def test_a_sample_keeps_whole_traces(memory: Memory) -> None:
    """sample_rate: a trace is there with all its spans or not at all, and what was left out is counted."""
    tracer = tracer_of(memory, tracing={"sample_rate": 0.5})
    for _ in range(40):
        with tracer.interaction():
            Answerer()(question="Why?")
    tracer.flush()
    traces: dict[str, int] = {}
    for span in memory.spans:
        traces[span.trace_id] = traces.get(span.trace_id, 0) + 1
    assert set(traces.values()) <= {6}
    assert tracer.stats().sampled_out == 40 - len(traces)
    assert 0 < len(traces) < 40


def test_the_callback_was_replaced_by_the_program(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    """dspy.configure(callbacks=…) after spanhook.configure() ends the tracing: shutdown says so."""
    before = process_callbacks()
    tracer = tracer_of(memory)
    try:
        dspy.configure(callbacks=[])
        tracer.shutdown()
    finally:
        dspy.configure(callbacks=before)
    assert "DSPy's callbacks were replaced" in caplog.text


def test_callbacks_replaced_in_a_block_are_told_of_at_once(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    """dspy.context(callbacks=…) without ours: the next interaction says so, once; elsewhere all is well.

    When they are replaced in the whole process after that, it is said too.
    """
    before = process_callbacks()
    tracer = tracer_of(memory)
    with tracer.interaction():
        pass
    assert not caplog.messages
    for _ in range(2):
        with dspy.context(callbacks=[BaseCallback()]), tracer.interaction():
            Answerer()(question="Why?")
    (told,) = caplog.messages
    assert "dspy.context(callbacks=…) without tracer.callback: what it calls is not traced" in told
    Answerer()(question="Why?")
    assert tracer.flush()
    assert [span.kind for span in memory.spans].count("module") == 2
    try:
        dspy.configure(callbacks=[])
        tracer.shutdown()
    finally:
        dspy.configure(callbacks=before)
    assert "DSPy's callbacks were replaced" in caplog.messages[1]
