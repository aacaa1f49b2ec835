"""From the program's threads to the backends: nothing lost unseen, nothing twice, nobody waits for somebody else."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

import spanhook
from doubles import WAIT_S, Gate, Memory, one_span, tracer_of, wait_for
from spanhook import BackendStats, Span, Tracer


def counts(tracer: Tracer, name: str = "a") -> BackendStats:
    """The counts of a backend; they have to add up."""
    stats = tracer.stats().backends[name]
    assert stats.accepted == stats.delivered + stats.queued + stats.failed + sum(stats.dropped.values())
    return stats


def in_threads(work: Any, number: int) -> None:
    """Run `work(index)` in threads that start together."""
    barrier = threading.Barrier(number)

    def run(index: int) -> None:
        barrier.wait(WAIT_S)
        work(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()


def test_no_thread_before_the_first_item():
    """Configuring costs no thread; nor does flushing when nothing was accepted."""
    tracer = tracer_of(Memory())
    before = set(threading.enumerate())
    assert tracer.flush() is True
    assert set(threading.enumerate()) <= before
    assert counts(tracer) == BackendStats()


def test_spans_identities_and_signals_keep_their_order():
    """As the program made them, whatever their kind, in batches of spans."""
    memory = Memory()
    tracer = tracer_of(memory, delivery={"batch_spans": 2})
    for name in "abc":
        one_span(tracer, name)
    tracer.identify("u1")
    tracer.track_signal("e1", "s1")
    one_span(tracer, "d")
    tracer.identify("u2")
    assert tracer.flush()
    assert [[s.name for s in item] if hook == "emit" else hook for hook, item in memory.calls] == [
        ["a", "b"], ["c"], "identify", "track_signal", ["d"], "identify", "flush",
    ]  # fmt: skip
    assert counts(tracer) == BackendStats(accepted=7, delivered=7)


def test_items_arrive_without_a_flush():
    """A batch goes out on its own, an interval after its first item."""
    arrived = threading.Event()
    tracer = tracer_of(Memory(lambda _: arrived.set()), delivery={"interval_s": 0.001})
    one_span(tracer)
    assert arrived.wait(WAIT_S)


def test_items_arrive_without_a_flush_after_pauses_of_any_length():
    """Whether the delivery looks at its queue, falls asleep or sleeps: each span arrives by itself."""
    arrived = threading.Event()
    tracer = tracer_of(Memory(lambda _: arrived.set()), delivery={"interval_s": 0.001})
    for number in range(60):
        one_span(tracer, str(number))
        assert arrived.wait(WAIT_S), number
        arrived.clear()
        threading.Event().wait(number % 20 * 0.001)  # it falls asleep after about 10 ms


def test_items_arrive_while_the_program_makes_them_faster_than_they_are_handed_on():
    """No pause of the program is needed for the backends to get something."""
    arrived = threading.Event()

    class Slow(Memory):
        @spanhook.hookimpl
        def redact(self, span: Span) -> None:
            arrived.wait(0.001)

    tracer = tracer_of(Slow(lambda _: arrived.set()), delivery={"interval_s": 0.01})
    deadline = time.monotonic() + WAIT_S
    while not arrived.is_set():
        one_span(tracer)
        assert time.monotonic() < deadline


def test_eight_threads_lose_nothing():
    """Five thousand items from each, flushed by all of them at once: each arrives once, in its thread's order."""
    memory = Memory()
    tracer = tracer_of(memory, delivery={"queue_spans": 50_000, "interval_s": 0.01})
    flushed: list[bool] = []

    def work(index: int) -> None:
        for number in range(5_000):
            tracer.identify(f"{index}", {"n": number})
        flushed.append(tracer.flush(WAIT_S))

    in_threads(work, 8)
    assert flushed == [True] * 8
    assert len(memory.identities) == 40_000
    for index in range(8):
        assert [traits["n"] for user, traits in memory.identities if user == f"{index}"] == list(range(5_000))
    assert counts(tracer) == BackendStats(accepted=40_000, delivered=40_000)


def test_a_full_queue_drops_counts_and_says_so(caplog):
    """Never blocks the program; the other backend has a queue of its own; a later flush is told once."""
    gate, passed_on = Gate(), threading.Event()
    blocked, free = Memory(gate), Memory(lambda _: passed_on.set())
    tracer = tracer_of(blocked, free, delivery={"queue_spans": 4, "batch_spans": 1, "interval_s": 0.001})
    with caplog.at_level(logging.WARNING, "spanhook"):
        for name in range(10):
            passed_on.clear()
            one_span(tracer, str(name))
            assert tracer.flush(0) is False, "a mark takes no room from the spans"
            assert passed_on.wait(WAIT_S)
            assert gate.reached.wait(WAIT_S)
    wait_for(lambda: counts(tracer, "b").delivered == 10)
    assert counts(tracer) == BackendStats(accepted=10, queued=5, dropped={"queue_full": 5})
    assert counts(tracer, "b") == BackendStats(accepted=10, delivered=10)
    assert [r.getMessage() for r in caplog.records] == ["backend a: 1 dropped (queue full)"], "at most one a minute"
    gate.open()
    assert tracer.flush(WAIT_S) is False
    assert tracer.flush(WAIT_S) is True
    assert [span.name for span in blocked.spans] == ["0", "1", "2", "3", "4"]
    assert len(free.spans) == 10


