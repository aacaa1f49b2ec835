"""Blocks that end elsewhere than they began, or before one that began inside: in generators, and around DSPy's own."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import dspy
import pytest
from dspy.utils.dummies import DummyLM

import spanhook
from doubles import WAIT_S, Memory, one_span, tracer_of
from spanhook import Span, Tracer
from spanhook.active import Attached, OpenSpan

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = {"traceparent": f"00-{TRACE}-{SPAN}-01", "baggage": "spanhook.user_id=caller"}
KINDS = ["attach", "interaction", "span"]


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def tracer(memory: Memory) -> Tracer:
    return tracer_of(memory)


@pytest.fixture(autouse=True)
def lm() -> Iterator[None]:
    with dspy.context(lm=DummyLM([{"answer": f"a{i}"} for i in range(100)])):
        yield


def block(tracer: Tracer, kind: str, name: str = "generator") -> AbstractContextManager[Any]:
    if kind == "attach":
        return spanhook.attach(CALLER)
    return tracer.interaction(user_id=name, event=name) if kind == "interaction" else tracer.span(name)


def steps(tracer: Tracer, kind: str, name: str = "generator") -> Iterator[None]:
    """A generator that makes a span of its name, and one more, in a block."""
    with block(tracer, kind, name):
        one_span(tracer, f"{name} 1")
        yield
        one_span(tracer, f"{name} 2")


async def leave(tracer: Tracer, kind: str) -> None:
    """Read one step of an asynchronous generator and stop: the event loop closes it, in a task of its own."""
    closed = asyncio.Event()

    async def stream() -> AsyncIterator[int]:
        try:
            with block(tracer, kind):
                yield 1
        finally:
            closed.set()

    async for _ in stream():
        break
    await asyncio.wait_for(closed.wait(), WAIT_S)


def by_name(tracer: Tracer, memory: Memory) -> dict[str, Span]:
    """The last span of each name; nothing failed, and nothing stays here."""
    assert tracer.flush()
    assert tracer.stats().errors == {}
    assert spanhook.current_span() is None
    assert spanhook.inject() == {}
    return {span.name: span for span in memory.spans}


def run_elsewhere(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(WAIT_S)
    assert not thread.is_alive()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("around", [*KINDS, None])
def test_a_consumer_that_leaves_is_where_it_was(tracer: Tracer, memory: Memory, kind: str, around: str | None) -> None:
    """Whatever it is in itself, and whatever the generator that it left was in."""

    async def consume() -> None:
        with block(tracer, around, "consumer") if around else nullcontext():
            one_span(tracer, "before")
            headers = spanhook.inject()
            await leave(tracer, kind)
            assert spanhook.inject() == headers
            one_span(tracer, "after")
        one_span(tracer, "outside")

    asyncio.run(consume())
    spans = by_name(tracer, memory)
    before, after = spans["before"], spans["after"]
    assert (after.parent_id, after.user_id) == (before.parent_id, before.user_id)
    assert (after.trace_id == before.trace_id) is (around is not None)
    assert (spans["outside"].parent_id, spans["outside"].user_id) == (None, None)
    assert spans["outside"].trace_id not in (before.trace_id, after.trace_id, TRACE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_that_another_thread_closes(tracer: Tracer, memory: Memory, kind: str) -> None:
    """As the garbage collector may, which runs on any thread."""
    generator = steps(tracer, kind)
    next(generator)
    run_elsewhere(generator.close)  # type: ignore[attr-defined]
    one_span(tracer, "after")
    after = by_name(tracer, memory)["after"]
    assert (after.parent_id, after.user_id) == (None, None)


@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_two_generators_that_are_read_in_turn(tracer: Tracer, memory: Memory, first: str, second: str) -> None:
    """The end of the first takes nothing from the second, and after both nothing is left."""
    one, two = steps(tracer, first, "one"), steps(tracer, second, "two")
    for generator in (one, two):
        next(generator)
    one.close()  # type: ignore[attr-defined]
    list(two)
    one_span(tracer, "after")
    spans = by_name(tracer, memory)
    before, later = spans["two 1"], spans["two 2"]
    assert (later.trace_id, later.parent_id, later.user_id) == (before.trace_id, before.parent_id, before.user_id)
    assert spans["after"].parent_id is None
    assert spans["after"].trace_id != later.trace_id


@pytest.mark.parametrize("is_other", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_that_ends_inside_of_dspys_context(
    tracer: Tracer, memory: Memory, kind: str, is_other: bool
) -> None:
    """The model that the program has chosen stays the one that it calls, and the block's end holds after it, too."""
    lm, generator = dspy.settings.lm, steps(tracer, kind)
    chosen = DummyLM([{"answer": "chosen"}] * 2) if is_other else lm
    next(generator)
    with dspy.context(lm=chosen):
        list(generator)
        assert dspy.settings.lm is chosen
        one_span(tracer, "inside")
    one_span(tracer, "after")
    assert dspy.settings.lm is lm
    spans = by_name(tracer, memory)
    assert [spans[name].parent_id for name in ("inside", "after")] == [None, None]


