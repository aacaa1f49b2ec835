"""One record, one call: whatever runs at once, each LM span has the numbers of its own answer and of no other."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import dspy
import pytest
from dspy.utils.asyncify import asyncify
from dspy.utils.syncify import syncify

from exact import ENGINES, HAS_ENGINES, PRICED, assert_none_lost_none_wrong, lm_spans
from lm_server import LMServer
from programs import Answerer
from spanhook.testing import capture_spans

PROMPT = "the same prompt for all"
PROMPTS: list[dict[str, Any]] = [{"prompt": PROMPT}, {"messages": [{"role": "user", "content": PROMPT}]}]

pytestmark = [
    pytest.mark.parametrize("engine", ENGINES),
    pytest.mark.filterwarnings("ignore:Passing OpenAI-style:DeprecationWarning"),  # it has to work until it is gone
]


@contextmanager
def threads_switch_often() -> Iterator[None]:
    """Let Python switch threads every microsecond, so that what can get mixed up does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("arguments", PROMPTS, ids=["string", "messages"])
def test_threads_with_the_same_prompt(server: LMServer, engine: str, arguments: dict[str, Any]) -> None:
    """64 direct calls over 16 threads, on one LM."""
    lm = server.lm(PRICED, engine=engine)
    with capture_spans() as spans, ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: lm(**arguments), range(64)))
    assert_none_lost_none_wrong(spans, server, 64)


def test_programs_in_threads_that_switch_every_microsecond(server: LMServer, engine: str) -> None:
    """640 programs over 32 threads; on the way up each module adds up what its own call used."""
    lm = server.lm(PRICED, engine=engine)
    program = Answerer()

    def work(number: int) -> None:
        with dspy.context(lm=lm):
            program(question=f"q{number}")

    with capture_spans() as spans, threads_switch_often(), ThreadPoolExecutor(32) as pool:
        list(pool.map(work, range(640)))
    assert_none_lost_none_wrong(spans, server, 640)
    inputs = {span.trace_id: span for span in spans if span.parent_id is None}
    assert len(inputs) == 640
    for span in lm_spans(spans):
        root = inputs[span.trace_id]
        assert root.inputs["question"] in span.inputs["messages"][-1]["content"]
        assert root.usage == span.usage


@pytest.mark.parametrize("arguments", PROMPTS, ids=["string", "messages"])
@pytest.mark.parametrize("count", [64, 1_000])
def test_gathered_calls(server: LMServer, engine: str, count: int, arguments: dict[str, Any]) -> None:
    """`acall`s of one event loop, all with the same prompt."""
    lm = server.lm(PRICED, engine=engine)

    async def many() -> None:
        await asyncio.gather(*(lm.acall(**arguments) for _ in range(count)))

    with capture_spans() as spans:
        asyncio.run(many())
    assert_none_lost_none_wrong(spans, server, count)


def test_threads_of_ones_own(server: LMServer, engine: str) -> None:
    """Plain `threading.Thread`s that start together and carry no context: each call is a trace with its own numbers."""
    lm = server.lm(PRICED, engine=engine)
    together = threading.Barrier(24)

    def work() -> None:
        together.wait()
        for _ in range(3):
            lm(PROMPT)

    threads = [threading.Thread(target=work) for _ in range(24)]
    with capture_spans() as spans:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert_none_lost_none_wrong(spans, server, 72)
    assert len({span.trace_id for span in spans}) == 72


