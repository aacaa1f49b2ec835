"""Generators: their bodies run in the context of their consumer, and another one may close them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import dspy
import pytest

from doubles import WAIT_S, Memory
from spanhook import Span, Tracer


class Chats:
    """Endpoints that stream answers, each in an interaction of its user."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.predict = dspy.Predict("question -> answer")
        self.ended = asyncio.Event()

    async def ask(self, question: str) -> str:
        prediction = await self.predict.acall(question=question)
        return str(prediction.answer)

    async def stream(self, user: str, *questions: str) -> AsyncIterator[str]:
        try:
            with self.tracer.interaction(user_id=user):
                for question in questions:
                    yield await self.ask(question)
        finally:
            self.ended.set()

    async def leave(self, user: str, question: str) -> None:
        """Read one answer and stop: the event loop closes the generator, in a task of its own."""
        self.ended.clear()
        async for _ in self.stream(user, question, "never asked"):
            break
        await asyncio.wait_for(self.ended.wait(), WAIT_S)


def calls(tracer: Tracer, memory: Memory) -> dict[str, Span]:
    """The programs' calls by what they were asked."""
    assert tracer.flush()
    assert not tracer.stats().errors
    return {span.inputs["question"]: span for span in memory.spans if span.kind == "module"}


def test_a_consumer_that_leaves(tracer: Tracer, memory: Memory) -> None:
    """What it does afterwards is not the user's whose stream it left, and the next user has an event of their own."""

    async def consume() -> None:
        chats = Chats(tracer)
        await chats.leave("u1", "one")
        await chats.ask("after one")
        assert [answer async for answer in chats.stream("u2", "two", "too")]
        await chats.ask("after two")

    asyncio.run(consume())
    by_question = calls(tracer, memory)
    assert {question: span.user_id for question, span in by_question.items()} == {
        "one": "u1", "after one": None, "two": "u2", "too": "u2", "after two": None,
    }  # fmt: skip
    traces = [{by_question[question].trace_id for question in group} for group in (("two", "too"), by_question)]
    assert [len(ids) for ids in traces] == [1, 4]
    assert len({span.event_id for span in by_question.values()}) == 4


def test_a_consumer_with_an_interaction_of_its_own(tracer: Tracer, memory: Memory) -> None:
    """It goes on under its own, however many streams it has left."""

    async def consume() -> None:
        chats = Chats(tracer)
        with tracer.interaction(user_id="agent"), tracer.span("work"):
            for number in range(3):
                await chats.leave(f"u{number}", f"stream {number}")
                await chats.ask(f"own {number}")

    asyncio.run(consume())
    by_question = calls(tracer, memory)
    (work,) = [span for span in memory.spans if span.name == "work"]
    assert [by_question[f"own {n}"].parent_id for n in range(3)] == [work.span_id] * 3
    assert [by_question[f"stream {n}"].user_id for n in range(3)] == ["u0", "u1", "u2"]
    assert {s.parent_id for s in memory.spans if s.kind == "interaction"} == {None, work.span_id}


def test_streams_that_one_task_reads_in_turn(tracer: Tracer, memory: Memory) -> None:
    """The end of the first takes nothing from the second, and after both nothing is left."""

    async def consume() -> None:
        chats = Chats(tracer)
        with tracer.interaction(user_id="agent"):
            one, two = chats.stream("u1", "one"), chats.stream("u2", "two", "too")
            for stream in (one, two):
                await stream.__anext__()
            await one.aclose()  # type: ignore[attr-defined]
            await two.__anext__()
            await two.aclose()  # type: ignore[attr-defined]
            await chats.ask("own")
        await chats.ask("after")

    asyncio.run(consume())
    assert {question: span.user_id for question, span in calls(tracer, memory).items()} == {
        "one": "u1", "two": "u2", "too": "u2", "own": "agent", "after": None,
    }  # fmt: skip


def test_a_task_that_outlives_its_interaction(tracer: Tracer, memory: Memory) -> None:
    """All that it does belongs there, also after a span of its own."""

    async def handle() -> None:
        chats, over = Chats(tracer), asyncio.Event()

        async def later() -> None:
            await over.wait()
            with tracer.span("store"):
                await chats.ask("first")
            await chats.ask("second")

        with tracer.interaction(user_id="u1"):
            task = asyncio.create_task(later())
        over.set()
        await task

    asyncio.run(handle())
    assert {question: span.user_id for question, span in calls(tracer, memory).items()} == {
        "first": "u1", "second": "u1",
    }  # fmt: skip


class Plain(dspy.Module):
    """A module whose `forward` yields."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Iterator[str]:
        for part in ("one", "two"):
            yield self.predict(question=f"{question} {part}").answer


class Asynchronous(Plain):
    """The same with an `async def`."""

    async def forward(self, question: str) -> AsyncIterator[str]:  # type: ignore[override]
        for part in ("one", "two"):
            yield (await self.predict.acall(question=f"{question} {part}")).answer


@pytest.mark.parametrize("kind", [Plain, Asynchronous])
def test_a_forward_that_is_a_generator(tracer: Tracer, memory: Memory, kind: type[Plain]) -> None:
    """Its span says why it is empty; its calls belong to what is around the loop."""

    async def read(stream: Any) -> list[str]:
        return [part async for part in stream] if kind is Asynchronous else list(stream)

    with tracer.interaction(user_id="u1"):
        assert len(asyncio.run(read(kind()(question="part")))) == 2
    assert tracer.flush()
    root = memory.spans[-1]
    modules = [span for span in memory.spans if span.kind == "module"]
    assert [(s.name, s.parent_id, s.attributes.get("generator_returned")) for s in modules] == [
        (kind.__name__, root.span_id, True), ("Predict", root.span_id, None), ("Predict", root.span_id, None),
    ]  # fmt: skip
