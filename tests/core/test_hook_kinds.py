"""`span_kinds` and `deferred_kinds`: which calls a plugin is asked about, when, and that the facts are the call's."""

from __future__ import annotations

import threading
from typing import Any

import dspy
from dspy.utils.dummies import DummyLM

import spanhook
from doubles import Memory, Noting, traced_by
from programs import ask_dummy


def test_span_kinds():
    """A plugin with `span_kinds` is asked about spans of these kinds alone."""
    notes: list[Any] = []
    some = Noting("some", notes)
    some.span_kinds = ("module",)
    traced_by(some=some)
    ask_dummy()
    assert notes == ["some starts module", "some ends module"]


def test_deferred_kinds():
    """Those are asked later, with the record of the call; but none of which one behind it must see the facts."""
    threads: dict[str, str] = {}
    histories: list[int] = []

    class Asked:
        span_kinds = ("lm",)

        def __init__(self, name: str, deferred: bool) -> None:
            self.name = name
            self.deferred_kinds = self.span_kinds if deferred else ()

        @spanhook.hookimpl
        def span_end(self, call):
            threads[self.name] = threading.current_thread().name
            histories.append(len(call.history))

    plugins = {name: Asked(name, deferred) for name, deferred in [("a", True), ("b", False), ("c", True), ("d", True)]}
    tracer, _ = traced_by(**plugins)
    ask_dummy()
    assert tracer.flush()
    here = threading.current_thread().name
    assert threads == {"a": here, "b": here, "c": "spanhook-intake", "d": "spanhook-intake"}
    assert histories == [1, 1, 1, 1]


def test_deferred_facts_are_those_of_the_call():
    """What the program does to DSPy's record of the call, or to its result, after the call is not in the trace."""
    tracer = spanhook.configure({"tracing": {"backends": []}}, plugins={"memory": (memory := Memory())})
    lm = DummyLM([{"answer": "Paris"}])
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        prediction = dspy.Predict("question -> answer")(question="France?")
    entry = lm.history[-1]
    if isinstance(entry["usage"], dict):  # DSPy 3.0 writes a number there
        entry["usage"]["prompt_tokens"] = 999
    entry["usage"], entry["cost"], entry["response_model"] = {"prompt_tokens": 999}, 99.0, "another"
    prediction.answer = "Rome"
    assert tracer.flush()
    (span,) = [span for span in memory.spans if span.kind == "lm"]
    assert span.usage is None or span.usage.input_tokens != 999
    assert (span.cost_usd, span.response_model) != (99.0, "another")
    assert "Rome" not in str([span.to_dict() for span in memory.spans])
