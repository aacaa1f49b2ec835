"""Damage that is met in writing to a file of the spool: what can be read is delivered, and nothing comes twice."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from doubles import WAIT_S, Gate, Memory, counts, wait_for
from spanhook import BackendStats
from spanhook.delivery.spool_tables import Tables
from spools import Switched, files, leave, spans, spooling
from threads import end_of_all, in_thread

pytestmark = pytest.mark.usefixtures("short_pauses")

DAMAGED = "database disk image is malformed"
NAMES = [str(number) for number in range(60)]


def names(backend: Memory) -> list[str]:
    return [span.name for span in backend.spans]


def break_free_list(path: Path) -> None:
    """SQLite reads all of it as before, and fails where it frees a page: as soon as something large is deleted."""
    with path.open("r+b") as file:
        file.seek(32)  # of the header: the first free page, and how many there are
        file.write((99_999).to_bytes(4, "big") + (5).to_bytes(4, "big"))


def left_behind(folder: Path, backends: int) -> Path:
    """What a process has left for so many backends."""
    first = spooling(folder, *(Switched() for _ in range(backends)))
    spans(first, *NAMES, text="x" * 3_000)
    leave(first)
    return files(folder)[0]


def failing_once(monkeypatch: pytest.MonkeyPatch, method: str, error: Exception) -> threading.Event:
    """Have the next call of a method of `Tables` raise, when the event is set."""
    armed, real = threading.Event(), getattr(Tables, method)

    def call(*arguments: Any) -> Any:
        if armed.is_set():
            armed.clear()
            raise error
        return real(*arguments)

    monkeypatch.setattr(Tables, method, call)
    return armed


def damaged_when_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite meets damage when it is to note what has been delivered, once that is something."""
    real = Tables.note

    def note(tables: Tables, progress: Iterable[tuple[str, int]]) -> None:
        told = list(progress)
        if any(done for _, done in told):
            raise sqlite3.DatabaseError(DAMAGED)
        real(tables, told)

    monkeypatch.setattr(Tables, "note", note)


def test_what_can_be_read_is_delivered_once(spool_folder, caplog):
    """What was delivered can't be noted there any more, so it is set aside: the next start has nothing of it."""
    break_free_list(left_behind(spool_folder, 1))
    memory = Memory()
    second = spooling(spool_folder, memory, batch_spans=10)
    wait_for(lambda: len(memory.spans) == len(NAMES))
    spans(second, "new")
    assert second.flush(WAIT_S)
    assert names(memory) == [*NAMES, "new"]
    assert counts(second) == BackendStats(accepted=61, delivered=61)
    assert sum("is damaged (" in message for message in caplog.messages) == 1
    assert second.shutdown(WAIT_S)
    assert files(spool_folder) == []
    assert len(files(spool_folder, ".damaged")) == 1
    end_of_all()
    again = Memory()
    third = spooling(spool_folder, again)
    spans(third, "last")
    assert third.shutdown(WAIT_S)
    assert names(again) == ["last"]


def test_a_file_that_can_t_be_written_when_it_is_taken_over(spool_folder, monkeypatch):
    """It can be read, so it is."""
    left_behind(spool_folder, 1)
    failing_once(monkeypatch, "note", sqlite3.DatabaseError(DAMAGED)).set()
    memory = Memory()
    second = spooling(spool_folder, memory)
    wait_for(lambda: len(memory.spans) == len(NAMES))
    assert second.flush(WAIT_S)
    assert second.shutdown(WAIT_S)
    assert names(memory) == NAMES
    assert files(spool_folder) == []
    assert len(files(spool_folder, ".damaged")) == 1


def test_a_backend_that_is_down_has_it_later(spool_folder, monkeypatch):
    """Another one was up, and met the damage."""
    left_behind(spool_folder, 2)
    damaged_when_noted(monkeypatch)
    up, down = Memory(), Switched()
    second = spooling(spool_folder, up, down, batch_spans=10)
    wait_for(lambda: len(up.spans) == len(NAMES) and files(spool_folder, ".damaged"))
    down.is_up.set()
    wait_for(lambda: len(down.spans) == len(NAMES))
    assert second.flush(WAIT_S)
    assert names(down) == names(up) == NAMES
    assert second.shutdown(WAIT_S)


