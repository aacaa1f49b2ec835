"""A disk that is full or fails for a while: said once, delivery goes on, and nothing whole is thrown away."""

from __future__ import annotations

import pytest

from doubles import WAIT_S, Memory, counts, wait_for
from spanhook import BackendStats
from spanhook.delivery.spool_tables import Tables
from spools import Switched, failing, files, spans, spooling

pytestmark = pytest.mark.usefixtures("short_pauses", "looks_often")


def test_a_disk_that_is_full_when_the_file_is_made_leaves_none(spool_folder, monkeypatch, caplog):
    """Said once, however often it is tried; delivery goes on from memory, as without a spool."""
    failing(monkeypatch, Tables, "make", "database or disk is full")
    memory = Memory()
    tracer = spooling(spool_folder, memory)
    for number in range(5):
        spans(tracer, str(number))
        assert tracer.flush(WAIT_S)
    assert files(spool_folder, "") == []
    assert len(caplog.messages) == 1
    assert any("spool: writing" in place for place in tracer.stats().errors)
    assert counts(tracer) == BackendStats(accepted=5, delivered=5)


def test_a_disk_that_fails_while_the_oldest_are_dropped_costs_nothing_else(spool_folder, monkeypatch):
    """Said once and tried again; what is deleted then is counted, and only that."""
    works = failing(monkeypatch, Tables, "delete_upto", "database or disk is full")
    backend = Switched()
    tracer = spooling(spool_folder, backend, queue_bytes=10_000, batch_spans=5, spool_bytes=50_000)
    for number in range(100):
        spans(tracer, str(number), text="x" * 1_000)
    wait_for(lambda: tracer.stats().errors and counts(tracer).spooled == 100)
    assert files(spool_folder, ".damaged") == []
    assert counts(tracer) == BackendStats(accepted=100, queued=100, spooled=100)
    works.set()
    wait_for(lambda: counts(tracer).dropped)
    backend.is_up.set()
    assert tracer.flush(WAIT_S) is False
    dropped = counts(tracer).dropped["spool_full"]
    assert 40 < dropped < 90
    assert len(backend.spans) == 100 - dropped
    assert counts(tracer) == BackendStats(accepted=100, delivered=100 - dropped, dropped={"spool_full": dropped})


def test_what_can_t_be_read_now_is_read_later(spool_folder, monkeypatch):
    """The file is whole: nothing in it is lost."""
    backend = Switched()
    tracer = spooling(spool_folder, backend, queue_bytes=2_000, batch_spans=1)
    spans(tracer, *map(str, range(20)))
    wait_for(lambda: counts(tracer).spooled == 20)
    works = failing(monkeypatch, Tables, "read", "disk I/O error")
    backend.is_up.set()
    wait_for(lambda: any("reading" in place for place in tracer.stats().errors))
    works.set()
    assert tracer.flush(WAIT_S)
    assert [span.name for span in backend.spans] == [str(number) for number in range(20)]
    assert counts(tracer) == BackendStats(accepted=20, delivered=20)


@pytest.mark.parametrize("is_full_to_the_end", [False, True])
def test_what_could_not_be_noted_is_noted_at_the_end(spool_folder, monkeypatch, is_full_to_the_end):
    """Nothing comes twice because the disk was full for a while, or, when all is delivered, until the end."""
    works = failing(monkeypatch, Tables, "note", "database or disk is full")
    first = spooling(spool_folder, Memory())
    spans(first, "1", "2")
    assert first.flush(WAIT_S)
    wait_for(lambda: any("noting" in place for place in first.stats().errors))
    if not is_full_to_the_end:
        works.set()
    assert first.shutdown(WAIT_S)
    works.set()
    assert files(spool_folder, "") == []


def test_what_can_t_be_written_goes_on_from_memory(spool_folder, monkeypatch):
    """Nothing that an item holds ends the thread that writes it."""
    monkeypatch.setattr("spanhook.delivery.spool_file.encode", lambda item: "\ud800".encode())
    memory = Memory()
    tracer = spooling(spool_folder, memory)
    spans(tracer, "1")
    assert tracer.flush(WAIT_S)
    monkeypatch.undo()
    spans(tracer, "2")
    assert tracer.flush(WAIT_S)
    assert [span.name for span in memory.spans] == ["1", "2"]
    assert counts(tracer) == BackendStats(accepted=2, delivered=2)
