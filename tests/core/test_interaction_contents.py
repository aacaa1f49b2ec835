"""What an interaction shows as its input and its output, where others and the program's own spans are inside."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import dspy
import pytest

from doubles import Memory, tracer_of
from spanhook import Tracer


@pytest.fixture
def tracer(memory: Memory, dummy_lm: None) -> Tracer:
    return tracer_of(memory)


def ask(question: str) -> None:
    dspy.Predict("question -> answer")(question=question)


def nested(tracer: Tracer) -> None:
    with tracer.interaction():
        ask("q0")


def nested_twice(tracer: Tracer) -> None:
    with tracer.interaction():
        nested(tracer)


def nested_in_a_span(tracer: Tracer) -> None:
    with tracer.span("step"), tracer.span("part of it"):
        nested(tracer)


def nested_first(tracer: Tracer) -> None:
    nested(tracer)
    ask("q1")


def nested_last(tracer: Tracer) -> None:
    ask("q0")
    nested(tracer)


def nested_after_a_span(tracer: Tracer) -> None:
    with tracer.span("retrieve", query="documents") as span:
        span.outputs = ["a document"]
    nested(tracer)
    with tracer.span("log") as span:
        span.outputs = "logged"


def nested_with_a_span_alone(tracer: Tracer) -> None:
    with tracer.interaction(), tracer.span("retrieve", query="documents") as span:
        span.outputs = ["a document"]


def nested_with_a_span_and_then_a_call(tracer: Tracer) -> None:
    nested_with_a_span_alone(tracer)
    ask("q0")


def nested_that_says_itself(tracer: Tracer) -> None:
    with tracer.interaction() as inner:
        ask("q0")
        inner.inputs, inner.outputs = "own input", "own output"


def nested_without_calls_that_says_itself(tracer: Tracer) -> None:
    with tracer.interaction() as inner:
        inner.inputs, inner.outputs = "own input", "own output"


def nested_in_a_span_that_says_itself(tracer: Tracer) -> None:
    with tracer.span("step", query="documents") as span:
        nested(tracer)
        span.outputs = "done"


def nested_in_a_span_that_says_so_later(tracer: Tracer) -> None:
    with tracer.span("step") as span:
        nested(tracer)
        span.inputs, span.outputs = {"query": "documents"}, "done"


def nested_in_a_span_beside_a_call(tracer: Tracer) -> None:
    nested_in_a_span(tracer)
    ask("q1")
    nested_in_a_span(tracer)


def nested_on_a_thread(tracer: Tracer) -> None:
    inner, lm = tracer.interaction(), dspy.settings.lm

    def work() -> None:
        with dspy.context(lm=lm), inner:
            ask("q0")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


def nested_last_that_fails(tracer: Tracer) -> None:
    ask("q0")
    with suppress(ValueError), dspy.context(lm=None):
        nested(tracer)


def spans_with_and_without(tracer: Tracer) -> None:
    with tracer.span("set up"):
        pass
    with tracer.span("retrieve") as span:
        span.inputs, span.outputs = {"query": "documents"}, ["a document"]
    with tracer.span("store"):
        pass


def call_in_spans(tracer: Tracer) -> None:
    with tracer.span("step"), tracer.span("part of it"):
        ask("q0")


def call_in_spans_and_beside(tracer: Tracer) -> None:
    call_in_spans(tracer)
    ask("q1")
    call_in_spans(tracer)


def call_in_a_span_that_says_itself(tracer: Tracer) -> None:
    with tracer.span("step", query="documents") as span:
        ask("q0")
        span.outputs = "done"


def calls_in_two_spans(tracer: Tracer) -> None:
    for question in ("q0", "q1"):
        with tracer.span("step"):
            ask(question)


def calls_in_one_span(tracer: Tracer) -> None:
    with tracer.span("step"):
        ask("q0")
        ask("q1")


def spans_in_one_span(tracer: Tracer) -> None:
    with tracer.span("step"):
        for inputs, outputs in (({"query": "documents"}, None), ({"query": "more"}, ["a document"])):
            with tracer.span("retrieve", **inputs) as span:
                span.outputs = outputs


def span_that_says_so_later_before_another(tracer: Tracer) -> None:
    with tracer.span("step"):
        with tracer.span("retrieve") as span:
            ask("q0")
            span.inputs, span.outputs = {"query": "documents"}, ["a document"]
        with tracer.span("part of it"):
            pass


QUESTION, ANSWER = {"question": "q0"}, {"answer": "a0"}
QUERY, FOUND = {"query": "documents"}, ["a document"]


@pytest.mark.parametrize(
    ("inside", "inputs", "outputs"),
    [
        (nested, QUESTION, ANSWER),
        (nested_twice, QUESTION, ANSWER),
        (nested_in_a_span, QUESTION, ANSWER),
        (nested_first, QUESTION, {"answer": "a1"}),
        (nested_last, QUESTION, {"answer": "a1"}),
        (nested_after_a_span, QUESTION, ANSWER),
        (nested_with_a_span_alone, QUERY, FOUND),
        (nested_with_a_span_and_then_a_call, QUESTION, ANSWER),
        (nested_that_says_itself, "own input", "own output"),
        (nested_without_calls_that_says_itself, "own input", "own output"),
        (nested_in_a_span_that_says_itself, QUERY, "done"),
        (nested_in_a_span_that_says_so_later, QUERY, "done"),
        (nested_in_a_span_beside_a_call, {"question": "q1"}, {"answer": "a1"}),
        (nested_on_a_thread, QUESTION, ANSWER),
        (nested_last_that_fails, QUESTION, None),
        (spans_with_and_without, QUERY, FOUND),
        (call_in_spans, QUESTION, ANSWER),
        (call_in_spans_and_beside, {"question": "q1"}, {"answer": "a1"}),
        (call_in_a_span_that_says_itself, QUERY, "done"),
        (calls_in_two_spans, QUESTION, {"answer": "a1"}),
        (calls_in_one_span, QUESTION, {"answer": "a1"}),
        (spans_in_one_span, QUERY, FOUND),
        (span_that_says_so_later_before_another, QUERY, FOUND),
    ],
)
def test_what_an_interaction_shows(
    tracer: Tracer, memory: Memory, inside: Callable[[Tracer], None], inputs: object, outputs: object
) -> None:
    """The first input and the last output of what is directly inside: DSPy calls and interactions before spans."""
    with tracer.interaction(event="outer"):
        inside(tracer)
    assert tracer.flush()
    assert tracer.stats().errors == {}
    outer = memory.spans[-1]
    assert (outer.name, outer.inputs, outer.outputs) == ("outer", inputs, outputs)
    assert all(span.inputs is None for span in memory.spans if span.name in ("step", "part of it")) or inputs == QUERY


def test_what_the_program_sets_goes_before(tracer: Tracer, memory: Memory) -> None:
    """Also before what an interaction inside shows."""
    with tracer.interaction(event="outer") as outer:
        outer.inputs, outer.outputs = "in", "out"
        nested_that_says_itself(tracer)
    assert tracer.flush()
    assert (memory.spans[-1].inputs, memory.spans[-1].outputs) == ("in", "out")


def test_an_interaction_of_another_trace(tracer: Tracer, memory: Memory) -> None:
    """It was made outside, and is no part of the one that it is entered in."""
    other = tracer.interaction(event="other")
    with tracer.interaction(event="outer"), other:
        ask("q0")
    assert tracer.flush()
    shown = {span.name: (span.parent_id, span.inputs) for span in memory.spans if span.kind == "interaction"}
    assert shown == {"other": (None, QUESTION), "outer": (None, None)}


def test_a_call_in_many_spans(tracer: Tracer, memory: Memory) -> None:
    """More than Python's limit of recursion: the interaction shows it, and no span is lost."""
    depth = sys.getrecursionlimit() + 10
    with tracer.interaction(), ExitStack() as stack:
        for _ in range(depth):
            stack.enter_context(tracer.span("step"))
        ask("q0")
    assert tracer.flush()
    assert tracer.stats().errors == {}
    assert (memory.spans[-1].inputs, memory.spans[-1].outputs) == (QUESTION, ANSWER)
    assert [span.name for span in memory.spans].count("step") == depth
