"""The spool when the disk fails it: nothing whole is thrown away, nothing comes twice, what is "kept" is there."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from doubles import WAIT_S, Gate, Memory, counts, messages, wait_for
from spanhook import BackendStats, Span
from spanhook.delivery import outage, ownership, spool
from spanhook.delivery.spool_file import SpoolFile
from spanhook.delivery.spool_tables import Tables
from spools import Switched, files, leave, rows, spans, spooling
from threads import end_of_all


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses are those of a test."""
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(outage, "LONGEST_PAUSE_S", 0.01)
    monkeypatch.setattr(spool, "LOOK_EVERY_S", 0.02)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """A file of the spool, as another program opens it."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def left_behind(folder: Path, *names: str) -> Path:
    """What a process has left there: one file, with these spans."""
    first = spooling(folder, Switched())
    spans(first, *names)
    leave(first)
    (path,) = files(folder)
    return path


def failing(monkeypatch: pytest.MonkeyPatch, of: type, method: str, message: str) -> threading.Event:
    """Have a method raise an error of the disk until the event is set."""
    works, real = threading.Event(), getattr(of, method)

    def fail(*arguments: Any) -> Any:
        if not works.is_set():
            raise sqlite3.OperationalError(message)
        return real(*arguments)

    monkeypatch.setattr(of, method, fail)
    return works


@pytest.mark.parametrize("trouble", ["locked", "unable to open database file", "too many open files"])
def test_a_file_that_can_t_be_opened_now_is_delivered_later(folder, trouble, monkeypatch, caplog):
    """It is no damage: said once, and left where it is."""
    path = left_behind(folder, "1", "2")
    memory = Memory()
    with database(path) as other:
        if trouble == "locked":
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")
        elif trouble == "too many open files":
            real = os.open
            monkeypatch.setattr(
                os, "open", lambda *a: (_ for _ in ()).throw(OSError(24, trouble)) if a[0] == path else real(*a)
            )
        else:
            works = failing(monkeypatch, Tables, "version", trouble)
        with caplog.at_level(logging.WARNING, "spanhook"):
            second = spooling(folder, memory)
            spans(second, "new")
            wait_for(lambda: second.stats().errors)
        assert files(folder, ".damaged") == []
        assert path.exists()
        if trouble == "too many open files":
            monkeypatch.setattr(os, "open", real)
        elif trouble != "locked":
            works.set()
    wait_for(lambda: len(memory.spans) == 3)
    assert sum("taking over" in message for message in messages(caplog.records)) == 1
    assert second.shutdown(WAIT_S)
    assert files(folder, "") == []


def test_a_damaged_file_is_set_aside_with_what_sqlite_has_beside_it(folder):
    """Somebody may get more out of it than we do."""
    folder.mkdir()
    (folder / "1-nonsense.db").write_bytes(b"nonsense" * 1_000)
    (folder / "1-nonsense.db-wal").write_bytes(b"the last words")
    tracer = spooling(folder, Memory())
    wait_for(lambda: (folder / "1-nonsense.db.damaged").exists())
    wait_for(lambda: (folder / "1-nonsense.db.damaged-wal").exists())
    assert (folder / "1-nonsense.db.damaged-wal").read_bytes() == b"the last words"
    tracer.shutdown(WAIT_S)


def test_many_files_are_taken_over_a_few_at_a_time(folder):
    """As many restarts during an outage leave: descriptors are the program's, too."""
    folder.mkdir()
    names = []
    for number in range(30):
        file = SpoolFile.create(folder, {"a": 7})
        names.append(f"{number}")
        file.append([Span("0" * 32, f"{number:016x}", None, "e", "custom", names[-1], 1, 2)])
        file.close()
    most = []
    memory = Memory(lambda _: most.append(len(ownership.open_paths)))
    tracer = spooling(folder, memory)
    wait_for(lambda: counts(tracer).delivered == 30)
    assert max(most) <= spool.MAX_TAKEN_OVER
    assert sorted(span.name for span in memory.spans) == sorted(names)
    wait_for(lambda: not files(folder, ""))
    assert tracer.shutdown(WAIT_S)


def test_a_disk_that_fails_while_the_oldest_are_dropped_costs_nothing_else(folder, monkeypatch):
    """Said once and tried again; what is deleted then is counted, and only that."""
    works = failing(monkeypatch, Tables, "delete_upto", "database or disk is full")
    backend = Switched()
    tracer = spooling(folder, backend, queue_bytes=10_000, batch_spans=5, spool_bytes=50_000)
    for number in range(100):
        spans(tracer, str(number), text="x" * 1_000)
    wait_for(lambda: tracer.stats().errors and counts(tracer).queued == 100)
    assert files(folder, ".damaged") == []
    assert counts(tracer) == BackendStats(accepted=100, queued=100, spooled=100)
    works.set()
    wait_for(lambda: counts(tracer).dropped)
    backend.is_up.set()
    assert tracer.flush(WAIT_S) is False
    dropped = counts(tracer).dropped["spool_full"]
    assert 40 < dropped < 90
    assert len(backend.spans) == 100 - dropped
    assert counts(tracer) == BackendStats(accepted=100, delivered=100 - dropped, dropped={"spool_full": dropped})


