"""Failures of every kind: each open span ends once, with the error; the exception goes on, and nothing holds it."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import dspy
import pytest

import spanhook
from doubles import WAIT_S, Memory
from exact import ENGINES, RELEASE, assert_exact, lm_spans, text_of
from lm_server import LMServer, Reply
from programs import Answerer, FanOut
from spanhook import Call, Span, Tracer
from spanhook.redaction.patterns import redacted
from spanhook.testing import capture_spans

engines = pytest.mark.parametrize("engine", ENGINES)


class Watching(Memory):
    """Notes which spans begin; a finished one is in `spans`."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[str] = []

    @spanhook.hookimpl
    def span_start(self, span: Span, call: Call) -> None:
        self.begun.append(span.span_id)


class Watched:
    """A tracer, and what it saw."""

    def __init__(self) -> None:
        self.memory = Watching()
        self.tracer: Tracer = spanhook.configure({"tracing": {"backends": []}}, plugins={"watching": self.memory})
        self.ended: list[str] = []
        self.changed = threading.Condition()

    def note(self, span: Span) -> None:
        """A span has ended."""
        with self.changed:
            self.ended.append(span.span_id)
            self.changed.notify_all()

    def spans(self) -> list[Span]:
        """The finished spans; every span that began has ended, once, and the tracer had no trouble of its own."""
        with self.changed:  # what dspy.Parallel gave up on runs on
            assert self.changed.wait_for(lambda: len(self.ended) >= len(self.memory.begun), WAIT_S)
        assert self.tracer.flush(WAIT_S)
        assert Counter(span.span_id for span in self.memory.spans) == Counter(self.memory.begun)
        assert self.tracer.stats().errors == {}
        return self.memory.spans


@pytest.fixture
def watched() -> Iterator[Watched]:
    watching = Watched()
    with watching.tracer.listen(watching.note):
        yield watching


class Local:
    """Stands in a frame: as long as it lives, something holds the frame."""


class Mistake(Exception):
    """The program's own."""


