"""From the program's threads to the backends: by itself, in order, nothing twice, and counted at any moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import spanhook
from doubles import WAIT_S, Memory, counts, one_span, tracer_of
from spanhook import BackendStats, Span
from threads import in_threads


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
    tracer.shutdown(WAIT_S)  # what has gathered takes its time, too


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


def test_counts_are_right_at_any_moment():
    """What moves from the program's queue to a backend's while someone asks is counted once."""
    tracer = tracer_of(Memory(), delivery={"interval_s": 0.001, "queue_spans": 50})
    for made in range(1, 2_001):
        tracer.identify(f"{made}")
        stats = tracer.stats().backends["a"]
        assert stats.accepted == made == stats.delivered + stats.queued + sum(stats.dropped.values())


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