def test_what_can_t_be_read_now_is_read_later(folder, monkeypatch):
    """The file is whole: nothing in it is lost."""
    backend = Switched()
    tracer = spooling(folder, backend, queue_bytes=2_000, batch_spans=1)
    spans(tracer, *map(str, range(20)))
    wait_for(lambda: counts(tracer).spooled == 20)
    works = failing(monkeypatch, Tables, "read", "disk I/O error")
    backend.is_up.set()
    wait_for(lambda: any("reading" in place for place in tracer.stats().errors))
    works.set()
    assert tracer.flush(WAIT_S)
    assert [span.name for span in backend.spans] == [str(number) for number in range(20)]
    assert counts(tracer) == BackendStats(accepted=20, delivered=20)


def test_what_can_t_be_read_at_the_shutdown_stays(folder, monkeypatch):
    """The next start has all the time."""
    first = spooling(folder, Switched(), queue_bytes=2_000, batch_spans=1)
    spans(first, *map(str, range(20)))
    wait_for(lambda: counts(first).spooled == 20)
    with monkeypatch.context() as patch:
        failing(patch, Tables, "read", "disk I/O error")
        leave(first)
        assert counts(first) == BackendStats(accepted=20, queued=20, spooled=20)
    memory = Memory()
    second = spooling(folder, memory)
    wait_for(lambda: len(memory.spans) == 20)
    assert second.shutdown(WAIT_S)


def test_what_was_deleted_while_it_was_being_sent_is_not_said_to_be_kept(folder):
    """As many as the shutdown says arrive after the next start."""
    backend = Switched()
    tracer = spooling(folder, backend, spool_bytes=30_000, batch_spans=10)
    spans(tracer, *map(str, range(10)))
    wait_for(lambda: backend.tries > 1)
    spans(tracer, *map(str, range(10, 210)))
    wait_for(lambda: counts(tracer).dropped)
    wait_for(lambda: counts(tracer).accepted == 210 and not tracer._pipeline._intake)
    assert tracer.shutdown(0.2) is False
    end_of_all()
    kept = counts(tracer).spooled
    assert kept == counts(tracer).queued == sum(len(rows(path)) for path in files(folder))
    assert counts(tracer).dropped["not_reachable"]
    memory = Memory()
    second = spooling(folder, memory)
    wait_for(lambda: len(memory.spans) == kept)
    assert second.shutdown(WAIT_S)
    assert len(memory.spans) == kept


def test_a_folder_that_is_removed_is_noticed(folder, caplog):
    """Said; what comes then has a new file, and what was in the old one is delivered, but not said to be kept."""
    backend = Switched()
    tracer = spooling(folder, backend)
    spans(tracer, "1", "2")
    wait_for(lambda: counts(tracer).spooled == 2)
    shutil.rmtree(folder)
    wait_for(lambda: counts(tracer).spooled == 0)
    spans(tracer, "3")
    wait_for(lambda: counts(tracer).spooled == 1)
    assert sum("was removed while it was in use" in message for message in caplog.messages) == 1
    backend.is_up.set()
    assert tracer.flush(WAIT_S)
    assert [span.name for span in backend.spans] == ["1", "2", "3"]
    assert tracer.shutdown(WAIT_S)
    assert files(folder, "") == []


def test_what_could_not_be_written_is_not_said_to_be_kept(folder, monkeypatch, caplog):
    """It is in memory alone."""
    tracer = spooling(folder, Switched())
    spans(tracer, "1")
    wait_for(lambda: counts(tracer).spooled == 1)
    failing(monkeypatch, Tables, "add", "database or disk is full")
    spans(tracer, "2", "3")
    wait_for(lambda: tracer.stats().errors and not tracer._pipeline._intake)
    assert counts(tracer) == BackendStats(accepted=3, queued=3, spooled=1)
    assert tracer.shutdown(0.2) is False
    assert caplog.messages[-1] == "not delivered: backend a: 2 dropped (not reachable), 1 kept in the spool"


@pytest.mark.parametrize("is_full_to_the_end", [False, True])
def test_what_could_not_be_noted_is_noted_at_the_end(folder, monkeypatch, is_full_to_the_end):
    """Nothing comes twice because the disk was full for a while, or, when all is delivered, until the end."""
    works = failing(monkeypatch, Tables, "note", "database or disk is full")
    first = spooling(folder, Memory())
    spans(first, "1", "2")
    assert first.flush(WAIT_S)
    wait_for(lambda: any("noting" in place for place in first.stats().errors))
    if not is_full_to_the_end:
        works.set()
    assert first.shutdown(WAIT_S)
    works.set()
    assert files(folder, "") == []


