"""What the program itself raises: on every level that it passed, the very exception goes on, and nothing holds it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import dspy
import pytest

import spanhook
from doubles import Memory
from exact import assert_exact, lm_spans
from lm_server import LMServer
from spanhook.testing import capture_spans
from watched import Watched


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