class Asking(dspy.Module):  # type: ignore[misc]
    """Runs a function between two calls of a predictor."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self.respond = dspy.Predict("question -> answer")
        self.work = work

    def forward(self) -> None:
        self.respond(question="Why?")
        self.work()
        self.respond(question="Why?")


OWN = [
    Mistake("mine"),
    KeyboardInterrupt(),
    SystemExit(3),
    GeneratorExit(),
    asyncio.CancelledError("stop"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OWN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["tool", "module", "span"])
def test_what_the_program_raises(server: LMServer, watched: Watched, error: BaseException, place: str) -> None:
    """In a tool, a module, a span of its own: the very exception comes out, and is on every level that it passed."""
    seen: list[weakref.ref[Local]] = []
    cause = ValueError("the cause")

    def fail() -> None:
        local = Local()
        seen.append(weakref.ref(local))
        raise error from cause

    def in_span() -> None:
        with watched.tracer.span("own"):
            fail()

    work = {"tool": dspy.Tool(fail, name="failing"), "module": fail, "span": in_span}[place]
    with dspy.context(lm=server.lm()):
        caught: BaseException | None = None
        try:
            Asking(work)()
        except BaseException as raised:
            caught = raised
    assert caught is error
    assert (error.__cause__, getattr(error, "__notes__", [])) == (cause, [])
    spans = watched.spans()
    failed = [span for span in spans if span.error is not None]
    assert [span.name for span in failed] == {
        "tool": ["failing", "Asking"],
        "module": ["Asking"],
        "span": ["own", "Asking"],
    }[place]
    for span in failed:
        assert span.error is not None
        assert span.error.type.rpartition(".")[2] == type(error).__name__
        assert span.error.message == str(error)
        assert "in fail\n" in (span.error.traceback or "")
        assert span.outputs is None
    first, root = lm_spans(spans)[0], spans[-1]
    assert_exact(first, server.answered[1])
    assert root.usage == first.usage
    caught = error.__traceback__ = None
    gc.collect()
    assert seen[0]() is None


LM_FAILURES = {
    "500": Reply(status=500),
    "401": Reply(status=401),
    "429": Reply(status=429),
    "400": Reply(status=400),
    "broken": Reply(content="hi", break_off=True),
}


@engines
@pytest.mark.parametrize("failure", [*LM_FAILURES, "timeout", "refused"])
def test_what_a_model_fails_with(server: LMServer, watched: Watched, engine: str, failure: str) -> None:
    """Errors of the server, of the network, of time: on the LM and all above; no tokens, no cost, no finish reason."""
    hold = threading.Event()
    more: dict[str, Any] = {}
    if failure == "refused":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            more["api_base"] = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    elif failure == "timeout":
        more["timeout"] = 0.3
    server.script([LM_FAILURES.get(failure, Reply(hold=hold))] * 8)
    program = Answerer()
    caught: BaseException | None = None
    try:
        with dspy.context(lm=server.lm(engine=engine, **more)):
            program(question="Why?")
    except Exception as raised:
        caught = raised
    finally:
        hold.set()
    assert caught is not None
    frames = [weakref.ref(caught)]
    spans = watched.spans()
    failed = [span for span in spans if span.kind in ("lm", "module")]
    assert {span.name for span in failed} == {"LM", "Predict", "Answerer"}
    for span in failed:
        assert span.error is not None
        assert span.error.traceback
        assert (span.usage, span.cost_usd, span.finish_reason, span.cache_hit, span.outputs) == (None,) * 5
    for span in spans[-2:]:
        assert span.error is not None
        assert span.error.type == f"{type(caught).__module__}.{type(caught).__qualname__}"
        assert span.error.message == redacted(str(caught))
    caught = None
    if engine == "lm15":  # some releases of LiteLLM keep what failed, with and without a tracer
        gc.collect()
        assert frames[0]() is None


@engines
def test_the_same_prompt_answered_and_refused_at_once(server: LMServer, watched: Watched, engine: str) -> None:
    """64 calls over 16 threads, every other one a 500: those know nothing, the others have their own numbers."""
    lm = server.lm(engine=engine)
    server.script([Reply(content="answer-{serial}"), Reply(status=500)] * 32)

    def ask(_: int) -> None:
        with suppress(Exception):
            lm("the same prompt")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(64)))
    spans = watched.spans()
    fine = [span for span in spans if span.error is None]
    assert (len(spans), len(fine)) == (64, 32)
    for span in fine:
        assert_exact(span, server.answer_to(text_of(span)))
    for span in spans:
        if span.error is not None:
            assert (span.usage, span.cost_usd, span.finish_reason, span.cache_hit) == (None, None, None, None)


@engines
def test_an_answer_that_no_adapter_can_read(server: LMServer, watched: Watched, engine: str) -> None:
    """Both attempts fail to parse: the LM spans are fine and exact, parsing and the modules have the error."""
    server.script([Reply(content="nothing-{serial}")] * 4)
    with dspy.context(lm=server.lm(engine=engine)), pytest.raises(Exception, match="parse"):
        Answerer()(question="Why?")
    spans = watched.spans()
    calls = lm_spans(spans)
    assert len(calls) == len(server.answered) >= 2
    for span in calls:
        assert_exact(span, server.answer_to(text_of(span)))
    failed = Counter(span.kind for span in spans if span.error is not None)
    assert failed["module"] == 2
    assert failed["adapter_parse"] >= 1
    assert spans[-1].usage is not None
    assert spans[-1].usage.input_tokens == sum(span.usage.input_tokens or 0 for span in calls if span.usage)


def test_a_metric_that_raises(server: LMServer, watched: Watched) -> None:
    """The evaluation goes on, as DSPy decides; each example's program is whole, and every span has ended."""

    def metric(example: Any, prediction: Any, trace: Any = None) -> float:
        if example.question == "q2":
            raise Mistake("no score")
        return 1.0

    devset = [dspy.Example(question=f"q{i}").with_inputs("question") for i in range(5)]
    with dspy.context(lm=server.lm()):
        dspy.Evaluate(devset=devset, metric=metric, num_threads=2, display_progress=False, failure_score=0.0)(
            Answerer()
        )
    spans = watched.spans()
    programs = [span for span in spans if span.name == "Answerer"]
    assert len(programs) == 5
    assert all(span.error is None and span.usage for span in programs)
    (run,) = [span for span in spans if span.kind == "evaluate"]
    assert run.error is None
    assert run.outputs["score"] == 80.0
    assert run.usage is not None
    assert run.usage.input_tokens == sum(a.tokens.prompt for a in server.answered.values() if a.tokens)


@engines
@pytest.mark.parametrize("way", ["cancel", "wait_for"])
def test_a_task_that_is_cancelled(server: LMServer, watched: Watched, engine: str, way: str) -> None:
    """By its owner or by a timeout: all of its open spans end as cancelled, and tell no tokens."""
    hold = threading.Event()
    server.script([Reply(hold=hold)])
    program = Answerer()
    seen: list[weakref.ref[Any]] = []

    async def cancelled() -> None:
        task = asyncio.ensure_future(program.acall(question="Why?"))
        seen.append(weakref.ref(task))
        await asyncio.to_thread(server.wait_received, 1)
        if way == "cancel":
            task.cancel()
            await task
        else:
            await asyncio.wait_for(task, 0.01)

    try:
        stopped = pytest.raises((asyncio.CancelledError, asyncio.TimeoutError))
        with dspy.context(lm=server.lm(engine=engine)), stopped:
            asyncio.run(cancelled())
    finally:
        hold.set()
    ended = [span for span in watched.spans() if span.kind in ("lm", "module")]
    assert [span.name for span in ended] == ["LM", "Predict", "Answerer"]
    for span in ended:
        assert span.error is not None
        assert span.error.type == "asyncio.exceptions.CancelledError"
        assert (span.usage, span.cost_usd, span.finish_reason, span.outputs) == (None, None, None, None)
    del stopped  # it holds the exception
    gc.collect()
    assert seen[0]() is None


