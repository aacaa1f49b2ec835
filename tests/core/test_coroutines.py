"""Modules whose `forward` is a coroutine function: DSPy ends their calls when the coroutine is made."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import sys
import threading
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

import spanhook
from doubles import Memory
from lm_server import LMServer, Reply
from spanhook import Span
from spanhook.dspy_source import DSPySource
from spanhook.testing import capture_spans


class Asker(dspy.Module):
    """Awaits one predictor."""

    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict("question -> answer")
        self.second = dspy.Predict("question -> answer")

    async def forward(self, question: str) -> Any:
        return await self.first.acall(question=question)


class Both(Asker):
    """Starts two tasks before it does anything else."""

    async def forward(self, question: str) -> Any:
        pair = (self.first.acall(question=question), self.second.acall(question=question))
        return dspy.Prediction(answers=[prediction.answer for prediction in await asyncio.gather(*pair)])


class Threads(Asker):
    """Starts two threads of DSPy before it does anything else."""

    async def forward(self, question: str) -> Any:
        pairs = [(self.first, {"question": question}), (self.second, {"question": question})]
        return dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs)


class Failing(Asker):
    """Raises when it has its answer."""

    async def forward(self, question: str) -> Any:
        await self.first.acall(question=question)
        raise LookupError(question)


class Outer(dspy.Module):
    """Awaits another module's coroutine."""

    def __init__(self, inner: dspy.Module) -> None:
        super().__init__()
        self.inner = inner

    async def forward(self, question: str) -> Any:
        return await self.inner(question=question)


@pytest.fixture
def server() -> Iterator[LMServer]:
    with LMServer(finish_reasons=("stop",)) as running:
        yield running


@pytest.fixture
def spans(server: LMServer) -> Iterator[list[Span]]:
    with dspy.context(lm=server.lm()), capture_spans() as captured:
        yield captured
    no_settings_are_left()


def no_settings_are_left() -> None:
    assert [name for name in contextvars.copy_context().items() if "spanhook_coroutine" in repr(name)] == []


def tree(spans: list[Span]) -> list[str]:
    """Modules and LMs as indented names: roots and children by name, as tasks start in any order."""
    kept = [span for span in spans if "adapter" not in span.kind]

    def below(parent_id: str | None, depth: int) -> Iterator[str]:
        for span in sorted((s for s in kept if s.parent_id == parent_id), key=lambda s: (s.name, s.start_ns)):
            yield "  " * depth + span.name
            yield from below(span.span_id, depth + 1)

    lines = list(below(None, 0))
    assert len(lines) == len(kept), "a span whose parent never came"
    return lines


def the_root(spans: list[Span]) -> Span:
    """By its place: before 3.3, in which order such calls are found to be over depends on the garbage collector."""
    (root,) = [span for span in spans if span.parent_id is None]
    return root


def root_of(spans: list[Span], span: Span) -> Span:
    by_id = {other.span_id: other for other in spans}
    while span.parent_id is not None:
        span = by_id[span.parent_id]
    return span


TWO = ["Predict", "  LM", "Predict", "  LM"]


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (Asker(), ["Asker", "  Predict", "    LM"]),
        (Both(), ["Both", *(f"  {line}" for line in TWO)]),
        (Threads(), ["Threads", *(f"  {line}" for line in TWO)]),
        (Outer(Both()), ["Outer", "  Both", *(f"    {line}" for line in TWO)]),
    ],
    ids=["a predictor", "tasks", "threads", "another coroutine"],
)
def test_an_awaited_call_is_one_trace(spans: list[Span], program: Any, expected: list[str]) -> None:
    """What the coroutine calls hangs under its module, also in tasks and threads; its result is the awaiter's alone."""

    async def main() -> Any:
        return await program(question="Why?")

    assert asyncio.run(main()) is not None
    gc.collect()  # before 3.3, DSPy may keep the coroutine
    assert tree(spans) == expected
    root = the_root(spans)
    assert (root.inputs, root.outputs, root.error) == ({"question": "Why?"}, None, None)
    assert root.end_ns is not None
    assert all(span.start_ns >= root.start_ns and (span.end_ns or 0) <= root.end_ns for span in spans)
    assert root.usage is not None
    assert root.usage.input_tokens == sum(span.usage.input_tokens for span in spans if span.kind == "lm")


@pytest.mark.parametrize("program", [Asker(), Both()], ids=["a predictor", "tasks"])
def test_a_call_with_a_task_of_its_own_has_its_result(spans: list[Span], program: Any) -> None:
    """`asyncio.run(program(…))`: the task knows the result, and the result leads to the event."""
    prediction = asyncio.run(program(question="Why?"))
    root = the_root(spans)
    assert {span.trace_id for span in spans} == {root.trace_id}
    assert root.outputs == dict(prediction.items())
    assert spanhook.event_id_of(prediction) == root.event_id


def test_a_call_with_a_task_of_its_own_is_one_trace(spans: list[Span]) -> None:
    """Its first call is the one by which the task is known, while its context can't be entered again."""
    asyncio.run(Asker()(question="Why?"))
    assert tree(spans) == ["Asker", "  Predict", "    LM"]


def test_calls_side_by_side_keep_apart(spans: list[Span], server: LMServer) -> None:
    """Eight coroutines of one module in `asyncio.gather`, and a plain call beside them: each has its own LM call."""
    program = Asker()

    async def main() -> list[Any]:
        coroutines = [program(question=f"number {i}") for i in range(8)]
        return await asyncio.gather(*coroutines, program.second.acall(question="plain"))

    predictions = asyncio.run(main())
    lms = [span for span in spans if span.kind == "lm"]
    assert len(lms) == len({span.trace_id for span in spans}) == 9
    for lm in lms:
        root = root_of(spans, lm)
        asked = root.inputs["question"]
        assert asked in str(lm.inputs["messages"])
        assert root.name == ("Predict" if asked == "plain" else "Asker")
        expected = predictions[-1 if asked == "plain" else int(asked[-1])]
        assert root.outputs == dict(expected.items())