def test_a_backend_that_comes_back_after_the_shutdown(folder):
    """What it took then is noted, what it did not is neither lost nor damaged: all arrives once."""
    first_gate, gate = Gate(), Gate()
    gates: list[Callable[[], None]] = [lambda: None, gate, first_gate]
    old = Memory(lambda _: gates.pop()() if gates else None)
    first = spooling(folder, old, queue_bytes=10_000, batch_spans=10)
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
    second = spooling(folder, new)
    wait_for(lambda: len(new.spans) == left)
    assert second.shutdown(WAIT_S)
    assert len({span.span_id for span in (*old.spans, *new.spans)}) == 101 == len(old.spans) + len(new.spans)


def test_a_disk_that_is_full_when_the_file_is_made_leaves_none(folder, monkeypatch, caplog):
    """And is said once, however often it is tried."""
    failing(monkeypatch, Tables, "make", "database or disk is full")
    memory = Memory()
    tracer = spooling(folder, memory)
    for number in range(5):
        spans(tracer, str(number))
        assert tracer.flush(WAIT_S)
    assert files(folder, "") == []
    assert len(caplog.messages) == 1
    assert len(memory.spans) == 5


def test_a_folder_with_something_else_in_it(folder, caplog):
    """What can't be opened is said; the program starts, and its spans go their way."""
    (folder / "photos.db").mkdir(parents=True)
    memory = Memory()
    tracer = spooling(folder, memory)
    spans(tracer, "1")
    assert tracer.flush(WAIT_S)
    wait_for(lambda: "photos.db" in caplog.text)
    assert tracer.shutdown(WAIT_S)
    assert len(memory.spans) == 1


@pytest.mark.parametrize(
    ("change", "delivered"),
    [
        ("UPDATE items SET body = NULL WHERE id = 2", 2),
        ("UPDATE items SET body = x'00' WHERE id = 3", 2),
        ("UPDATE items SET body = 7 WHERE id = 1", 2),
        ("UPDATE items SET size = 'x', time_ns = NULL", 3),
    ],
)
def test_odd_values_in_a_file_cost_their_own_rows_once(folder, change, delivered):
    """What SQLite reads without an error: each is counted by one start, and no thread ends."""
    path = left_behind(folder, "1", "2", "3")
    with database(path) as other:
        other.execute(change)
    memory = Memory()
    second = spooling(folder, memory)
    wait_for(lambda: counts(second).accepted == 3)
    spans(second, "new")
    second.flush(WAIT_S)
    assert len(memory.spans) == delivered + 1
    assert sum(counts(second).dropped.values()) == 3 - delivered
    wait_for(lambda: not path.exists())
    second.shutdown(WAIT_S)
    assert files(folder, "") == []


def test_progress_that_is_no_number_is_damage(folder):
    """Nothing in the file is taken for delivered."""
    path = left_behind(folder, "1", "2")
    with database(path) as other:
        other.execute("UPDATE progress SET done = NULL")
    tracer = spooling(folder, Memory())
    wait_for(lambda: files(folder, ".damaged"))
    assert len(rows(files(folder, ".damaged")[0])) == 2
    tracer.shutdown(WAIT_S)


def test_a_program_that_goes_to_another_directory(tmp_path, monkeypatch):
    """A relative spool stays where it was when the program was configured."""
    monkeypatch.chdir(tmp_path)
    tracer = spooling(Path("spool"), Switched())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    spans(tracer, "1")
    leave(tracer)
    assert len(files(tmp_path / "spool")) == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("days", [1e-9, 1e6, 1e300])
def test_any_number_of_days(folder, days):
    """However far that goes back."""
    memory = Memory()
    tracer = spooling(folder, memory, spool_days=days)
    spans(tracer, "1")
    assert tracer.flush(WAIT_S) is (days > 1 or len(memory.spans) == 1)
    assert not tracer.stats().errors
    assert sum(counts(tracer).dropped.values()) == 1 - len(memory.spans)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_takes_over_what_its_parent_had_taken_over(folder, tmp_path):
    """When the parent is gone: a worker lives on where its master was killed."""
    left_behind(folder, "old")
    backend = Switched()
    tracer = spooling(folder, backend)
    wait_for(lambda: counts(tracer).queued == 1)
    child = os.fork()
    if child == 0:
        try:
            wait_for((tmp_path / "the parent is gone").exists)
            backend.is_up.set()
            spans(tracer, "new")
            wait_for(lambda: len(backend.spans) == 2)
        finally:
            os._exit(len(backend.spans))
    leave(tracer)
    (tmp_path / "the parent is gone").touch()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
