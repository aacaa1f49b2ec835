"""`spanhook.attach` inside of a `forward` that is a coroutine function: a worker that reads messages."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest

import spanhook
from doubles import Memory, one_span, tracer_of
from spanhook import Tracer

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = {"traceparent": f"00-{TRACE}-{SPAN}-01", "baggage": "spanhook.user_id=caller"}


@pytest.fixture
def tracer(memory: Memory, dummy_lm: None) -> Tracer:
    return tracer_of(memory)


class Worker(dspy.Module):
    """Makes spans before, inside and after a message of somebody else's."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer
        self.predict = dspy.Predict("question -> answer")

    async def forward(self, question: str) -> str:
        one_span(self.tracer, "before")
        with spanhook.attach(CALLER):
            assert spanhook.current_span() is None
            await self.predict.acall(question=question)
            with self.tracer.span("work"):
                one_span(self.tracer, "part of it")
        one_span(self.tracer, "after")
        return question


def awaited(worker: Worker) -> Any:
    async def await_it() -> None:
        await worker(question="Why?")

    return await_it()


def in_a_task(worker: Worker) -> Any:
    return worker(question="Why?")


@pytest.mark.parametrize("make", [awaited, in_a_task])
def test_what_is_inside_belongs_to_the_caller(tracer: Tracer, memory: Memory, make: Any) -> None:
    """The rest belongs to the call, however it is awaited, and also where it is in an interaction."""
    with tracer.interaction(user_id="worker"):
        asyncio.run(make(Worker(tracer)))
    assert tracer.flush()
    assert tracer.stats().errors == {}
    spans = {span.name: span for span in memory.spans}
    for name in ("Predict", "work"):
        assert (spans[name].trace_id, spans[name].parent_id, spans[name].user_id) == (TRACE, SPAN, "caller")
    assert spans["ChatAdapter.format"].parent_id == spans["Predict"].span_id
    assert spans["part of it"].parent_id == spans["work"].span_id
    worker = spans["Worker"]
    assert [spans[name].parent_id for name in ("before", "after")] == [worker.span_id] * 2
    assert worker.parent_id == spans["interaction"].span_id


def test_a_coroutine_inside_of_the_callers_trace(tracer: Tracer, memory: Memory) -> None:
    """What is attached around it is not inside."""

    class Plain(Worker):
        async def forward(self, question: str) -> str:
            one_span(self.tracer, "inside")
            return question

    class Outer(Worker):
        async def forward(self, question: str) -> str:
            with spanhook.attach(CALLER):
                await Plain(self.tracer)(question=question)
            return question

    asyncio.run(awaited(Outer(tracer)))
    assert tracer.flush()
    assert tracer.stats().errors == {}
    spans = {span.name: span for span in memory.spans}
    assert (spans["Plain"].trace_id, spans["Plain"].parent_id) == (TRACE, SPAN)
    assert spans["inside"].parent_id == spans["Plain"].span_id
    assert spans["Outer"].parent_id is None