def test_tasks_of_a_call_with_a_task_of_its_own(spans: list[Span]) -> None:
    """They hang under it where Python tells whose they are, from 3.12 on; a sibling's call never does."""

    async def main() -> None:
        program = Both()
        await asyncio.gather(program(question="mine"), program.first.acall(question="sibling's"))

    asyncio.run(main())
    sibling = next(span for span in spans if span.name == "Predict" and span.inputs["question"] == "sibling's")
    assert sibling.parent_id is None
    mine = [span for span in spans if span.name == "Predict" and span is not sibling]
    both = next(span for span in spans if span.name == "Both")
    assert {span.parent_id for span in mine} == {both.span_id if sys.version_info >= (3, 12) else None}
    assert len(both.outputs["answers"]) == 2


def test_an_exception_reaches_the_awaiter_and_is_an_error_of_unknown_type(spans: list[Span]) -> None:
    """That the coroutine raised is known, what it raised is not."""

    async def main() -> None:
        await Failing()(question="Why?")

    with pytest.raises(LookupError, match=r"Why\?"):
        asyncio.run(main())
    assert tree(spans) == ["Failing", "  Predict", "    LM"]
    root = the_root(spans)
    assert root.error is not None
    assert root.error.type == "spanhook.coroutines.UnknownError"
    assert root.outputs is None


def test_asyncio_still_warns_of_exceptions_that_nobody_retrieves(spans: list[Span], server: LMServer) -> None:
    """Asking a task for its exception would silence that; a cancelled task says that it was."""
    heard: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context["message"]))
        task = asyncio.ensure_future(Failing()(question="Why?"))
        await asyncio.wait([task])
        del task
        gc.collect()
        hold = threading.Event()
        server.script([Reply(hold=hold)])
        task = asyncio.ensure_future(Asker()(question="Why?"))
        await asyncio.to_thread(server.wait_received, 2)
        task.cancel()
        hold.set()
        await asyncio.wait([task])

    asyncio.run(main())
    assert heard == ["Task exception was never retrieved"]
    failed, cancelled = (next(span for span in spans if span.name == name) for name in ("Failing", "Asker"))
    assert failed.error is not None
    assert failed.error.type == "spanhook.coroutines.UnknownError"
    assert cancelled.error is not None
    assert cancelled.error.type == "asyncio.exceptions.CancelledError"


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_coroutine_that_is_never_awaited_says_so(spans: list[Span]) -> None:
    """The program has a plain coroutine in its hands, which it may let go of."""
    coroutine = Asker()(question="Why?")
    assert inspect.iscoroutine(coroutine)
    assert spans == []
    del coroutine
    gc.collect()
    (span,) = spans
    assert (span.outputs, span.error, span.attributes["never_awaited"]) == (None, None, True)


def test_a_coroutine_in_a_variable_ends_before_the_next_call(spans: list[Span]) -> None:
    """It lives on after it was awaited; what is called next is no part of it."""
    program = Asker()

    async def main() -> None:
        coroutine = program(question="first")
        await coroutine
        await program.first.acall(question="second")
        assert coroutine.cr_frame is None

    asyncio.run(main())
    assert tree(spans) == ["Asker", "  Predict", "    LM", "Predict", "  LM"]
    assert next(span for span in spans if span.name == "Asker").attributes["late_end"] is True


def test_in_an_interaction_it_ends_first(server: LMServer) -> None:
    """Children before parents, also where the call had a task of its own."""
    memory = Memory()
    tracer = spanhook.configure({"tracing": {"backends": [], "extractors": []}}, plugins={"memory": memory})

    async def main() -> None:
        with tracer.interaction(user_id="u1", event="chat"):
            await Asker()(question="Why?")
            await asyncio.gather(Asker()(question="Why?"))

    with dspy.context(lm=server.lm()):
        asyncio.run(main())
    assert tracer.flush()
    assert tree(memory.spans) == ["chat", "  Asker", "    Predict", "      LM", "  Asker", "    Predict", "      LM"]
    assert memory.spans[-1].name == "chat"
    assert {span.user_id for span in memory.spans} == {"u1"}
    assert tracer.stats().errors == {}


def test_a_wrapped_program_is_traced_with_what_its_coroutine_calls(server: LMServer) -> None:
    """And nothing else is, beside it or after it."""
    memory = Memory()
    tracer = spanhook.configure(
        {"tracing": {"backends": [], "extractors": [], "instrument": "wrapped"}}, plugins={"memory": memory}
    )
    wrapped, other = tracer.wrap(Both()), Asker()

    async def main() -> None:
        await wrapped(question="Why?")
        await other(question="Why?")
        other.second(question="Why?")

    async def side_by_side() -> None:
        program = tracer.wrap(Asker())
        await asyncio.gather(program(question="Why?"), other(question="Why?"), other.second.acall(question="Why?"))
        await other(question="Why?")

    with dspy.context(lm=server.lm()):
        asyncio.run(main())
        assert tracer.flush()
        assert tree(memory.spans) == ["Both", *(f"  {line}" for line in TWO)]
        memory.calls.clear()
        asyncio.run(side_by_side())
        assert tracer.flush()
        assert tree(memory.spans) == ["Asker", "  Predict", "    LM"]
    assert "forward" not in vars(wrapped)
    assert not [callback for callback in dspy.settings.callbacks if isinstance(callback, DSPySource)]
