"""What backends get is as exact as what was known when the call ended, however late it is put together."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest

import spanhook
from doubles import WAIT_S, Memory
from exact import ENGINES, PRICED, assert_exact, assert_none_lost_none_wrong, lm_spans
from lm_server import LMServer
from programs import Answerer
from spanhook import Span, Tracer

pytestmark = pytest.mark.parametrize("engine", ENGINES)


class Late:
    """A tracer that delivers nothing before it is asked to."""

    def __init__(self) -> None:
        self.memory = Memory()
        config = {"tracing": {"backends": []}, "delivery": {"interval_s": 60}}
        self.tracer: Tracer = spanhook.configure(config, plugins={"memory": self.memory})

    def spans(self) -> list[Span]:
        """What the backend gets, in the order in which the calls ended."""
        assert self.tracer.flush(WAIT_S)
        assert self.tracer.stats().errors == {}
        return self.memory.spans


@pytest.fixture
def late() -> Late:
    return Late()


def test_many_calls_with_one_prompt(server: LMServer, late: Late, engine: str) -> None:
    """64 over 16 threads and 64 in a loop, and the sums of 16 programs: delivered after all of them have ended."""
    lm, program = server.lm(PRICED, engine=engine), Answerer()

    def ask(_: int) -> None:
        with dspy.context(lm=lm):
            program(question="Why?")

    async def gathered() -> None:
        await asyncio.gather(*(lm.acall("the same prompt") for _ in range(64)))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: lm("the same prompt"), range(64)))
        list(pool.map(ask, range(16)))
    asyncio.run(gathered())
    spans = late.spans()
    assert_none_lost_none_wrong(spans, server, 144)
    used = {span.trace_id: span.usage for span in lm_spans(spans)}
    roots = [span for span in spans if span.name == "Answerer"]
    assert len(roots) == 16
    assert all(root.usage == used[root.trace_id] for root in roots)


def test_what_the_program_does_to_a_history_afterwards(server: LMServer, late: Late, engine: str) -> None:
    """It empties histories, changes entries, uses the LM again: what was true of the call stays told of it."""
    lm = server.lm(PRICED, engine=engine)
    with dspy.context(lm=lm):
        prediction = Answerer()(question="Why?")
    (entry,) = lm.history
    entry["usage"].clear()
    entry.update(cost=99.0, response_model="another", response=None, outputs=[])
    prediction.answer = "changed"
    lm.history.clear()
    lm.model = "openai/another"
    lm("hello")
    spans = late.spans()
    first, second = lm_spans(spans)
    assert_exact(first, server.answered[1])
    assert (first.model, second.model) == (PRICED, "openai/another")
    root = next(span for span in spans if span.name == "Answerer")
    assert root.outputs == {"answer": "answer-1"}


def test_a_hit_after_the_call_that_filled_the_cache(server: LMServer, late: Late, engine: str, tmp_path: Any) -> None:
    """The cache marks its answers as hits: not those that the first caller holds."""
    before = dspy.cache
    dspy.configure_cache(enable_memory_cache=True, enable_disk_cache=False, disk_cache_dir=str(tmp_path / "cache"))
    try:
        lm = server.lm(PRICED, engine=engine, cache=True)
        for _ in range(3):
            lm("hello")
    finally:
        dspy.cache = before
    first, *others = late.spans()
    assert_exact(first, server.answered[1])
    assert [(span.cache_hit, span.usage, span.cost_usd) for span in others] == [(True, None, 0.0)] * 2
