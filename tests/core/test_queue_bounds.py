"""Queues and batches are bounded, by the number of spans and by what they hold; what finds no room is counted."""

from __future__ import annotations

import json
import logging
import threading

from doubles import WAIT_S, Gate, Memory, counts, one_span, tracer_of, wait_for
from spanhook import BackendStats, Signal, Tracer
from spanhook.delivery.items import Identity
from spanhook.delivery.sizes import size_of


def big_span(tracer: Tracer, name: str, chars: int) -> None:
    with tracer.span(name, pages=["x" * (chars // 2)] * 2):
        pass


def test_a_batch_has_so_many_bytes_at_most():
    """The spans keep their order; one that is larger than a batch goes alone."""
    memory = Memory()
    tracer = tracer_of(memory, delivery={"batch_bytes": 10_000, "interval_s": 60})
    for name, chars in [("a", 4_000), ("b", 4_000), ("c", 4_000), ("huge", 50_000), ("d", 10), ("e", 10)]:
        big_span(tracer, name, chars)
    assert tracer.flush(WAIT_S)
    batches = [[span.name for span in item] for hook, item in memory.calls if hook == "emit"]
    assert batches == [["a", "b"], ["c"], ["huge"], ["d", "e"]]


def test_a_queue_has_so_many_bytes_at_most():
    """Beyond them it drops and counts; small spans still find room, and an empty queue takes anything."""
    gate = Gate()
    memory = Memory(gate)
    tracer = tracer_of(memory, delivery={"queue_bytes": 10_000, "batch_spans": 1})
    one_span(tracer, "in hand")
    assert tracer.flush(0) is False
    assert gate.reached.wait(WAIT_S)
    for name, chars in [("a", 6_000), ("no room", 6_000), ("b", 10), ("no room", 60_000)]:
        big_span(tracer, name, chars)
    assert tracer.flush(0) is False
    wait_for(lambda: tracer.stats().backends["a"].dropped)
    wait_for(lambda: sum(tracer.stats().backends["a"].dropped.values()) == 2)
    gate.open()
    assert tracer.flush(WAIT_S) is False
    big_span(tracer, "alone", 60_000)
    assert tracer.flush(WAIT_S) is True
    assert [span.name for span in memory.spans] == ["in hand", "a", "b", "alone"]
    assert tracer.stats().backends["a"] == BackendStats(accepted=6, delivered=4, dropped={"queue_full": 2})


def test_a_burst_does_not_fill_the_intake_while_it_waits_for_a_batch():
    """However long the interval: a program that makes spans faster than that loses none."""
    memory = Memory()
    tracer = tracer_of(memory, delivery={"queue_spans": 100, "interval_s": 60})
    for number in range(75):
        tracer.identify(f"{number}")
    assert not memory.identities
    tracer.identify("75")
    wait_for(lambda: len(memory.identities) == 76)


def test_sizes_are_about_those_of_the_content():
    """Of spans, signals and identities; within a factor that suffices for a bound."""
    memory = Memory()
    tracer = tracer_of(memory)
    with tracer.span("work", question="x" * 10_000, numbers=list(range(500)), deep={"a": {"b": "y" * 10_000}}) as span:
        span.outputs = {"answer": "z" * 10_000}
        span.attributes["note"] = "w" * 10_000
    assert tracer.flush(WAIT_S)
    (finished,) = memory.spans
    written = len(json.dumps(finished.to_dict()))
    assert written / 2 < size_of(finished) < written * 2
    assert 10_000 < size_of(Signal("e", "edit", after="a" * 10_000)) < 20_000
    assert 10_000 < size_of(Identity("u", {"bio": "a" * 10_000})) < 20_000


def test_a_full_queue_holds_up_no_call():
    """What is dropped is counted without a lock that a backend's thread may hold; the counts add up at any time."""
    memory = Memory()
    tracer = tracer_of(memory, delivery={"queue_spans": 4, "interval_s": 60})
    for number in range(2):
        tracer.identify(f"{number}")  # fewer than make the intake thread hurry
    worker = tracer._pipeline._workers["a"]
    done = threading.Event()

    def more() -> None:
        for number in range(20):
            tracer.identify(f"more {number}")
        done.set()

    with worker._lock:
        thread = threading.Thread(target=more)
        thread.start()
        assert done.wait(WAIT_S)
    thread.join(WAIT_S)
    stats = tracer.stats().backends["a"]
    assert stats.accepted == 22 == stats.delivered + stats.queued + sum(stats.dropped.values())
    assert stats.dropped["queue_full"] >= 22 - 2 * 4
    assert tracer.flush(WAIT_S) is False
    assert tracer.stats().backends["a"].delivered == len(memory.identities)


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
