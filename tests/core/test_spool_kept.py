"""What a shutdown says is kept in the spool: that is there for the next start, once, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from doubles import WAIT_S, Gate, Memory, counts, messages, wait_for
from spanhook import BackendStats
from spanhook.delivery.spool_tables import Tables
from spools import Switched, failing, files, leave, rows, spans, spooling
from threads import end_of_all

pytestmark = pytest.mark.usefixtures("short_pauses", "looks_often")


def test_what_a_shutdown_leaves_is_said_and_delivered_by_the_next_start(spool_folder, caplog):
    """Each backend gets what it lacks and nothing else: spans, identities, signals, in order."""
    down, up = Switched(), Switched(is_up=True)
    tracer = spooling(spool_folder, down, up)
    with tracer.interaction(user_id="u1", event="chat", properties={"plan": "pro"}) as interaction:
        spans(tracer, "inner", question="Why?")
    tracer.identify("u1", {"seats": 3, "beta": True})
    tracer.track_signal(interaction.event_id, "thumbs_up", "feedback", comment="Right!", sentiment="POSITIVE")
    with caplog.at_level(logging.WARNING, "spanhook"):
        wait_for(lambda: counts(tracer, "b").delivered == 4)
        leave(tracer)
    assert messages(caplog.records)[-1] == "not delivered: backend a: 4 kept in the spool"
    assert counts(tracer) == BackendStats(accepted=4, queued=4, spooled=4)
    assert len(up.calls) >= 4

    late, idle = Switched(is_up=True), Switched(is_up=True)
    second = spooling(spool_folder, late, idle)
    wait_for(lambda: counts(second).delivered == 4)  # without a span of its own, and without a flush
    assert second.flush(WAIT_S)
    assert counts(second) == BackendStats(accepted=4, delivered=4)
    assert [span.to_dict() for span in late.spans] == [span.to_dict() for span in up.spans]
    assert late.identities == up.identities
    assert late.signals == up.signals
    assert [hook for hook in late.hooks if hook != "flush"][-2:] == ["identify", "track_signal"]
    assert not idle.spans
    assert second.shutdown(WAIT_S)
    assert files(spool_folder, "") == []


def test_a_backend_that_hangs_keeps_its_spans_and_no_one_waits(spool_folder):
    """The shutdown is over in time; what was not sent is there for the next start."""
    gate = Gate()
    tracer = spooling(spool_folder, Memory(gate), batch_spans=1)
    spans(tracer, "1", "2", "3")
    assert tracer.flush(0) is False
    assert gate.reached.wait(WAIT_S)
    assert tracer.shutdown(0.2) is False
    assert counts(tracer).queued == counts(tracer).spooled == 3
    gate.open()
    end_of_all()
    memory = Memory()
    second = spooling(spool_folder, memory)
    wait_for(lambda: counts(second).delivered >= 2)
    assert second.flush(WAIT_S)
    assert [span.name for span in memory.spans][-2:] == ["2", "3"], "the first may come again: nobody noted its end"


def test_what_can_t_be_read_at_the_shutdown_stays(spool_folder, monkeypatch):
    """The next start has all the time."""
    first = spooling(spool_folder, Switched(), queue_bytes=2_000, batch_spans=1)
    spans(first, *map(str, range(20)))
    wait_for(lambda: counts(first).spooled == 20)
    with monkeypatch.context() as patch:
        failing(patch, Tables, "read", "disk I/O error")
        leave(first)
        assert counts(first) == BackendStats(accepted=20, queued=20, spooled=20)
    memory = Memory()
    second = spooling(spool_folder, memory)
    wait_for(lambda: len(memory.spans) == 20)
    assert second.shutdown(WAIT_S)


def test_what_could_not_be_written_is_not_said_to_be_kept(spool_folder, monkeypatch, caplog):
    """It is in memory alone."""
    tracer = spooling(spool_folder, Switched())
    spans(tracer, "1")
    wait_for(lambda: counts(tracer).spooled == 1)
    failing(monkeypatch, Tables, "add", "database or disk is full")
    spans(tracer, "2", "3")
    wait_for(lambda: tracer.stats().errors and not tracer._pipeline._intake)
    assert counts(tracer) == BackendStats(accepted=3, queued=3, spooled=1)
    assert tracer.shutdown(0.2) is False
    assert caplog.messages[-1] == "not delivered: backend a: 2 dropped (not reachable), 1 kept in the spool"


def test_what_was_deleted_while_it_was_being_sent_is_not_said_to_be_kept(spool_folder):
    """As many as the shutdown says arrive after the next start."""
    backend = Switched()
    tracer = spooling(spool_folder, backend, spool_bytes=30_000, batch_spans=10)
    spans(tracer, *map(str, range(10)))
    wait_for(lambda: backend.tries > 1)
    spans(tracer, *map(str, range(10, 210)))
    wait_for(lambda: counts(tracer).dropped)
    wait_for(lambda: counts(tracer).accepted == 210 and not tracer._pipeline._intake)
    assert tracer.shutdown(0.2) is False
    end_of_all()
    kept = counts(tracer).spooled
    assert kept == counts(tracer).queued == sum(len(rows(path)) for path in files(spool_folder))
    assert counts(tracer).dropped["not_reachable"]
    memory = Memory()
    second = spooling(spool_folder, memory)
    wait_for(lambda: len(memory.spans) == kept)
    assert second.shutdown(WAIT_S)
    assert len(memory.spans) == kept


def test_a_backend_that_comes_back_after_the_shutdown(spool_folder):
    """What it took then is noted, what it did not is neither lost nor damaged: all arrives once."""
    first_gate, gate = Gate(), Gate()
    gates: list[Callable[[], None]] = [lambda: None, gate, first_gate]
    old = Memory(lambda _: gates.pop()() if gates else None)
    first = spooling(spool_folder, old, queue_bytes=10_000, batch_spans=10)
    spans(first, "in hand")
    assert first_gate.reached.wait(WAIT_S)
    spans(first, *map(str, range(100)))
    wait_for(lambda: counts(first).spooled == 101)
    first_gate.open()
    assert gate.reached.wait(WAIT_S)
    assert first.shutdown(0.1) is False
    gate.open()
    end_of_all()
    delivered = counts(first).delivered
    left = 101 - delivered
    assert counts(first) == BackendStats(accepted=101, delivered=delivered, queued=left, spooled=left)
    new = Memory()
    second = spooling(spool_folder, new)
    wait_for(lambda: len(new.spans) == left)
    assert second.shutdown(WAIT_S)
    assert len({span.span_id for span in (*old.spans, *new.spans)}) == 101 == len(old.spans) + len(new.spans)
