"""Damaged files of the spool: set aside whole, or read without the damaged rows; said, counted, and delivered once."""

from __future__ import annotations

import logging
import sqlite3

import pytest

from doubles import WAIT_S, Memory, counts, wait_for
from spanhook import BackendStats
from spools import Switched, database, files, leave, left_behind, rows, spans, spooling
from threads import in_thread

pytestmark = pytest.mark.usefixtures("short_pauses", "looks_often")


def test_a_damaged_file_is_set_aside_and_said(spool_folder, caplog):
    """Not a database, or half of one: never a failure to start."""
    first = spooling(spool_folder, Switched())
    spans(first, *map(str, range(200)), text="x" * 1_000)
    leave(first)
    (half,) = files(spool_folder)
    half.write_bytes(half.read_bytes()[:20_000])
    (spool_folder / "1-nonsense.db").write_bytes(b"nonsense" * 1_000)
    memory = Memory()
    with caplog.at_level(logging.WARNING, "spanhook"):
        second = spooling(spool_folder, memory)
        spans(second, "fine")
        wait_for(lambda: memory.spans and memory.spans[-1].name == "fine")
        assert len(files(spool_folder, ".damaged")) == 2
    assert "1-nonsense.db is damaged" in caplog.text
    counts(second)
    second.shutdown(WAIT_S)


def test_a_file_whose_last_page_is_cut_is_set_aside_and_said(spool_folder, caplog):
    """SQLite reads what is missing as zeros, without an error. What was before it is delivered."""
    path = left_behind(spool_folder, *map(str, range(100)))
    path.write_bytes(path.read_bytes()[: -4096 + 600])
    memory = Memory()
    with caplog.at_level(logging.WARNING, "spanhook"):
        second = spooling(spool_folder, memory)
        wait_for(lambda: counts(second).accepted)
        second.shutdown(WAIT_S)
    assert [span.name for span in memory.spans] == [str(number) for number in range(len(memory.spans))]
    assert f"{path.name} is damaged" in caplog.text
    assert files(spool_folder, ".db") == []


def test_a_damaged_file_is_set_aside_with_what_sqlite_has_beside_it(spool_folder):
    """Somebody may get more out of it than we do."""
    spool_folder.mkdir()
    (spool_folder / "1-nonsense.db").write_bytes(b"nonsense" * 1_000)
    (spool_folder / "1-nonsense.db-wal").write_bytes(b"the last words")
    tracer = spooling(spool_folder, Memory())
    wait_for(lambda: (spool_folder / "1-nonsense.db.damaged").exists())
    wait_for(lambda: (spool_folder / "1-nonsense.db.damaged-wal").exists())
    assert (spool_folder / "1-nonsense.db.damaged-wal").read_bytes() == b"the last words"
    tracer.shutdown(WAIT_S)


@pytest.mark.parametrize(
    ("change", "delivered"),
    [
        ("UPDATE items SET body = NULL WHERE id = 2", 2),
        ("UPDATE items SET body = x'00' WHERE id = 3", 2),
        ("UPDATE items SET body = 7 WHERE id = 1", 2),
        ("UPDATE items SET body = CAST(replace(body, '\"custom\"', '\"module\"') AS BLOB) WHERE id = 2", 2),
        ("UPDATE items SET kind = 4 WHERE id = 2", 2),
        ("UPDATE items SET kind = 9e999 WHERE id = 2", 2),
        ("UPDATE items SET time_ns = 'x' WHERE id = 1", 3),
        ("UPDATE items SET time_ns = NULL", 3),
        ("UPDATE items SET time_ns = 9e999", 3),
    ],
)
def test_odd_values_in_a_file_cost_their_own_rows_once(spool_folder, change, delivered):
    """What SQLite reads without an error, valid JSON too: each is counted by one start, and no thread ends."""
    path = left_behind(spool_folder, "1", "2", "3")
    with database(path) as other:
        other.execute(change)
    memory = Memory()
    second = spooling(spool_folder, memory)
    wait_for(lambda: counts(second).accepted == 3)
    spans(second, "new")
    second.flush(WAIT_S)
    assert len(memory.spans) == delivered + 1
    assert sum(counts(second).dropped.values()) == 3 - delivered
    wait_for(lambda: not path.exists())
    second.shutdown(WAIT_S)
    assert files(spool_folder, "") == []


def test_progress_that_is_no_number_is_damage(spool_folder):
    """Nothing in the file is taken for delivered."""
    path = left_behind(spool_folder, "1", "2")
    with database(path) as other:
        other.execute("UPDATE progress SET done = NULL")
    tracer = spooling(spool_folder, Memory())
    wait_for(lambda: files(spool_folder, ".damaged"))
    assert len(rows(files(spool_folder, ".damaged")[0])) == 2
    tracer.shutdown(WAIT_S)


def test_a_damaged_row_takes_no_other_with_it(spool_folder):
    """It is counted as dropped."""
    first = spooling(spool_folder, Switched())
    spans(first, "1", "2", "3")
    leave(first)
    (path,) = files(spool_folder)
    database = sqlite3.connect(path)
    database.execute("UPDATE items SET body = x'00ff' WHERE id = 2")
    database.commit()
    database.close()
    memory = Memory()
    second = spooling(spool_folder, memory)
    wait_for(lambda: counts(second).delivered == 2)
    assert second.flush(WAIT_S) is False, "the loss is told"
    assert [span.name for span in memory.spans] == ["1", "3"]
    assert counts(second) == BackendStats(accepted=3, delivered=2, dropped={"spool_damaged": 1})


def test_a_flush_is_told_of_damaged_rows_before_it_whatever_is_behind_it(spool_folder):
    """Each backend counts them when it comes to them, also the one that finds them deleted by another."""
    slow, slower = Switched(), Switched()
    tracer = spooling(spool_folder, slow, slower, queue_bytes=500, batch_spans=1)
    spans(tracer, *map(str, range(10)))
    wait_for(lambda: counts(tracer).spooled == counts(tracer, "b").spooled == 10)
    with database(files(spool_folder)[0]) as other:
        other.execute("UPDATE items SET body = x'00' WHERE id = 9")
    with in_thread(lambda: tracer.flush(WAIT_S)) as told:
        queues = [worker._queue for worker in tracer._pipeline._workers.values()]
        wait_for(lambda: all(queue._marks for queue in queues))
        spans(tracer, "later")
        wait_for(lambda: counts(tracer).queued == counts(tracer, "b").queued == 11)
        slow.is_up.set()
        wait_for(lambda: counts(tracer).dropped)
        slower.is_up.set()
    assert told == [False]
    assert tracer.flush(WAIT_S), "it was told of it"
    all_but_one = BackendStats(accepted=11, delivered=10, dropped={"spool_damaged": 1})
    assert counts(tracer) == counts(tracer, "b") == all_but_one
    assert tracer.shutdown(WAIT_S)
    assert files(spool_folder, "") == []
