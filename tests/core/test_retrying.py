"""A backend that can't take anything now gets the same again: in order, once, and never in the program's way."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from doubles import WAIT_S, Memory, counts, messages, one_span, tracer_of, wait_for
from spanhook import BackendStats, PartlyFailed, RetryLater, Span
from spanhook.delivery import outage
from spanhook.guard import Guard


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses are those of a test."""
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.001)


class Away(Memory):
    """Can't be reached until `back` is called, or for ever; `offered` has what it was offered meanwhile."""

    def __init__(self, after_s: float | None = None) -> None:
        super().__init__(self._take)
        self.offered: list[Sequence[Span]] = []
        self.tried_twice = threading.Event()
        self._after_s = after_s
        self._is_back = threading.Event()

    def back(self) -> None:
        self._is_back.set()

    def _take(self, spans: Sequence[Span]) -> None:
        if not self._is_back.is_set():
            self.offered.append(spans)
            if len(self.offered) > 1:
                self.tried_twice.set()
            raise RetryLater("HTTP 503 from http://localhost", self._after_s)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """A function: what was logged so far."""
    with caplog.at_level(logging.INFO, "spanhook"):
        yield lambda: messages([record for record in caplog.records if record.name == "spanhook"])


def test_the_same_batch_comes_again_until_it_is_taken(logged):
    """The same objects, in order, before anything that came later; said when it begins and when it ends."""
    away = Away()
    tracer = tracer_of(away, delivery={"interval_s": 0.001})
    for name in "ab":
        one_span(tracer, name)
    assert away.tried_twice.wait(WAIT_S)
    one_span(tracer, "c")
    tracer.identify("u1")
    assert tracer.flush(0.01) is False, "what waits behind it is not delivered"
    assert counts(tracer).queued == 4
    away.back()
    assert tracer.flush(WAIT_S) is True
    assert all(again is away.offered[0] for again in away.offered)
    assert [span.name for span in away.spans] == ["a", "b", "c"]
    assert [hook for hook in away.hooks if hook != "flush"][-2:] == ["emit", "identify"]
    assert counts(tracer) == BackendStats(accepted=4, delivered=4)
    assert logged() == [
        "backend a: not reachable, will try again: HTTP 503 from http://localhost",
        "backend a: reachable again",
    ]
    assert not tracer.stats().errors


def test_while_one_waits_the_queue_fills_up_and_no_other_backend_notices():
    """What fits arrives after the recovery, once; the rest is dropped and counted."""
    away, free = Away(), Memory()
    tracer = tracer_of(away, free, delivery={"queue_spans": 4, "batch_spans": 2, "interval_s": 0.001})
    for name in range(2):
        one_span(tracer, str(name))
    assert away.tried_twice.wait(WAIT_S)
    in_hand = len(away.offered[0])
    for name in range(2, 10):
        one_span(tracer, str(name))
        assert tracer.flush(0) is False
        wait_for(lambda: counts(tracer, "b").delivered > name)  # noqa: B023
    away.back()
    assert tracer.flush(WAIT_S) is False, "the loss is told once"
    assert tracer.flush(WAIT_S) is True
    taken = in_hand + 4
    assert counts(tracer) == BackendStats(accepted=10, delivered=taken, dropped={"queue_full": 10 - taken})
    assert [span.name for span in away.spans] == [str(name) for name in range(taken)]
    assert [span.name for span in free.spans] == [str(name) for name in range(10)]


def test_a_shutdown_has_one_last_attempt_at_once(logged):
    """However long the pause was to be; what is taken then is no loss."""
    away = Away(after_s=200)
    tracer = tracer_of(away)
    one_span(tracer)
    assert tracer.flush(0.5) is False
    away.back()
    assert tracer.shutdown(WAIT_S) is True
    assert counts(tracer) == BackendStats(accepted=1, delivered=1)
    assert logged()[1:] == ["backend a: reachable again"]


def test_what_is_left_at_the_shutdown_is_lost_and_said(logged):
    """At once, and with all that waits behind it: nobody waits for a server that isn't there."""
    away = Away(after_s=200)
    tracer = tracer_of(away, delivery={"batch_spans": 1})
    one_span(tracer)
    assert tracer.flush(0.5) is False
    one_span(tracer)
    tracer.identify("u1")
    assert tracer.shutdown(WAIT_S) is False
    assert len(away.offered) == 2
    assert counts(tracer) == BackendStats(accepted=3, dropped={"not_reachable": 3})
    assert away.hooks[-2:] == ["flush", "shutdown"], "it still lets go of what it has"
    assert logged()[1:] == ["not delivered: backend a: 3 dropped (not reachable)"]


