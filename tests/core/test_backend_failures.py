"""A backend that blocks, raises or meddles: the loss is its own, counted and told, and all others have everything."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import spanhook
from doubles import Gate, Memory, counts, one_span, tracer_of, wait_for
from spanhook import BackendStats
from threads import end_of


@pytest.mark.parametrize("hook", ["emit", "identify", "track_signal"])
@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_a_backend_that_raises_fails_alone(hook, error):
    """Whatever it raises: its thread goes on, its loss is counted and told once, the other backend has everything."""
    bad, good = Memory(), Memory()
    calls = iter([error("no"), None, None])

    def sometimes(*_: Any) -> None:
        if (problem := next(calls)) is not None:
            raise problem

    bad._note = lambda name, argument: sometimes() if name == hook else None  # type: ignore[method-assign]
    tracer = tracer_of(bad, good)
    send = {
        "emit": lambda: one_span(tracer),
        "identify": lambda: tracer.identify("u"),
        "track_signal": lambda: tracer.track_signal("e", "s"),
    }[hook]
    send()
    assert tracer.flush() is False
    send()
    assert tracer.flush() is True
    stats = tracer.stats().backends
    assert (stats["a"].accepted, stats["a"].failed, stats["a"].delivered, stats["a"].queued) == (2, 1, 1, 0)
    assert (stats["b"].accepted, stats["b"].failed, stats["b"].delivered) == (2, 0, 2)
    assert tracer.stats().errors == {f"backend a: {hook}: {error.__name__}": 1}


def test_a_backend_that_blocks_delays_no_other(caplog):
    """The other has everything; flush and shutdown give up after their timeout, and say what is missing."""
    gate = Gate()
    free = Memory()
    tracer = tracer_of(Memory(gate), free)
    one_span(tracer)
    assert tracer.flush(0.2) is False
    one_span(tracer)
    with caplog.at_level(logging.WARNING, "spanhook"):
        assert tracer.shutdown(0.2) is False
    assert [record.getMessage() for record in caplog.records] == ["not delivered: backend a: 2 not sent in time"]
    assert len(free.spans) == 2
    assert free.hooks[-2:] == ["flush", "shutdown"]
    assert counts(tracer) == BackendStats(accepted=2, queued=2)
    gate.open()
    end_of("spanhook-a")


def _refuse(_: float) -> None:
    raise OSError("gone")


ENDS = {
    "False": (lambda _: False, "its {hook} was not sure of all"),
    "an exception": (_refuse, "its {hook} failed"),
}


@pytest.mark.parametrize("hook", ["flush", "shutdown"])
@pytest.mark.parametrize(("end", "told"), ENDS.values(), ids=ENDS)
def test_a_backend_that_ends_unsure_of_what_it_took_is_told_of(hook, end, told, caplog):
    """At the exit nobody sees what `shutdown` returns, and the counts know of nothing that is missing."""
    plugin = type("Plugin", (Memory,), {hook: spanhook.hookimpl(lambda self, timeout: end(timeout))})()
    tracer = tracer_of(plugin, Memory())
    one_span(tracer)
    assert tracer.flush() is (hook == "shutdown")
    assert not any("not delivered" in message for message in caplog.messages), "a flush tells its caller"
    assert tracer.shutdown() is False
    assert caplog.messages[-1] == f"not delivered: backend a: {told.format(hook=hook)}"
    assert counts(tracer) == BackendStats(accepted=1, delivered=1)


@pytest.mark.parametrize("hook", ["flush", "shutdown"])
def test_a_backend_that_does_not_end_is_told_of(hook, caplog):
    """It may hold what it has taken."""
    gate = Gate()
    plugin = type("Plugin", (Memory,), {hook: spanhook.hookimpl(lambda self, timeout: gate(timeout))})()
    tracer = tracer_of(plugin)
    one_span(tracer)
    assert tracer.shutdown(0.2) is False
    assert caplog.messages == [f"not delivered: backend a: its {hook} has not ended"]
    gate.open()
    end_of("spanhook-a")


def test_a_backend_that_raises():
    """The whole batch is failed; the flush that waited for it is told, the next one is not."""
    fail = [True]

    def emit(_: object) -> None:
        if fail:
            raise ConnectionError

    memory = Memory(emit)
    tracer = tracer_of(memory)
    for _ in range(3):
        one_span(tracer)
    assert tracer.flush() is False
    assert tracer.flush() is True
    assert counts(tracer) == BackendStats(accepted=3, failed=3)
    assert counts(tracer).lost() == "3 failed"
    fail.clear()
    one_span(tracer)
    assert tracer.flush() is True
    assert counts(tracer) == BackendStats(accepted=4, failed=3, delivered=1)


def test_a_backend_may_flush_and_shut_down_its_own_tracer():
    """Foolish, but no deadlock and no exception: it waits for itself as long as it said."""
    answers: list[bool] = []
    tracer = tracer_of(Memory(lambda _: answers.append(tracer.flush(0.01) or tracer.shutdown(0.01))))
    one_span(tracer)
    wait_for(lambda: answers)
    assert answers == [False]
    end_of("spanhook-a")
    assert not any("emit" in place for place in tracer.stats().errors)
