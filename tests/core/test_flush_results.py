"""What flush and shutdown answer: True only if every backend has everything, within whatever timeout."""

from __future__ import annotations

import datetime
import logging
import threading
from fractions import Fraction
from typing import Any

import pytest

import spanhook
from doubles import WAIT_S, Gate, Memory, counts, one_span, tracer_of, wait_for
from spanhook import BackendStats
from threads import end_of


@pytest.mark.parametrize("timeout", [None, "5", [], datetime.timedelta(seconds=5), float("nan")])
def test_a_timeout_that_is_no_number_is_said_and_the_default_taken(timeout, caplog):
    """Nothing is lost by it: what was accepted is delivered, and the answer is true."""
    memory = Memory()
    tracer = tracer_of(memory)
    one_span(tracer)
    assert tracer.flush(timeout) is True
    assert tracer.flush(timeout) is True
    assert tracer.shutdown(timeout) is True
    assert tracer.shutdown(timeout) is True
    assert len(memory.spans) == 1
    assert memory.hooks[-1] == "shutdown"
    assert len(caplog.messages) == 2, "once for each of the two"
    assert caplog.messages[0].startswith("flush: refused (logged once): timeout must be a number of seconds, not ")
    assert caplog.messages[0].endswith("; 5.0 is taken")


@pytest.mark.parametrize("timeout", [True, Fraction(30), 10**400, 30])
def test_any_number_is_a_timeout(timeout, caplog):
    """Of whatever class."""
    tracer = tracer_of(Memory())
    one_span(tracer)
    assert tracer.flush(timeout) is True
    assert tracer.shutdown(timeout) is True
    assert caplog.messages == []


def test_every_flush_that_waited_for_a_failed_batch_is_told():
    """Two requests flush at once; their spans are in one batch; neither may hear that all is well."""
    gate = Gate()

    def emit(_: object) -> None:
        gate()
        raise ConnectionError

    tracer = tracer_of(Memory(emit))
    one_span(tracer)
    results: list[bool] = []
    waiting = [threading.Thread(target=lambda: results.append(tracer.flush(WAIT_S))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    assert gate.reached.wait(WAIT_S)
    wait_for(lambda: len(tracer._pipeline._workers["a"]._queue._items) == 3)  # all three wait behind the batch
    gate.open()
    for thread in waiting:
        thread.join(WAIT_S)
    assert results == [False] * 3
    assert tracer.flush() is True


@pytest.mark.parametrize(("answer", "expected"), [(None, True), (True, True), (False, False), (OSError, False)])
@pytest.mark.parametrize("hook", ["flush", "shutdown"])
def test_a_backend_has_a_word_in_flush_and_shutdown(hook, answer, expected):
    """False, or an exception, from its hook: something that it had taken could not be delivered."""

    class Holding(Memory):
        def _note(self, name: str, argument: Any) -> None:
            super()._note(name, argument)
            if name == hook and answer is OSError:
                raise OSError

        @spanhook.hookimpl
        def flush(self, timeout: float) -> bool | None:
            self._note("flush", timeout)
            return answer if hook == "flush" else None

        @spanhook.hookimpl
        def shutdown(self, timeout: float) -> bool | None:
            self._note("shutdown", timeout)
            return answer if hook == "shutdown" else None

    tracer = tracer_of(Holding())
    one_span(tracer)
    assert (tracer.flush() if hook == "flush" else tracer.shutdown()) is expected
    assert counts(tracer).delivered == 1


@pytest.mark.parametrize("timeout", [0, -1.0, 1e12, float("inf")])
def test_any_timeout_is_taken(timeout):
    """Too short asks and goes on; too long for the system waits as long as it takes."""
    memory = Memory()
    tracer = tracer_of(memory)
    one_span(tracer)
    assert timeout <= 0 or tracer.flush(timeout) is True
    assert tracer.shutdown(timeout) is (timeout > 0)
    end_of("spanhook-a")
    end_of("spanhook-intake")
    assert len(memory.spans) == 1
    assert memory.hooks[-1] == "shutdown"


def test_after_shutdown_nothing_is_accepted(caplog):
    """What comes later is refused, counted and said; flush is honest about it."""
    memory = Memory()
    tracer = tracer_of(memory)
    one_span(tracer)
    assert tracer.shutdown() is True
    assert tracer.flush() is True, "everything that was accepted had been delivered"
    with caplog.at_level(logging.WARNING, "spanhook"):
        assert tracer.identify("u") is False
        assert tracer.track_signal("e", "s") is False
    assert caplog.messages == ["backend a: 1 dropped (shut down)"]
    one_span(tracer)
    assert counts(tracer) == BackendStats(accepted=3, delivered=1, dropped={"shut_down": 2})
    assert tracer.flush() is False
    assert memory.hooks == ["emit", "flush", "shutdown"]
