"""DSPy's histories: switched off, bounded, and with nothing of the tracer's in them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import dspy
import pytest
from dspy.clients.base_lm import GLOBAL_HISTORY

from doubles import WAIT_S, Memory, tracer_of
from exact import ENGINES, HAS_ENGINES, RELEASE, lm_spans, text_of
from lm_server import LMServer, Reply
from programs import Answerer, FanOut
from spanhook import Span
from spanhook.lm_record import LMRecord
from spanhook.testing import capture_spans

engines = pytest.mark.parametrize("engine", ENGINES)
OFF = [{"disable_history": True}, {"max_history_size": 0}]
off = pytest.mark.parametrize("off", OFF, ids=["disabled", "size 0"])


@pytest.fixture
def spans() -> Iterator[list[Span]]:
    with capture_spans() as captured:
        yield captured


def assert_usage_exact(spans: list[Span], server: LMServer, count: int) -> None:
    """Each LM span has the tokens of its own answer; what only the history knows is None."""
    calls = lm_spans(spans)
    assert len(calls) == len(server.answered) == count
    assert {server.answer_to(text_of(span)).serial for span in calls} == set(server.answered)
    for span in calls:
        sent = server.answer_to(text_of(span)).tokens
        assert sent is not None
        assert span.usage is not None
        assert span.usage.to_dict() == {
            "input_tokens": sent.prompt,
            "output_tokens": sent.completion,
            "total_tokens": sent.total,
            "cached_input_tokens": sent.cached,
            "reasoning_output_tokens": sent.reasoning,
        }
        assert (span.finish_reason, span.cost_usd, span.cache_hit, span.response_model) == (None, None, None, None)


@engines
@off
def test_threads(server: LMServer, spans: list[Span], engine: str, off: dict[str, Any]) -> None:
    """64 direct calls over 16 threads, with one prompt."""
    lm = server.lm(engine=engine)

    def work(_: int) -> None:
        with dspy.context(**off):
            lm("the same prompt")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(64)))
    assert_usage_exact(spans, server, 64)


@engines
@off
@pytest.mark.parametrize("track_usage", [False, True])
def test_gathered_programs(
    server: LMServer, spans: list[Span], engine: str, off: dict[str, Any], track_usage: bool
) -> None:
    """64 programs of one loop; DSPy's own tracker, where it is on, has what it would have without us."""
    program = Answerer()

    async def many() -> list[Any]:
        return await asyncio.gather(*(program.acall(question=f"q{i}") for i in range(64)))

    with dspy.context(lm=server.lm(engine=engine), track_usage=track_usage, **off):
        predictions = asyncio.run(many())
    assert_usage_exact(spans, server, 64)
    if track_usage:
        for prediction in predictions:
            sent = server.answer_to(prediction.answer).tokens
            assert sent is not None
            counted = prediction.get_lm_usage()["openai/test-model"]
            assert (counted["prompt_tokens"], counted["completion_tokens"]) == (sent.prompt, sent.completion)


@engines
@off
def test_parallel(server: LMServer, spans: list[Span], engine: str, off: dict[str, Any]) -> None:
    """A module that runs dspy.Parallel: exact below, and the sum on top."""
    with dspy.context(lm=server.lm(engine=engine), **off):
        FanOut()(questions=[f"q{i}" for i in range(12)])
    assert_usage_exact(spans, server, 12)
    assert spans[-1].usage is not None
    assert spans[-1].usage.input_tokens == sum(a.tokens.prompt for a in server.answered.values() if a.tokens)


@off
@pytest.mark.skipif(not HAS_ENGINES, reason="before 3.4 DSPy counts nothing of a failed call")
def test_a_failed_call_that_had_an_answer(server: LMServer, spans: list[Span], off: dict[str, Any]) -> None:
    """n=2, one answered and one refused: no usage, as with history on; the program's own tracker has DSPy's count."""
    lm = server.lm()
    for settings in ({}, off):
        server.script([Reply(content="one"), Reply(status=500)])
        with dspy.context(**settings), dspy.track_usage() as tracker, pytest.raises(Exception, match=r"."):
            lm("the same prompt", n=2)
        counted = [entry["prompt_tokens"] for entries in tracker.usage_data.values() for entry in entries]
        sent = [answer.tokens.prompt for answer in server.answered.values() if answer.tokens]
        assert counted == sent[-1:]
    assert [span.usage for span in spans] == [None, None]


