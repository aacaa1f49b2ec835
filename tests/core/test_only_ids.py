"""Plugins with `only_ids = True`: they are told of spans that begin and end, and no span is made for them."""

from __future__ import annotations

import threading
from typing import Any

import dspy
import pytest
from dspy.utils.dummies import DummyLM

import spanhook
from doubles import Memory, tracer_of
from spanhook import SpanIds


class Told:
    """A plugin that wants to know which span begins and ends, and no more."""

    only_ids = True

    def __init__(self) -> None:
        self.told: list[tuple[str, str, SpanIds]] = []

    @spanhook.hookimpl
    def span_start(self, span: SpanIds) -> None:
        self.told.append(("start", threading.current_thread().name, span))

    @spanhook.hookimpl
    def span_end(self, span: SpanIds) -> None:
        self.told.append(("end", threading.current_thread().name, span))


def test_a_plugin_that_looks_at_ids_alone_gets_those_of_the_span():
    """At once, for calls and for spans of the program's own; and no other plugin is asked at once for its sake."""
    told = Told()
    asked: list[Any] = []

    class Deferred:
        deferred_kinds = ("lm",)

        @spanhook.hookimpl
        def span_end(self, span):
            asked.append((span.kind, threading.current_thread().name))

    memory = Memory()
    tracer = tracer_of(memory, Deferred(), told)
    with tracer.interaction(user_id="u", convo_id="c"), dspy.context(lm=DummyLM([{"answer": "Paris"}])):
        dspy.Predict("question -> answer")(question="France?")
    assert tracer.flush()
    here = threading.current_thread().name
    assert {thread for _, thread, _ in told.told} == {here}
    assert ("lm", "spanhook-intake") in asked
    started, ended = ([one for when, _, one in told.told if when == wanted] for wanted in ("start", "end"))
    assert sorted(map(id, started)) == sorted(map(id, ended))
    known = {(one.trace_id, one.span_id, one.event_id, one.user_id, one.convo_id) for one in ended}
    assert known == {(s.trace_id, s.span_id, s.event_id, s.user_id, s.convo_id) for s in memory.spans}
    assert len(known) == len(started) >= 5


def test_a_plugin_that_looks_at_ids_alone_has_no_facts(caplog):
    """It saw nothing that they could be of; what it returns is refused, and said."""

    class Knowing(Told):
        @spanhook.hookimpl
        def span_end(self, span: SpanIds) -> Any:
            return {"model": "guessed"}

    memory = Memory()
    tracer = tracer_of(memory, Knowing())
    with tracer.span("work"):
        pass
    assert tracer.flush()
    assert memory.spans[0].model is None
    assert "extractor b: span_end: refused (logged once): returned facts" in caplog.text


@pytest.mark.parametrize(
    ("only_ids", "said"),
    [(True, "get no call then; remove the argument, or only_ids"), ("yes", "must be True or False")],
)
def test_only_ids_that_cannot_be(only_ids, said):
    """A hook that asks for the call wants more than ids."""

    class Wrong:
        @spanhook.hookimpl
        def span_start(self, span, call):
            pass

    wrong = Wrong()
    wrong.only_ids = only_ids
    with pytest.raises(spanhook.ConfigError, match=f"only_ids.*{said}"):
        spanhook.configure({"tracing": {"backends": []}}, plugins={"wrong": wrong})
