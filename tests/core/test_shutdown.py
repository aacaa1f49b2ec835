"""Flush and shutdown, and what comes in between: interrupts, signal handlers, other threads, odd arguments."""

from __future__ import annotations

import datetime
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from types import FrameType
from typing import Any

import pytest

import spanhook
from doubles import WAIT_S, Gate, Memory, one_span, tracer_of, wait_for
from spanhook import BackendStats, RetryLater, Tracer
from spanhook.delivery import counts as counts_module
from spanhook.delivery import outage
from spanhook.delivery.items import Identity
from spanhook.delivery.worker import Worker
from spools import counts


def away(_: object) -> None:
    raise RetryLater("down")


@contextmanager
def in_thread(work: Any) -> Iterator[list[Any]]:
    """Run `work` beside the block; its result is there afterwards."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    yield results
    thread.join(WAIT_S)
    assert not thread.is_alive()


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


def test_a_bell_that_rings_in_the_middle_of_its_ring():
    """What `threading.Event` is no good for."""
    tracer = tracer_of(Memory())
    bell = tracer._pipeline._wakeup
    bell.ring()
    bell.ring()
    assert bell.wait(WAIT_S)
    assert not bell.wait(0), "twice is no more than once"


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


def test_a_log_handler_may_ask_for_the_counts(monkeypatch):
    """While Spanhook wants to log something on another thread: neither waits for the other."""
    monkeypatch.setattr(counts_module, "WARN_EVERY_S", 0.0)
    wants_to_log = threading.Event()
    logger, handler = logging.getLogger("spanhook"), logging.StreamHandler()

    def note(record: logging.LogRecord) -> bool:
        if threading.current_thread().name == "spanhook-intake":
            wants_to_log.set()
        return True

    logger.addHandler(handler)
    logger.addFilter(note)
    try:
        tracer = tracer_of(Memory(away), delivery={"queue_spans": 2, "interval_s": 0.001})
        assert handler.lock is not None
        with handler.lock:  # as in the middle of its `emit`
            deadline = time.monotonic() + WAIT_S
            while not wants_to_log.is_set():
                one_span(tracer)
                assert time.monotonic() < deadline
            with in_thread(tracer.stats):
                pass
        tracer.shutdown(0)
    finally:
        logger.removeFilter(note)
        logger.removeHandler(handler)


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
    wait_for(lambda: not [t for t in threading.enumerate() if t.name.startswith("spanhook-")])


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
