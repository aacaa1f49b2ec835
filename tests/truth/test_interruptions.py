"""Calls that are cut short by a cancellation, a `close` or Ctrl-C: every open span ends, with that as its error."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Generator
from typing import Any

import dspy
import pytest

import spanhook
from exact import ENGINES, RELEASE
from lm_server import LMServer, Reply
from programs import Answerer
from watched import Watched


@pytest.mark.parametrize("engine", ENGINES)
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
