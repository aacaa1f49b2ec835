"""The threads of the delivery: there when there is something to do, however often they must be started, and woken."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

import spanhook
from doubles import WAIT_S, Memory, counts, one_span, tracer_of
from spanhook import BackendStats, Tracer
from threads import end_of_all


class Thread(threading.Thread):
    """The system has no thread to give, so many times."""

    failures = 0

    def start(self) -> None:
        if self.name.startswith("spanhook-") and Thread.failures:
            Thread.failures -= 1
            raise RuntimeError("can't start new thread")
        super().start()


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_thread_that_can_t_be_started_is_started_later(failures, monkeypatch):
    """What came meanwhile waits, and is delivered once."""
    monkeypatch.setattr(threading, "Thread", Thread)
    monkeypatch.setattr(Thread, "failures", failures)
    memory = Memory()
    tracer: Tracer = tracer_of(memory, Memory())
    for number in range(5):
        assert tracer.identify(f"{number}")
    assert tracer.flush(WAIT_S)
    assert [user for user, _ in memory.identities] == ["0", "1", "2", "3", "4"]
    assert tracer.stats().errors == {"delivery: start of its threads: RuntimeError": failures}
    assert tracer.shutdown(WAIT_S)
    end_of_all()


def test_a_plugin_that_raises_to_end_the_process_ends_no_thread(caplog):
    """Its items are dropped and counted, and the next ones go on."""
    orders = [True]

    class Exiting(Memory):
        @spanhook.hookimpl
        def redact(self, span: Any) -> None:
            if orders:
                sys.exit(3)

    memory = Exiting()
    tracer = tracer_of(memory)
    one_span(tracer)
    assert tracer.flush(WAIT_S) is False
    orders.clear()
    one_span(tracer, "next")
    assert tracer.flush(WAIT_S) is True
    assert [span.name for span in memory.spans] == ["next"]
    assert counts(tracer) == BackendStats(accepted=2, delivered=1, dropped={"not_prepared": 1})


def test_a_bell_that_rings_in_the_middle_of_its_ring():
    """What `threading.Event` is no good for."""
    tracer = tracer_of(Memory())
    bell = tracer._pipeline._wakeup
    bell.ring()
    bell.ring()
    assert bell.wait(WAIT_S)
    assert not bell.wait(0), "twice is no more than once"


def test_no_thread_before_the_first_item():
    """Configuring costs no thread; nor does flushing when nothing was accepted."""
    tracer = tracer_of(Memory())
    before = set(threading.enumerate())
    assert tracer.flush() is True
    assert set(threading.enumerate()) <= before
    assert counts(tracer) == BackendStats()
