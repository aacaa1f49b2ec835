"""The program's log handlers, which run in the middle of ours: they may raise and ask, and delivery goes on."""

from __future__ import annotations

import logging
import threading
import time

from doubles import WAIT_S, Memory, away, counts, one_span, tracer_of
from spanhook import BackendStats
from spanhook.delivery import counts as counts_module
from threads import in_thread


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


def test_a_log_handler_that_raises_does_no_harm():
    """A handler of the program's that raises in the middle of a warning stops neither program nor delivery."""

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    def emit(_: object) -> None:
        raise ConnectionError

    handler = Raising()
    logger = logging.getLogger("spanhook")
    logger.addHandler(handler)
    try:
        tracer = tracer_of(Memory(emit), delivery={"queue_spans": 1, "interval_s": 60})
        assert [tracer.identify("u"), tracer.identify("u")] == [True, False]
        assert tracer.flush() is False
        one_span(tracer)
        assert tracer.flush() is False
        assert counts(tracer) == BackendStats(accepted=3, delivered=1, failed=1, dropped={"queue_full": 1})
    finally:
        logger.removeHandler(handler)
