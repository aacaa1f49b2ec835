"""The blocks of interactions and spans: `async with`, and one object for two blocks at a time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier
from typing import Any

import dspy
import pytest

import spanhook
from doubles import WAIT_S, Memory, one_span, tracer_of
from lm_server import LMServer
from spanhook import BudgetExceededError, Span, Tracer

INTERACTION = "interaction: rejected: this interaction is open already; make one for each block"
SPAN = "span: rejected: this span is open already; make one for each block"


def by_name(tracer: Tracer, memory: Memory) -> dict[str, Span]:
    """What was delivered; each name once, and nothing that still runs or failed."""
    assert tracer.flush()
    assert tracer.stats().errors == {}
    assert spanhook.current_span() is None
    spans = {span.name: span for span in memory.spans}
    assert len(spans) == len(memory.spans)
    return spans


def test_an_interaction_inside_of_itself(tracer: Tracer, memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    """The inner blocks are part of the outer one, whose end alone ends it; what comes later is not its user's."""
    interaction = tracer.interaction(user_id="alice", event="chat")
    with interaction:
        with interaction, interaction as inner:
            one_span(tracer, "inside")
        assert inner is interaction
        one_span(tracer, "still inside")
    one_span(tracer, "outside")
    spans = by_name(tracer, memory)
    assert [spans[name].parent_id for name in ("inside", "still inside")] == [spans["chat"].span_id] * 2
    assert (spans["outside"].user_id, spans["outside"].parent_id) == (None, None)
    assert spans["outside"].trace_id != interaction.trace_id
    assert caplog.messages == [INTERACTION] * 2
    assert tracer.stats().rejected == {"interaction": 2}


def test_a_span_inside_of_itself(tracer: Tracer, memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    """What the inner block sets goes nowhere."""
    scope = tracer.span("work")
    with scope as outer:
        outer.outputs = "outer"
        with scope as inner:
            inner.outputs = "inner"
            one_span(tracer, "inside")
    one_span(tracer, "outside")
    spans = by_name(tracer, memory)
    assert (spans["work"].outputs, spans["inside"].parent_id) == ("outer", spans["work"].span_id)
    assert spans["outside"].parent_id is None
    assert caplog.messages == [SPAN]


@pytest.mark.parametrize("first", [0, 1])
def test_one_interaction_in_two_tasks(tracer: Tracer, memory: Memory, first: int) -> None:
    """The second task's block is none, whichever ends first; each task is then where it was."""
    interaction = tracer.interaction(user_id="alice", event="chat")

    async def block(number: int, entered: asyncio.Event, leave: asyncio.Event) -> None:
        with interaction:
            entered.set()
            await leave.wait()
            one_span(tracer, f"inside {number}")
        one_span(tracer, f"outside {number}")

    async def both() -> None:
        events = [(asyncio.Event(), asyncio.Event()) for _ in range(2)]
        tasks = []
        for number, (entered, leave) in enumerate(events):
            tasks.append(asyncio.create_task(block(number, entered, leave)))
            await asyncio.wait_for(entered.wait(), WAIT_S)
        for number in (first, 1 - first):
            events[number][1].set()
            await tasks[number]

    asyncio.run(both())
    spans = by_name(tracer, memory)
    assert spans["inside 0"].parent_id == spans["chat"].span_id
    assert {spans[name].user_id for name in ("outside 0", "inside 1", "outside 1")} == {None}
    assert tracer.stats().rejected == {"interaction": 1}


def test_one_interaction_in_two_threads(tracer: Tracer, memory: Memory) -> None:
    """They may come at the same moment: one of them has it."""
    interactions = [tracer.interaction(event=f"chat {number}") for number in range(50)]
    together = Barrier(2, timeout=WAIT_S)

    def enter(interaction: Any) -> None:
        together.wait()
        with interaction:
            together.wait()

    with ThreadPoolExecutor(2) as pool:
        for interaction in interactions:
            list(pool.map(enter, [interaction] * 2))
    assert len(by_name(tracer, memory)) == 50
    assert tracer.stats().rejected == {"interaction": 50}


def test_a_task_that_began_in_a_block_that_was_refused(tracer: Tracer, memory: Memory) -> None:
    """When it enters the same object after the other block's end, that is a block like any."""
    scope = tracer.span("work")

    async def later(ended: asyncio.Event) -> None:
        await ended.wait()
        with scope:
            one_span(tracer, "inside")

    async def main() -> None:
        ended = asyncio.Event()
        with scope, scope:
            task = asyncio.create_task(later(ended))
        ended.set()
        await task

    asyncio.run(main())
    assert tracer.flush()
    assert [span.name for span in memory.spans] == ["work", "inside", "work"]
    assert tracer.stats().rejected == {"span": 1}


def test_a_span_one_block_after_the_other(tracer: Tracer, memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    """Each is a span."""
    scope = tracer.span("work")
    for number in range(2):
        with scope as span:
            span.outputs = number
    assert tracer.flush()
    assert [(span.name, span.outputs) for span in memory.spans] == [("work", 0), ("work", 1)]
    assert len({span.span_id for span in memory.spans}) == 2
    assert caplog.messages == []


def test_twice_with_strict(memory: Memory) -> None:
    """ValueError in the place of the inner block; the outer one is whole."""
    tracer = tracer_of(memory, tracing={"strict": True})
    interaction, scope = tracer.interaction(event="chat"), tracer.span("work")
    with interaction, scope:
        with pytest.raises(ValueError, match="this interaction is open already; make one for each block"), interaction:
            pass
        with pytest.raises(ValueError, match="this span is open already"), scope:
            pass
        one_span(tracer, "inside")
    assert by_name(tracer, memory)["inside"].parent_id == by_name(tracer, memory)["work"].span_id


def test_a_budget_and_a_block_that_was_refused(memory: Memory) -> None:
    """The error comes where the interaction's own block ends: until then, what catches errors does not catch it."""
    tracer = tracer_of(memory, tracing={"extractors": ["history", "lm_usage"]})
    interaction = tracer.interaction(budget_usd=0.0, over_budget="raise")

    def ask() -> None:
        with suppress(Exception), interaction:
            for _ in range(3):
                dspy.Predict("question -> answer")(question="Why?")

    with LMServer() as server, dspy.context(lm=server.lm(model="openai/gpt-4o-mini")):
        with pytest.raises(BudgetExceededError), interaction:
            ask()
        assert len(server.answered) == 1


def test_async_with(tracer: Tracer, memory: Memory) -> None:
    """What `with` does: identity in tasks, outputs, errors."""
    problem = LookupError("nothing")

    async def main() -> None:
        async with tracer.interaction(user_id="u1", event="chat") as interaction:
            interaction.outputs = "told"
            async with tracer.span("work", query="q") as span:
                span.outputs = ["found"]
                await asyncio.create_task(dspy.Predict("question -> answer").acall(question="Why?"))
            async with tracer.span("fail"):
                raise problem

    with pytest.raises(LookupError) as caught:
        asyncio.run(main())
    assert caught.value is problem
    spans = by_name(tracer, memory)
    assert {span.user_id for span in spans.values()} == {"u1"}
    assert (spans["work"].inputs, spans["work"].outputs) == ({"query": "q"}, ["found"])
    assert spans["Predict"].parent_id == spans["work"].span_id
    assert spans["chat"].outputs == "told"
    assert [name for name, span in spans.items() if span.error is not None] == ["fail", "chat"]
