"""Streams: the numbers of each answer, the time to its first chunk, and what becomes of one that nobody reads on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import anyio.from_thread
import dspy
import pytest
from dspy.streaming import StatusMessage, StatusMessageProvider, StreamListener

import spanhook
from doubles import WAIT_S, Memory
from exact import ENGINES, HAS_ENGINES, HAS_MCP, PRICED, assert_none_lost_none_wrong, lm_spans
from lm_server import LMServer, Reply
from programs import Answerer
from spanhook import Span
from spanhook.testing import capture_spans

engines = pytest.mark.parametrize("engine", ENGINES)
responses = pytest.mark.skipif(not HAS_MCP, reason="LiteLLM's responses API needs the package mcp")


@pytest.fixture(autouse=True)
def _usage_is_asked_for() -> Iterator[None]:
    """Or DSPy lets LiteLLM ask for a stream without usage."""
    with dspy.context(track_usage=True):
        yield


def streamified(*, listened: bool = False, is_async: bool = False, **more: Any) -> Any:
    """A program of one predictor that streams."""
    listeners = [StreamListener(signature_field_name="answer", allow_reuse=True)] if listened else None
    return dspy.streamify(Answerer(), stream_listeners=listeners, is_async_program=is_async, **more)


async def consume(program: Any, **inputs: Any) -> list[Any]:
    """All that a stream gives."""
    return [item async for item in program(**inputs)]


@engines
@pytest.mark.parametrize("listened", [False, True], ids=["chunks", "listeners"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_several_streams_at_once(server: LMServer, engine: str, listened: bool, is_async: bool) -> None:
    """16 programs of one loop with the same prompt: the numbers of each, and a time to its first chunk."""

    async def many() -> None:
        programs = [streamified(listened=listened, is_async=is_async) for _ in range(16)]
        await asyncio.gather(*(consume(program, question="Why?") for program in programs))

    with dspy.context(lm=server.lm(PRICED, engine=engine)), capture_spans() as spans:
        asyncio.run(many())
    assert_none_lost_none_wrong(spans, server, 16, names_model=engine == "lm15")
    for span in lm_spans(spans):
        assert span.time_to_first_token_s is not None
        assert 0 < span.time_to_first_token_s <= (span.duration_s or 0)


@engines
def test_streams_that_are_read_without_async(server: LMServer, engine: str) -> None:
    """`async_streaming=False`, in 8 threads at once."""
    lm = server.lm(PRICED, engine=engine)

    def work(number: int) -> None:
        with dspy.context(lm=lm, track_usage=True):
            list(streamified(async_streaming=False)(question=f"q{number}"))

    with capture_spans() as spans, ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    assert_none_lost_none_wrong(spans, server, 16, names_model=engine == "lm15")
    assert all(span.time_to_first_token_s for span in lm_spans(spans))


class Announcing(StatusMessageProvider):  # type: ignore[misc]
    """Tells of each LM call before it answers."""

    def lm_start_status_message(self, instance: Any, inputs: Any) -> str:
        return "thinking"


@engines
def test_the_first_chunk_is_timed(server: LMServer, engine: str) -> None:
    """From the call's start to the first chunk: not to a status message before it, and not to the last one."""
    hold, rest = threading.Event(), threading.Event()
    server.script([Reply(fields={"answer": "one two three"}, hold=hold, stream_hold=rest)])
    times: dict[str, float] = {}

    async def read() -> None:
        async for item in streamified(is_async=True, status_message_provider=Announcing())(question="Why?"):
            if isinstance(item, StatusMessage):
                await asyncio.to_thread(server.wait_received, 1)
                times["asked"] = time.perf_counter()
                times["released"] = time.perf_counter()
                hold.set()
            elif not rest.is_set():
                times["read"] = time.perf_counter()
                rest.set()

    with dspy.context(lm=server.lm(engine=engine)), capture_spans() as spans:
        times["before"] = time.perf_counter()
        asyncio.run(read())
        times["after"] = time.perf_counter()
    (span,) = lm_spans(spans)
    first = span.time_to_first_token_s
    assert first is not None
    assert times["released"] - times["asked"] < first < times["read"] - times["before"]
    assert first < (span.duration_s or 0) < times["after"] - times["before"]