@engines
@off
def test_what_a_failed_call_used_is_not_told_of_another(
    server: LMServer, spans: list[Span], engine: str, off: dict[str, Any]
) -> None:
    """With history off too: 500, then an answer."""
    lm = server.lm(engine=engine)
    server.script([Reply(status=500)])
    with dspy.context(**off):
        with pytest.raises(Exception, match=r"."):
            lm("the same prompt")
        lm("the same prompt")
    failed, fine = spans
    assert failed.usage is None
    assert fine.usage is not None
    assert fine.usage.input_tokens == server.answered[2].tokens.prompt  # type: ignore[union-attr]


@engines
@pytest.mark.parametrize("size", [1, 3])
def test_histories_keep_their_bound(server: LMServer, spans: list[Span], engine: str, size: int) -> None:
    """Even of 1: each call's own record is complete, and the LM's and the module's histories are DSPy's."""
    lm, program = server.lm(engine=engine), Answerer()
    with dspy.context(lm=lm, max_history_size=size):
        for number in range(5):
            program(question=f"q{number}")
    for owner in (lm, program, program.respond):
        assert [entry["usage"]["prompt_tokens"] for entry in owner.history] == [
            server.answered[serial].tokens.prompt  # type: ignore[union-attr]
            for serial in range(6 - size, 6)
        ]
    assert [span.usage.input_tokens for span in lm_spans(spans) if span.usage] == [
        answered.tokens.prompt for answered in server.answered.values() if answered.tokens
    ]


def ours_alive() -> list[Any]:
    """Objects of the tracer's that live no longer than one call."""
    gc.collect()
    of_a_call = {"OpenSpan", "Trace", "LMRecord", "Overrides", "Call", "_TimedStream", "Totals", "Part"}
    return [
        thing
        for thing in gc.get_objects()
        if type(thing).__name__ in of_a_call and str(type(thing).__module__).startswith("spanhook.")
    ]


@engines
def test_nothing_of_the_tracer_outlives_a_call(server: LMServer, engine: str) -> None:
    """After calls that end well, fail, are cancelled, stream, run in threads: no object of theirs lives on anywhere.

    Not in the histories of LM, modules and process, not in DSPy's settings, not with the spans that were delivered.
    """
    tracer = tracer_of(memory := Memory(), tracing={"extractors": ["history", "lm_usage", "finish_reason"]})
    lm, program = server.lm(engine=engine), Answerer()
    before, entries = {id(thing) for thing in ours_alive()}, len(GLOBAL_HISTORY)

    async def cancelled() -> None:
        task = asyncio.ensure_future(program.acall(question="Why?"))
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def streamed() -> None:
        async for _ in dspy.streamify(program)(question="Why?"):
            pass

    with dspy.context(lm=lm):
        program(question="Why?")
        asyncio.run(program.acall(question="Why?"))
        FanOut()(questions=["a", "b", "c"])
        asyncio.run(streamed())
        server.script([Reply(status=400)] * 2)
        with suppress(Exception):
            program(question="Why?")
        asyncio.run(cancelled())
        assert tracer.flush(WAIT_S)
        assert len(lm_spans(memory.spans)) >= 7
        assert dspy.settings.caller_modules in (None, [])
        assert dspy.settings.send_stream is None
        assert dspy.settings.usage_tracker is None
        alive = [thing for thing in ours_alive() if id(thing) not in before]
    if (
        engine == "litellm"
    ):  # it keeps the contexts of async calls that it still has to log: nothing is in what stands there
        assert all(record.history == [] for record in alive if isinstance(record, LMRecord))
        empty = {"LMRecord", "Overrides", "_TimedStream"}
        empty |= (
            {"OpenSpan", "Trace", "Totals", "Part"} if RELEASE < (3, 3) else set()
        )  # stand in DSPy's settings there
        alive = [thing for thing in alive if type(thing).__name__ not in empty]
    assert alive == []
    assert len(lm.history) == 6
    added = len(GLOBAL_HISTORY) - entries
    assert added == (6 if len(GLOBAL_HISTORY) < 10_000 else 0)
    for entry in [*lm.history, *program.history]:
        assert not any(type(value).__module__.startswith("spanhook") for value in entry.values())