def test_a_shutdown_uses_its_time():
    """An outage that ends within it costs nothing: the batch is offered until it is taken."""
    away = Away()
    tracer = tracer_of(away)
    one_span(tracer)
    ended: list[bool] = []
    closing = threading.Thread(target=lambda: ended.append(tracer.shutdown(WAIT_S)))
    closing.start()
    wait_for(lambda: len(away.offered) > 5)
    away.back()
    closing.join(WAIT_S)
    assert ended == [True]
    assert counts(tracer) == BackendStats(accepted=1, delivered=1)


def test_a_server_that_says_when_is_asked_then_if_there_is_time():
    """429 with Retry-After: a shutdown that may take longer waits for it."""
    away = Away(after_s=0.05)
    tracer = tracer_of(away)
    one_span(tracer)
    ended: list[bool] = []
    closing = threading.Thread(target=lambda: ended.append(tracer.shutdown(WAIT_S)))
    closing.start()
    assert away.tried_twice.wait(WAIT_S)
    away.back()
    closing.join(WAIT_S)
    assert ended == [True]
    assert len(away.spans) == 1


@pytest.mark.parametrize("after_s", [None, 0.05])
def test_an_exit_asks_a_server_that_is_away_hardly_more_than_once(after_s):
    """Also one that says when: an exit grants that once, so that the process ends long before its timeout."""
    away = Away(after_s)
    tracer = tracer_of(away, delivery={"exit_timeout_s": 600})
    one_span(tracer)
    tracer._at_exit()
    assert len(away.offered) <= 2
    assert counts(tracer) == BackendStats(accepted=1, dropped={"not_reachable": 1})


@pytest.mark.parametrize("hook", ["identify", "track_signal"])
def test_identities_and_signals_come_again_too(hook, monkeypatch):
    """With the same arguments."""
    refused = threading.Event()
    memory = Memory()
    note = memory._note

    def refuse_once(name: str, argument: object) -> None:
        if name == hook and not refused.is_set():
            refused.set()
            raise RetryLater("busy")
        note(name, argument)

    monkeypatch.setattr(memory, "_note", refuse_once)
    tracer = tracer_of(memory)
    tracer.identify("u1")
    tracer.track_signal("e1", "thumbs_up")
    assert tracer.flush(WAIT_S)
    assert memory.hooks == ["identify", "track_signal", "flush"]
    assert counts(tracer) == BackendStats(accepted=2, delivered=2)


def test_another_error_ends_the_retrying():
    """The server is back and refuses the batch: it has failed."""
    errors: list[Exception] = [ValueError("HTTP 400"), RetryLater("HTTP 503")]

    def emit(_: Sequence[Span]) -> None:
        if errors:
            raise errors.pop()

    tracer = tracer_of(Memory(emit))
    one_span(tracer)
    assert tracer.flush(WAIT_S) is False
    assert counts(tracer) == BackendStats(accepted=1, failed=1)


@pytest.mark.parametrize(("said", "failed"), [(2, 2), (0, 0), (99, 3), (-1, 0)])
def test_a_backend_says_how_many_failed(said, failed, logged):
    """The others of the batch count as delivered; the reason is logged, and a flush that waited is told."""

    def emit(_: Sequence[Span]) -> None:
        raise PartlyFailed(said, "too large")

    tracer = tracer_of(Memory(emit))
    for _ in range(3):
        one_span(tracer)
    assert tracer.flush(WAIT_S) is (failed == 0)
    assert counts(tracer) == BackendStats(accepted=3, delivered=3 - failed, failed=failed)
    assert logged() == ["backend a: emit failed; the program goes on (logged once): PartlyFailed: too large"]


def test_pauses_grow_up_to_a_limit_and_start_anew_after_a_success():
    """Each at most twice the one before, never longer than 30 seconds."""
    state = outage.Outage("backend a", Guard())
    pauses = [state.pause(RetryLater("")).seconds for _ in range(20)]
    assert all(0 < pause <= outage.LONGEST_PAUSE_S for pause in pauses)
    assert pauses[3] > pauses[0]
    assert pauses[-1] >= outage.LONGEST_PAUSE_S * 0.75
    state.over()
    assert state.pause(RetryLater("")).seconds <= outage.FIRST_PAUSE_S


@pytest.mark.parametrize("asked", [-1, 0, 7.0, 1e9, math.inf, math.nan])
def test_a_pause_that_a_server_asks_for_is_bounded(asked):
    """Neither a busy loop nor a wait without end."""
    pause = outage.Outage("backend a", Guard()).pause(RetryLater("", asked))
    assert outage.FIRST_PAUSE_S <= pause.seconds <= outage.LONGEST_ASKED_S
    assert pause.is_asked
    assert asked != 7.0 or pause.seconds == 7.0


def test_a_pause_that_is_no_number_is_the_plugins_error():
    """It fails where the plugin made it."""
    with pytest.raises(ValueError, match="soon"):
        RetryLater("", after_s="soon")  # type: ignore[arg-type]
