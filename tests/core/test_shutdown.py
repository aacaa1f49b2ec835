"""Shutdowns, and what comes in between: interrupts, signal handlers, other threads, a second shutdown."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import pytest

import spanhook
from doubles import WAIT_S, Gate, Memory, away, counts, one_span, tracer_of, wait_for
from spanhook import BackendStats, RetryLater
from spanhook.delivery import counts as counts_module
from spanhook.delivery import outage
from spanhook.delivery.items import Identity
from spanhook.delivery.worker import Worker
from threads import end_of, in_thread, in_threads


def test_a_flush_beside_a_shutdown_does_not_open_the_tracer_again(monkeypatch):
    """It began before and goes on after: what comes then is refused, and nothing waits without end."""
    tracer = tracer_of(Memory())
    one_span(tracer)
    assert tracer.flush(WAIT_S)
    started: list[threading.Thread] = []
    here = threading.current_thread()

    def lost_told(worker: Worker) -> int:
        if threading.current_thread() is here and not started:  # in the middle of the flush
            started.append(threading.Thread(target=tracer.shutdown, args=(WAIT_S,)))
            started[0].start()
            started[0].join(0.2)
        return 0

    monkeypatch.setattr(Worker, "lost_told", property(lost_told))
    tracer.flush(WAIT_S)
    started[0].join(WAIT_S)
    assert tracer.identify("u") is False
    assert counts(tracer) == BackendStats(accepted=2, delivered=1, dropped={"shut_down": 1})


def test_what_arrives_while_the_threads_end_is_counted(tmp_path):
    """By a thread that had just found the tracer open."""
    gate = Gate()

    class Slow(Memory):
        @spanhook.hookimpl
        def shutdown(self, timeout: float) -> None:
            gate()

    tracer = tracer_of(Slow(), delivery={"spool": str(tmp_path)})
    one_span(tracer)
    with in_thread(lambda: tracer.shutdown(WAIT_S)) as results:
        assert gate.reached.wait(WAIT_S)
        tracer._pipeline._intake.append(Identity("late", {}))
        gate.open()
    assert results == [True]
    wait_for(lambda: not tracer._pipeline._intake)
    assert counts(tracer) == BackendStats(accepted=2, delivered=1, dropped={"shut_down": 1})


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="sends a signal to a thread")
def test_a_shutdown_that_is_interrupted_says_what_is_left(caplog):
    """Ctrl-C ends the program's wait; the line is there all the same, and the exit waits for what goes on."""
    main = threading.main_thread().ident
    assert main is not None
    tries: list[int] = []

    def interrupt(_: object) -> None:
        tries.append(len(tries))
        if len(tries) == 3:
            signal.pthread_kill(main, signal.SIGINT)
        raise RetryLater("down")

    tracer = tracer_of(Memory(interrupt), delivery={"exit_timeout_s": WAIT_S})
    one_span(tracer)
    wait_for(lambda: tries)
    with pytest.raises(KeyboardInterrupt):
        tracer.shutdown(WAIT_S)
    assert caplog.messages[-1] == "not delivered: backend a: 1 not sent in time"
    assert tracer.shutdown(0) is False
    tracer._at_exit()
    assert counts(tracer) == BackendStats(accepted=1, dropped={"not_reachable": 1})
    assert sum("not delivered" in message for message in caplog.messages) == 1


def test_a_later_shutdown_waits_for_the_first_and_has_its_result(caplog):
    """On another thread, within its own timeout."""
    gate = Gate()
    tracer = tracer_of(Memory(gate))
    one_span(tracer)
    with in_thread(lambda: tracer.shutdown(WAIT_S)) as results:
        assert gate.reached.wait(WAIT_S)
        wait_for(lambda: tracer._closed)
        assert tracer.shutdown(0.01) is False
        with in_thread(lambda: tracer.shutdown(WAIT_S)) as more:
            gate.open()
        assert more == [True]
    assert results == [True]


@pytest.mark.parametrize("patient", [True, False])
def test_a_shutdown_that_failed_is_not_a_success_the_second_time(patient, monkeypatch):
    """By hand and at the exit."""
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.001)
    tracer = tracer_of(Memory(away))
    one_span(tracer)
    assert tracer._shut_down(0.7, patient=patient) is False
    assert tracer.shutdown(WAIT_S) is False