@pytest.mark.parametrize("kind", KINDS)
def test_dspys_context_after_a_generator_was_left(tracer: Tracer, memory: Memory, kind: str) -> None:
    """The first block of ours that ends there does not take the program's model with it."""

    async def consume() -> None:
        chosen = DummyLM([{"answer": "chosen"}] * 2)
        await leave(tracer, kind)
        with dspy.context(lm=chosen):
            one_span(tracer, "inside")
            assert dspy.settings.lm is chosen
        one_span(tracer, "after")

    asyncio.run(consume())
    spans = by_name(tracer, memory)
    assert [spans[name].parent_id for name in ("inside", "after")] == [None, None]


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_that_leaves_a_generator(tracer: Tracer, memory: Memory, kind: str) -> None:
    """What it calls afterwards is its own; when it has ended, nothing is."""

    class Reader(dspy.Module):
        async def aforward(self, question: str) -> str:
            await leave(tracer, kind)
            one_span(tracer, "inside")
            return question

    async def consume() -> None:
        await Reader().acall(question="Why?")
        one_span(tracer, "after")

    asyncio.run(consume())
    spans = by_name(tracer, memory)
    assert spans["inside"].parent_id == spans["Reader"].span_id
    assert (spans["after"].parent_id, spans["after"].user_id) == (None, None)
    assert spans["after"].trace_id != spans["Reader"].trace_id


def test_what_was_left_does_not_pile_up(tracer: Tracer) -> None:
    """A task that leaves one generator after the other holds at most the last."""

    def standing() -> int:
        assert tracer.flush()
        gc.collect()
        return sum(type(one) is OpenSpan or type(one) is Attached for one in gc.get_objects())

    async def consume() -> None:
        before = standing()
        for number in range(30):
            await leave(tracer, KINDS[number % 3])
        assert standing() <= before + 3

    asyncio.run(consume())


def test_a_tracer_for_wrapped_programs_alone(memory: Memory) -> None:
    """Also where DSPy does not know of it: what runs here is the consumer's."""
    tracer = tracer_of(memory, tracing={"instrument": "wrapped"})

    async def consume() -> None:
        with tracer.interaction(user_id="consumer") as interaction:
            await leave(tracer, "interaction")
            current = spanhook.current_span()
            assert current is not None
            assert (current.kind, current.event_id) == ("interaction", interaction.event_id)

    asyncio.run(consume())


def test_one_attach_in_two_tasks(tracer: Tracer, memory: Memory) -> None:
    """Each task is where it was when its own block ends."""

    async def handle(attach: spanhook.attach, entered: asyncio.Event, leave: asyncio.Event, name: str) -> None:
        with attach:
            entered.set()
            await leave.wait()
            one_span(tracer, f"{name} inside")
        one_span(tracer, f"{name} outside")

    async def both() -> None:
        attach, events = spanhook.attach(CALLER), [(asyncio.Event(), asyncio.Event()) for _ in range(2)]
        tasks = [asyncio.create_task(handle(attach, *events[n], str(n))) for n in range(2)]
        for entered, _ in events:
            await asyncio.wait_for(entered.wait(), WAIT_S)
        for (_, leave), task in zip(events, tasks, strict=True):
            leave.set()
            await task

    asyncio.run(both())
    spans = by_name(tracer, memory)
    assert [spans[f"{n} inside"].trace_id for n in range(2)] == [TRACE] * 2
    assert [spans[f"{n} outside"].parent_id for n in range(2)] == [None] * 2


def test_a_copied_context_outlives_the_block(tracer: Tracer, memory: Memory) -> None:
    """What goes on in a copy of the context belongs to the caller still, as in a task."""
    with spanhook.attach(CALLER):
        copied = contextvars.copy_context()
    copied.run(one_span, tracer, "later")
    assert by_name(tracer, memory)["later"].trace_id == TRACE