def test_what_stays_in_a_file_that_was_set_aside_is_not_said_to_be_kept(spool_folder, monkeypatch, caplog):
    """No later process finds it."""
    left_behind(spool_folder, 2)
    damaged_when_noted(monkeypatch)
    second = spooling(spool_folder, Memory(), Switched(), batch_spans=10)
    wait_for(lambda: counts(second).delivered == len(NAMES) and files(spool_folder, ".damaged"))
    assert second.shutdown(0.2) is False
    told = counts(second, "b")
    assert told.spooled == 0
    assert told.queued + told.dropped["not_reachable"] == len(NAMES)
    assert caplog.messages[-1].startswith("not delivered: backend b: ")
    assert "kept" not in caplog.messages[-1]


def test_damage_that_is_met_at_the_end_is_said_to_lose_what_is_left(spool_folder, monkeypatch, caplog):
    """Nothing is said to be kept that the next start would have to set aside."""
    tracer = spooling(spool_folder, Switched())
    spans(tracer, "1", "2")
    wait_for(lambda: counts(tracer).spooled == 2)
    armed = failing_once(monkeypatch, "note", sqlite3.DatabaseError(DAMAGED))
    armed.set()
    assert tracer.shutdown(0.2) is False
    end_of_all()
    assert files(spool_folder) == []
    assert len(files(spool_folder, ".damaged")) == 1
    assert counts(tracer).spooled == 0


def test_what_comes_after_the_damage_is_in_a_new_file(spool_folder, monkeypatch):
    """The batch that met it, too; and what was in the old one is delivered."""
    backend = Switched()
    tracer = spooling(spool_folder, backend)
    spans(tracer, "1")
    wait_for(lambda: counts(tracer).spooled == 1)
    armed = failing_once(monkeypatch, "add", sqlite3.DatabaseError(DAMAGED))
    armed.set()
    spans(tracer, "2", "3")
    wait_for(lambda: counts(tracer).queued == 3 and files(spool_folder) and not armed.is_set())
    wait_for(lambda: counts(tracer).spooled == 2)
    backend.is_up.set()
    assert tracer.flush(WAIT_S)
    assert names(backend) == ["1", "2", "3"]
    assert tracer.shutdown(WAIT_S)
    assert files(spool_folder) == []


def test_what_was_delivered_is_noted_in_one_file_whatever_is_wrong_with_another(spool_folder, monkeypatch):
    """A batch may be of two: of what an earlier process has left, and of this one's own."""
    first = spooling(spool_folder, Switched())
    spans(first, "1", "2", "3")
    leave(first)
    gate = Gate()
    steps: list[Callable[[], None]] = [gate]
    memory = Memory(lambda _: steps.pop()() if steps else None)
    second = spooling(spool_folder, memory, batch_spans=2)
    assert gate.reached.wait(WAIT_S)
    spans(second, "4")
    wait_for(lambda: counts(second).spooled == 4)
    armed = failing_once(monkeypatch, "note", sqlite3.OperationalError("database is locked"))
    steps.append(armed.set)
    gate.open()
    assert second.flush(WAIT_S)
    assert [list(map(str, range(1, 3))), ["3", "4"]] == [[s.name for s in b] for h, b in memory.calls if h == "emit"]
    assert any("noting" in place for place in second.stats().errors)
    assert second.shutdown(WAIT_S)
    assert files(spool_folder, "") == []


def test_a_flush_is_told_of_what_can_t_be_read_any_more(spool_folder, monkeypatch):
    """It was waiting for it while another backend, which has everything, met the damage."""
    slow, gate = Switched(), Gate()
    steps: list[Callable[[], None]] = []
    quick = Memory(lambda _: steps.pop()() if steps else None)
    tracer = spooling(spool_folder, slow, quick, queue_bytes=2_000, batch_spans=1)
    for name in NAMES[:10]:
        spans(tracer, name)
        wait_for(lambda: counts(tracer, "b").delivered > int(name))  # noqa: B023
    with in_thread(lambda: tracer.flush(WAIT_S)) as told:
        wait_for(lambda: tracer._pipeline._workers["a"]._queue._marks)
        steps.append(gate)
        spans(tracer, "last")
        assert gate.reached.wait(WAIT_S)
        spans(tracer, "last")
        wait_for(lambda: counts(tracer).spooled == 12)
        for method in ("note", "first"):
            failing_once(monkeypatch, method, sqlite3.DatabaseError(DAMAGED)).set()
        gate.open()
        wait_for(lambda: counts(tracer, "b").delivered == 12 and not counts(tracer).spooled)
        wait_for(lambda: not tracer._pipeline._fanout._spool.files)
        slow.is_up.set()
    assert told == [False]
    wait_for(lambda: not counts(tracer).queued)
    assert counts(tracer).dropped == {"spool_damaged": 12 - len(slow.spans)}