@pytest.mark.parametrize("has_spool", [False, True])
def test_a_flush_after_a_shutdown_has_its_result(has_spool, tmp_path, monkeypatch):
    """Nothing that is lost or left then is delivered by this process any more, however often one asks."""
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.001)
    delivery = {"spool": str(tmp_path)} if has_spool else {}
    failed = tracer_of(Memory(away), delivery=delivery)
    one_span(failed)
    assert failed.shutdown(0.7) is False
    assert failed.flush(WAIT_S) is False
    assert failed.flush(WAIT_S) is False
    done = tracer_of(Memory())
    one_span(done)
    assert done.shutdown(WAIT_S) is True
    assert done.flush(WAIT_S) is True


def test_a_flush_after_a_shutdown_knows_what_the_backend_said():
    """All was handed over to it, and it says at the end that not all has arrived."""

    class Holding(Memory):
        @spanhook.hookimpl
        def shutdown(self, timeout: float) -> bool:
            return False

    tracer = tracer_of(Holding())
    one_span(tracer)
    assert tracer.flush(WAIT_S) is True
    assert tracer.shutdown(WAIT_S) is False
    assert tracer.flush(WAIT_S) is False


def test_a_flush_beside_a_shutdown_waits_for_it():
    """On another thread, within its own timeout."""
    gate = Gate()
    tracer = tracer_of(Memory(gate))
    one_span(tracer)
    with in_thread(lambda: tracer.shutdown(WAIT_S)) as results:
        assert gate.reached.wait(WAIT_S)
        wait_for(lambda: tracer._pipeline._closed)
        assert tracer.flush(0.01) is False
        with in_thread(lambda: tracer.flush(WAIT_S)) as flushed:
            gate.open()
        assert flushed == [True]
    assert results == [True]


def test_the_exit_says_what_a_shutdown_on_another_thread_has_not_come_to(caplog):
    """A daemon thread ends with the process, and what it would have said with it."""
    gate = Gate()
    tracer = tracer_of(Memory(gate), delivery={"exit_timeout_s": 0.01})
    one_span(tracer)
    with in_thread(lambda: tracer.shutdown(WAIT_S)):
        assert gate.reached.wait(WAIT_S)
        wait_for(lambda: tracer._pipeline._closed)
        tracer._at_exit()
        said = [message for message in caplog.messages if "not delivered" in message]
        gate.open()
    assert said == ["not delivered: backend a: 1 not sent in time"]
    assert sum("not delivered" in message for message in caplog.messages) == 1


def test_a_signal_handler_may_come_in_the_middle_of_anything():
    """It may trace, flush and shut down, wherever the thread stood: nothing waits for itself."""
    tracer = tracer_of(Memory(), delivery={"interval_s": 0.001})
    seen: set[tuple[str, int]] = set()
    inside: list[bool] = []
    folders = (os.path.dirname(threading.__file__), os.path.dirname(counts_module.__file__))

    def handler(frame: FrameType, event: str, argument: object) -> Any:
        place = (frame.f_code.co_filename, frame.f_lineno)
        if inside or place in seen or os.path.dirname(place[0]) not in folders:
            return handler
        seen.add(place)
        inside.append(True)
        try:
            tracer.identify("u", {"n": len(seen)})
            tracer.flush(0)
        finally:
            inside.clear()
        return handler

    def work() -> bool:
        sys.settrace(handler)
        try:
            for _ in range(20):
                tracer.identify("u")
                tracer.flush(WAIT_S)
            return tracer.shutdown(WAIT_S)
        finally:
            sys.settrace(None)

    with in_thread(work) as results:
        pass
    assert len(results) == 1, "what the handler did after the shutdown is a loss"
    assert len(seen) > 20
    stats = counts(tracer)
    assert stats.accepted == stats.delivered + sum(stats.dropped.values())


def test_counts_add_up_after_the_end():
    """At any moment, while others put in what is refused."""
    tracer = tracer_of(Memory())
    one_span(tracer)
    assert tracer.shutdown(WAIT_S)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with in_thread(lambda: [tracer.identify("u") for _ in range(3_000)]):
            for _ in range(3_000):
                counts(tracer)
    finally:
        sys.setswitchinterval(interval)


def test_shutdown_from_many_threads_happens_once():
    """Each of them returns, and the backend is shut down once."""
    memory = Memory()
    tracer = tracer_of(memory)
    one_span(tracer)
    in_threads(lambda _: tracer.shutdown(WAIT_S), 8)
    end_of("spanhook-a")
    assert memory.hooks == ["emit", "flush", "shutdown"]