def test_parallel_in_parallel(server: LMServer, engine: str) -> None:
    """dspy.Parallel over programs that run dspy.Parallel themselves: one trace, each call in its place."""

    # With progress bars: tqdm has a race where several threads make a disabled one.
    class Inner(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.respond = Answerer()

        def forward(self, questions: list[str]) -> None:
            dspy.Parallel(num_threads=3)([(self.respond, {"question": question}) for question in questions])

    class Outer(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self) -> None:
            questions = [[f"q{i}.{j}" for j in range(5)] for i in range(6)]
            dspy.Parallel(num_threads=4)([(self.inner, {"questions": five}) for five in questions])

    with dspy.context(lm=server.lm(PRICED, engine=engine)), capture_spans() as spans:
        Outer()()
    assert_none_lost_none_wrong(spans, server, 30)
    assert [span.name for span in spans if span.parent_id is None] == ["Outer"]
    by_id = {span.span_id: span for span in spans}
    inner = [span for span in spans if span.name == "Inner"]
    assert len(inner) == 6
    for span in spans:
        if span.name == "Answerer":
            fan = by_id[span.parent_id or ""]
            assert span.inputs["question"] in fan.inputs["questions"]
    for fan in inner:
        below = [span.usage for span in spans if span.name == "Answerer" and span.parent_id == fan.span_id]
        assert len(below) == 5
        assert fan.usage is not None
        assert fan.usage.input_tokens == sum(usage.input_tokens or 0 for usage in below if usage)


def test_evaluate_with_threads(server: LMServer, engine: str) -> None:
    """24 examples over 8 threads: each example's program has the numbers of its own answer."""
    devset = [dspy.Example(question=f"q{i}", answer="?").with_inputs("question") for i in range(24)]
    evaluate = dspy.Evaluate(devset=devset, metric=lambda *_: 1.0, num_threads=8, display_progress=False)
    with dspy.context(lm=server.lm(PRICED, engine=engine)), capture_spans() as spans:
        evaluate(Answerer())
    assert_none_lost_none_wrong(spans, server, 24)
    programs = {span.span_id: span for span in spans if span.name == "Answerer"}
    predicts = {span.span_id: span for span in spans if span.name == "Predict"}
    for span in lm_spans(spans):
        program = programs[predicts[span.parent_id or ""].parent_id or ""]
        assert program.inputs["question"] in span.inputs["messages"][-1]["content"]
        assert program.usage == span.usage


def test_several_event_loops(server: LMServer, engine: str) -> None:
    """Four threads, each with a loop of its own, an LM of its own and 16 tasks, all at the same time."""
    together = threading.Barrier(4)

    async def many(lm: Any) -> None:
        together.wait()
        await asyncio.gather(*(lm.acall(PROMPT) for _ in range(16)))

    with capture_spans() as spans, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda lm: asyncio.run(many(lm)), [server.lm(PRICED, engine=engine) for _ in range(4)]))
    assert_none_lost_none_wrong(spans, server, 64)


def test_sync_inside_async(server: LMServer, engine: str) -> None:
    """`asyncify`: sync programs in worker threads of one loop, under the spans of their tasks."""

    class Asking(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.respond = asyncify(Answerer())

        async def aforward(self, question: str) -> Any:
            return await self.respond(question=question)

    async def many() -> None:
        await asyncio.gather(*(Asking().acall(question=f"q{i}") for i in range(32)))

    with dspy.context(lm=server.lm(PRICED, engine=engine)), capture_spans() as spans:
        asyncio.run(many())
    assert_none_lost_none_wrong(spans, server, 32)
    roots = {span.trace_id: span for span in spans if span.parent_id is None}
    assert {span.name for span in roots.values()} == {"Asking"}
    for span in lm_spans(spans):
        assert roots[span.trace_id].inputs["question"] in span.inputs["messages"][-1]["content"]


@pytest.mark.skipif(not HAS_ENGINES, reason="before 3.4 `syncify` leaves the program's `__call__` as it is")
def test_async_inside_sync(server: LMServer, engine: str) -> None:
    """`syncify`: async programs called from threads."""

    class Asking(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.respond = dspy.Predict("question -> answer")

        async def aforward(self, question: str) -> Any:
            return await self.respond.acall(question=question)

    lm = server.lm(PRICED, engine=engine)

    def work(number: int) -> None:
        with dspy.context(lm=lm):
            syncify(Asking())(question=f"q{number}")

    with capture_spans() as spans, ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(32)))
    assert_none_lost_none_wrong(spans, server, 32)
    roots = {span.trace_id: span for span in spans if span.parent_id is None}
    assert len(roots) == 32
    for span in lm_spans(spans):
        assert roots[span.trace_id].inputs["question"] in span.inputs["messages"][-1]["content"]