@pytest.mark.parametrize("kind", ["text", pytest.param("responses", marks=responses)])
def test_what_litellm_does_not_stream(server: LMServer, kind: str) -> None:
    """A streaming program's call of a kind of model whose answer comes as a whole: it names its model, as elsewhere."""
    lm = server.lm(PRICED, model_type=kind, **({"engine": "litellm"} if HAS_ENGINES else {}))
    with dspy.context(lm=lm), capture_spans() as spans:
        asyncio.run(consume(streamified(), question="Why?"))
    (span,) = lm_spans(spans)
    (sent,) = server.answered.values()
    assert (span.response_model, span.time_to_first_token_s) == (sent.response_model, None)
    assert span.usage is not None
    assert sent.tokens is not None
    assert span.usage.input_tokens == sent.tokens.prompt


@engines
def test_a_call_that_is_not_streamed_has_no_first_chunk(server: LMServer, engine: str) -> None:
    """Two predictors, a listener for the second: both have their numbers, the second one a time to the first chunk."""

    class Twice(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.draft = dspy.Predict("question -> draft")
            self.answer = dspy.Predict("draft -> answer")

        def forward(self, question: str) -> Any:
            return self.answer(draft=self.draft(question=question).draft)

    listeners = [StreamListener(signature_field_name="answer")]
    with dspy.context(lm=server.lm(PRICED, engine=engine)), capture_spans() as spans:
        asyncio.run(consume(dspy.streamify(Twice(), stream_listeners=listeners), question="Why?"))
    draft, answer = lm_spans(spans)
    assert draft.time_to_first_token_s is None
    assert answer.time_to_first_token_s
    for span, sent in zip((draft, answer), server.answered.values(), strict=True):
        assert span.usage is not None
        assert sent.tokens is not None
        assert span.usage.input_tokens == sent.tokens.prompt


@pytest.mark.parametrize("off", [{"disable_history": True}, {"max_history_size": 0}])
@engines
def test_a_stream_with_history_off(server: LMServer, engine: str, off: dict[str, Any]) -> None:
    """The tokens and the time to the first chunk are known all the same."""
    with dspy.context(lm=server.lm(engine=engine), **off), capture_spans() as spans:
        asyncio.run(consume(streamified(), question="Why?"))
    (span,) = lm_spans(spans)
    sent = server.answered[1].tokens
    assert sent is not None
    assert span.usage is not None
    assert (span.usage.input_tokens, span.usage.output_tokens) == (sent.prompt, sent.completion)
    assert span.time_to_first_token_s


@engines
@pytest.mark.parametrize("off", [{}, {"disable_history": True}], ids=["history", "no history"])
def test_tokens_that_nobody_reported_are_not_invented(server: LMServer, engine: str, off: dict[str, Any]) -> None:
    """Without `track_usage`, DSPy lets LiteLLM ask for no usage: no tokens then, and no cost."""
    with dspy.context(lm=server.lm(PRICED, engine=engine), track_usage=False, **off), capture_spans() as spans:
        asyncio.run(consume(streamified(), question="Why?"))
    (span,) = lm_spans(spans)
    asked = (server.answered[1].body.get("stream_options") or {}).get("include_usage")
    assert (span.usage is None, span.cost_usd is None) == (not asked, not asked or bool(off))
    assert span.cache_hit is (None if off else False)
    assert span.finish_reason == (None if off else server.answered[1].finish_reason)


@pytest.mark.parametrize("off", [{}, {"disable_history": True}], ids=["history", "no history"])
def test_an_estimate_is_no_report(off: dict[str, Any]) -> None:
    """Output without any input, as LiteLLM 1.74 writes it of a stream without usage, and its price: not in the span."""

    class Estimating(dspy.BaseLM):  # type: ignore[misc]
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            anyio.from_thread.run(dspy.settings.send_stream.send, "a chunk")
            message = SimpleNamespace(content="[[ ## answer ## ]]\nmine", reasoning_content=None, tool_calls=None)
            return SimpleNamespace(
                model="m",
                choices=[SimpleNamespace(message=message, finish_reason="stop", logprobs=None)],
                usage={"prompt_tokens": 0, "completion_tokens": 14, "total_tokens": 14},
                _hidden_params={"response_cost": 0.25},
            )

    with dspy.context(lm=Estimating(model="m"), **off), capture_spans() as spans:
        asyncio.run(consume(streamified(), question="Why?"))
    calls = lm_spans(spans)
    assert calls or dspy.__version__ < "3.1"  # before, DSPy calls no callback for such LMs
    for span in calls:
        assert (span.usage, span.cost_usd) == (None, None)


class Stopped:
    """A program whose answer is held after the first chunk, the consumer of which stops then."""

    def __init__(self, server: LMServer, engine: str) -> None:
        self.rest = threading.Event()
        server.script([Reply(fields={"answer": "one two three four five"}, stream_hold=self.rest)])
        self.server = server
        self.lm = server.lm(PRICED, engine=engine)
        self.tracer = spanhook.configure({"tracing": {"backends": []}}, plugins={"memory": Memory()})
        self.root_ended = threading.Event()

    def run(self, way: str, *, is_async: bool) -> list[Span]:
        """The spans, when the root has ended too."""

        def note(span: Span) -> None:
            if span.parent_id is None:
                self.root_ended.set()

        stop = {"cancel": self._cancel, "break": self._break}[way]
        with dspy.context(lm=self.lm), self.tracer.listen(note), capture_spans() as spans:
            program = streamified(is_async=is_async)
            try:
                asyncio.run(stop(program))
            except BaseException as error:
                # DSPy's generator may cancel the task that closes it; before 3.4 it makes a group of that.
                if type(error).__name__ not in ("CancelledError", "BaseExceptionGroup"):
                    raise
            finally:
                self.rest.set()
            assert self.root_ended.wait(WAIT_S)
        return spans

    async def _break(self, program: Any) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # what its generator makes of it is DSPy's
        stream = program(question="Why?")
        async for item in stream:
            if not isinstance(item, StatusMessage):
                break
        await stream.aclose()

    async def _cancel(self, program: Any) -> None:
        reading = asyncio.Event()

        async def read() -> None:
            async for item in program(question="Why?"):
                if not isinstance(item, StatusMessage):
                    reading.set()

        task = asyncio.ensure_future(read())
        await reading.wait()
        task.cancel()
        await task


@engines
@pytest.mark.parametrize("way", ["break", "cancel"])
def test_a_consumer_that_stops_early(server: LMServer, engine: str, way: str) -> None:
    """`break` and `aclose`, or a cancelled task: every span ends as cancelled, and half an answer has no tokens."""
    spans = Stopped(server, engine).run(way, is_async=True)
    ended = [span for span in spans if span.kind in ("module", "lm")]
    assert [span.name for span in ended] == ["LM", "Predict", "Answerer"]
    for span in ended:
        assert span.error is not None
        assert span.error.type == "asyncio.exceptions.CancelledError"
        assert (span.usage, span.cost_usd, span.finish_reason, span.outputs) == (None, None, None, None)
    assert ended[0].time_to_first_token_s
    assert len(server.answered) == 1


@engines
@pytest.mark.parametrize("way", ["break", "cancel"])
def test_a_consumer_that_stops_a_sync_program(server: LMServer, engine: str, way: str) -> None:
    """The program is in a thread, which nobody can cancel: it fails when its stream is gone, and its spans say so."""
    spans = Stopped(server, engine).run(way, is_async=False)
    ended = [span for span in spans if span.kind in ("module", "lm")]
    assert {span.name for span in ended} == {"LM", "Predict", "Answerer"}
    for span in ended:
        assert span.error is not None
        assert (span.usage, span.cost_usd, span.finish_reason, span.outputs) == (None, None, None, None)


@engines
def test_a_reader_without_async_that_stops(server: LMServer, engine: str) -> None:
    """`async_streaming=False`: DSPy runs the program to its end in the background, so its span is whole, and exact."""
    hold, root_ended = threading.Event(), threading.Event()
    server.script([Reply(fields={"answer": "one two-1 three"}, stream_hold=hold)])
    tracer = spanhook.configure({"tracing": {"backends": []}}, plugins={"memory": Memory()})

    def note(span: Span) -> None:
        if span.parent_id is None:
            root_ended.set()

    with dspy.context(lm=server.lm(PRICED, engine=engine)), tracer.listen(note), capture_spans() as spans:
        stream = streamified(async_streaming=False)(question="Why?")
        next(item for item in stream if not isinstance(item, StatusMessage))
        stream.close()
        hold.set()
        assert root_ended.wait(WAIT_S)
    assert_none_lost_none_wrong(spans, server, 1, names_model=engine == "lm15")