def test_a_full_intake_refuses():
    """An identity that finds no room is not accepted, and counted for every backend."""
    tracer = tracer_of(Memory(), Memory(), delivery={"queue_spans": 2, "interval_s": 60})
    assert [tracer.identify("u") for _ in range(4)] == [True, True, False, False]
    for name in "ab":
        assert counts(tracer, name) == BackendStats(accepted=4, queued=2, dropped={"queue_full": 2})
    assert tracer.flush(WAIT_S) is False
    assert counts(tracer) == BackendStats(accepted=4, delivered=2, dropped={"queue_full": 2})


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
    _end_of("spanhook-a")


def _end_of(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(WAIT_S)
            assert not thread.is_alive()


def test_counts_are_right_at_any_moment():
    """What moves from the program's queue to a backend's while someone asks is counted once."""
    tracer = tracer_of(Memory(), delivery={"interval_s": 0.001, "queue_spans": 50})
    for made in range(1, 2_001):
        tracer.identify(f"{made}")
        stats = tracer.stats().backends["a"]
        assert stats.accepted == made == stats.delivered + stats.queued + sum(stats.dropped.values())


def test_a_blocked_backend_goes_on_when_it_can():
    """What waited is delivered late rather than never, in order."""
    gate = Gate()
    memory = Memory(gate)
    tracer = tracer_of(memory)
    for name in "abc":
        one_span(tracer, name)
    assert tracer.flush(0) is False
    gate.open()
    assert tracer.flush(WAIT_S) is True
    assert [span.name for span in memory.spans] == ["a", "b", "c"]


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


class Loud(str):
    """Text of a class of the program's."""


class LoudError(Exception):
    def __str__(self) -> str:
        return Loud("shouted")


def test_text_of_the_program_s_own_classes():
    """It is the same text to every backend, and stops nothing."""
    memory = Memory()
    tracer = tracer_of(memory)
    with suppress(LoudError), tracer.span(Loud("a"), **{Loud("b"): Loud("c")}) as span:
        span.attributes[Loud("d")] = Loud("e")
        raise LoudError
    tracer.identify(Loud("u1"), {Loud("plan"): Loud("pro")})
    tracer.track_signal(Loud("e1"), Loud("n"), properties={Loud("f"): Loud("g")}, comment=Loud("h"))
    assert tracer.flush()
    (sent,) = memory.spans
    assert sent.error is not None
    assert sent.error.message == "shouted"
    identity, signal = (argument for hook, argument in memory.calls if hook in ("identify", "track_signal"))
    found = [sent.name, sent.inputs, sent.attributes, sent.error.message, *identity, signal.properties, signal.comment]
    assert found == ["a", {"b": "c"}, {"d": "e"}, "shouted", "u1", {"plan": "pro"}, {"f": "g"}, "h"]
    assert "Loud" not in {type(text).__name__ for text in _texts(found)}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for below in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(below)


def test_what_can_t_be_prepared_is_dropped_counted_and_stops_nothing(caplog):
    """One span that the program has broken: the next ones go on, and a flush that waited is told."""
    memory = Memory()
    tracer = tracer_of(memory)
    with tracer.span("above"), tracer.span("broken") as span:
        span.local_root_id = ["odd"]  # type: ignore[assignment]
    one_span(tracer, "next")
    assert tracer.flush() is False
    assert tracer.flush() is True
    assert [span.name for span in memory.spans] == ["above", "next"]
    assert tracer.stats().backends["a"] == BackendStats(accepted=3, delivered=2, dropped={"not_prepared": 1})
    assert "backend a: 1 dropped (not prepared)" in caplog.text


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
    _end_of("spanhook-a")
    _end_of("spanhook-intake")
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
    one_span(tracer)
    assert [record.getMessage() for record in caplog.records] == ["backend a: 1 dropped (shut down)"]
    assert counts(tracer) == BackendStats(accepted=3, delivered=1, dropped={"shut_down": 2})
    assert tracer.flush() is False
    assert memory.hooks == ["emit", "flush", "shutdown"]


def test_shutdown_from_many_threads_happens_once():
    """Each of them returns, and the backend is shut down once."""
    memory = Memory()
    tracer = tracer_of(memory)
    one_span(tracer)
    in_threads(lambda _: tracer.shutdown(WAIT_S), 8)
    _end_of("spanhook-a")
    assert memory.hooks == ["emit", "flush", "shutdown"]


def test_a_backend_may_flush_and_shut_down_its_own_tracer():
    """Foolish, but no deadlock and no exception: it waits for itself as long as it said."""
    answers: list[bool] = []
    tracer = tracer_of(Memory(lambda _: answers.append(tracer.flush(0.01) or tracer.shutdown(0.01))))
    one_span(tracer)
    wait_for(lambda: answers)
    assert answers == [False]
    _end_of("spanhook-a")
    assert not any("emit" in place for place in tracer.stats().errors)


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
