"""The bounds of the spool, `spool_bytes` and `spool_days`: the oldest are dropped, and counted."""

from __future__ import annotations

import logging

import pytest

from doubles import WAIT_S, Memory, counts, messages, wait_for
from spanhook import BackendStats
from spanhook.delivery import spool
from spools import Switched, files, leave, rows, spans, spooling

pytestmark = pytest.mark.usefixtures("short_pauses")


def test_a_full_spool_drops_the_oldest_and_counts_them(spool_folder, caplog):
    """In memory and on disk; what stays arrives, in order, and the backend that was quick has all."""
    backend, free = Switched(), Memory()
    tracer = spooling(spool_folder, backend, free, queue_spans=10, batch_spans=5, spool_bytes=50_000)
    with caplog.at_level(logging.WARNING, "spanhook"):
        for number in range(200):
            spans(tracer, str(number), text="x" * 1_000)
            if number % 5 == 4:
                assert tracer.flush(0) is False
                wait_for(lambda: counts(tracer, "b").delivered > number)  # noqa: B023
    assert any("dropped (spool full)" in message for message in messages(caplog.records))
    dropped = counts(tracer).dropped["spool_full"]
    assert 100 < dropped < 200
    assert sum(len(body) for path in files(spool_folder) for _, body in rows(path)) <= 50_000
    backend.is_up.set()
    assert tracer.flush(WAIT_S) is False
    names = [int(span.name) for span in backend.spans]
    assert names == sorted(set(names))
    assert names[-1] == 199
    assert len(names) == 200 - dropped
    assert counts(tracer) == BackendStats(accepted=200, delivered=200 - dropped, dropped={"spool_full": dropped})
    assert len(free.spans) == 200


def test_what_is_too_old_is_dropped_and_counted(spool_folder, monkeypatch):
    """It is looked for at the start, and once a minute."""
    first = spooling(spool_folder, Switched())
    spans(first, "1", "2")
    leave(first)
    memory = Memory()
    now = spool.time.time_ns()
    monkeypatch.setattr(spool.time, "time_ns", lambda: now + 8 * 86_400 * 10**9)
    second = spooling(spool_folder, memory)
    wait_for(lambda: sum(counts(second).dropped.values()) or memory.spans)
    assert counts(second).dropped == {"spool_expired": 2}
    assert not memory.spans
    monkeypatch.undo()
    second.shutdown(WAIT_S)
    assert files(spool_folder, "") == []


@pytest.mark.parametrize("days", [1e-9, 1e6, 1e300])
def test_any_number_of_days(spool_folder, days):
    """However far that goes back."""
    memory = Memory()
    tracer = spooling(spool_folder, memory, spool_days=days)
    spans(tracer, "1")
    assert tracer.flush(WAIT_S) is (days > 1 or len(memory.spans) == 1)
    assert not tracer.stats().errors
    assert sum(counts(tracer).dropped.values()) == 1 - len(memory.spans)