class Pause:
    """Suspends a coroutine once."""

    def __await__(self) -> Generator[str, None, None]:
        yield "paused"


def test_a_coroutine_that_is_closed(server: LMServer, watched: Watched) -> None:
    """`coroutine.close()`: GeneratorExit ends the spans that are open there, innermost first."""

    class Pausing(dspy.Module):  # type: ignore[misc]
        async def aforward(self) -> None:
            with watched.tracer.span("own"):
                await Pause()

    class Outer(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = Pausing()

        async def aforward(self) -> None:
            await self.inner.acall()

    coroutine = Outer().acall()
    assert coroutine.send(None) == "paused"
    coroutine.close()
    spans = watched.spans()
    assert [span.name for span in spans] == ["own", "Pausing", "Outer"]
    assert {span.error.type for span in spans if span.error} == {"GeneratorExit"}
    assert spanhook.current_span() is None


def test_an_interrupt_during_a_call(server: LMServer, watched: Watched) -> None:
    """Ctrl-C while the model thinks: KeyboardInterrupt comes out of an LM's `forward`, on all levels."""
    if RELEASE < (3, 1):
        pytest.skip("DSPy before 3.1 calls no callback for such LMs")

    class Interrupted(dspy.BaseLM):  # type: ignore[misc]
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            raise KeyboardInterrupt

    with dspy.context(lm=Interrupted(model="m")), pytest.raises(KeyboardInterrupt):
        Answerer()(question="Why?")
    ended = [span for span in watched.spans() if span.kind in ("lm", "module")]
    assert [span.name for span in ended] == ["Interrupted", "Predict", "Answerer"]
    for span in ended:
        assert span.error is not None
        assert span.error.type == "KeyboardInterrupt"


@pytest.mark.skipif(RELEASE < (3, 1), reason="DSPy before 3.1 waits for stragglers")
def test_a_straggler(server: LMServer, watched: Watched) -> None:
    """dspy.Parallel asks a slow item again: both attempts are spans, each ends once, the late one after the root."""
    hold = threading.Event()
    server.script([Reply(fields={"answer": "late-1"}, hold=hold)])

    class Patient(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.respond = Answerer()

        def forward(self) -> None:
            parallel = dspy.Parallel(num_threads=4, timeout=1, straggler_limit=4, disable_progress_bar=True)
            parallel([(self.respond, {"question": f"q{i}"}) for i in range(4)])

    with dspy.context(lm=server.lm()):
        try:
            Patient()()
        finally:
            hold.set()
    spans = watched.spans()
    assert Counter(span.name for span in spans)["Answerer"] == 5
    for span in lm_spans(spans):
        assert_exact(span, server.answer_to(text_of(span)))
    (root,) = [span for span in spans if span.parent_id is None]
    assert root.usage is not None
    assert root.usage.input_tokens == sum(server.answered[serial].tokens.prompt for serial in range(2, 6))  # type: ignore[union-attr]


def test_items_that_fail_in_parallel(server: LMServer, watched: Watched) -> None:
    """Too many errors end dspy.Parallel: the module above has DSPy's error, the items their own."""
    server.script([Reply(status=400)] * 40)
    before = set(threading.enumerate())
    with dspy.context(lm=server.lm(), max_errors=2), pytest.raises(Exception, match=r"."):
        FanOut()(questions=[f"q{i}" for i in range(8)])
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith("spanhook-") and not thread.daemon:
            thread.join(WAIT_S)  # DSPy leaves them behind: until then an item may still begin
    spans = watched.spans()
    (root,) = [span for span in spans if span.name == "FanOut"]
    assert root.error is not None
    items = [span for span in spans if span.name == "Answerer"]
    assert len(items) >= 2
    assert all(span.error is not None and span.usage is None for span in items)


@pytest.mark.parametrize("capture", ["full", "metadata"])
def test_an_exception_is_let_go_of_at_once(server: LMServer, capture: str) -> None:
    """Without waiting for the garbage collector, as long as the program itself makes no cycle of it."""
    tracer = spanhook.configure({"tracing": {"backends": [], "capture": capture}}, plugins={"memory": Memory()})
    seen: list[weakref.ref[Local]] = []

    def fail() -> None:
        local = Local()
        seen.append(weakref.ref(local))
        raise Mistake("mine")

    gc.disable()
    try:
        with capture_spans(tracer) as spans, suppress(Mistake), tracer.span("own"):
            fail()
        assert seen[0]() is None
    finally:
        gc.enable()
    assert spans[0].error is not None


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """DSPy's settings as they were."""
    yield
    assert dspy.settings.caller_modules in (None, [])
