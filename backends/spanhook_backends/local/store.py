"""What is written to the file: spans, users, signals; and what is deleted from it."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from spanhook import Signal, Span, without_forks
from spanhook_backends.local.rows import json_text, signal_row, span_row, value_of
from spanhook_backends.local.schema import FORMAT, SCHEMA, SPAN_COLUMNS

LOCK_TIMEOUT_S = 1.0  # for which another process may hold the file
TIDY_S = 600.0  # between two looks for what is too old
SHARE_DELETED = 0.1  # of the traces, at once, where there is too much

_ADD_SPAN = f"INSERT OR REPLACE INTO spans VALUES ({', '.join(f':{name}' for name in SPAN_COLUMNS)})"
_ADD_ROOT = """
INSERT INTO roots VALUES (:trace_key, :trace_id, :span_id, :start_ns, :is_complete, :service)
ON CONFLICT (trace_key) DO UPDATE SET
  span_id = CASE WHEN excluded.is_complete THEN excluded.span_id
                 WHEN NOT is_complete AND excluded.start_ns < start_ns THEN excluded.span_id ELSE span_id END,
  start_ns = min(start_ns, excluded.start_ns),
  is_complete = max(is_complete, excluded.is_complete)
"""
_ADD_SIGNAL = """
INSERT OR REPLACE INTO signals
VALUES (:event_id, :name, :type, :time_ns, :sentiment, :comment, :after, :attachment_id, :properties)
"""
_ADD_USER = "INSERT OR REPLACE INTO users VALUES (?, ?, ?)"


class Store:
    """The file. It is open during each call alone, so that no fork leaves a connection in a child; on any thread.

    Every method but `check` may raise `sqlite3.Error` or OSError, and has written nothing then.

    Args:
        path: of the file; a relative one is that of the folder which is the working directory now.
        service: the program's name, in every trace.
        max_days: how long a trace stays.
        max_bytes: how much there may be in the file.
    """

    def __init__(self, path: Path, service: str | None, *, max_days: float, max_bytes: int) -> None:
        self.path = path.absolute()
        self._service = service
        self._max_ns = int(max_days * 86_400e9)
        self._max_bytes = max_bytes
        self._next_tidy_s = 0.0  # monotonic

    def check(self) -> None:
        """Make the file and its tables if they are not there.

        Raises:
            ValueError: it can't be used, and why.
        """
        try:
            with self._changing():
                pass
        except OSError as error:
            raise ValueError(f"{self.path}: can't be made: {error.strerror or type(error).__name__}") from error
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):  # another process is writing: it can be used
                raise ValueError(f"{self.path}: can't be used: {error}") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.path}: {error}; move it away, or set another path") from error

    def add_spans(self, spans: Sequence[Span]) -> None:
        """Write spans; one that is there already is replaced. Delete what is too old or too much."""
        rows = [span_row(span) for span in spans]
        roots = [
            {
                "trace_key": span.local_trace_key,
                "trace_id": span.trace_id,
                "span_id": span.span_id,
                "start_ns": span.start_ns,
                "is_complete": span.is_local_root,
                "service": self._service,
            }
            for span in _first_and_roots(spans)
        ]
        with self._changing() as db:
            db.executemany(_ADD_SPAN, rows)
            db.executemany(_ADD_ROOT, roots)
            self._tidy(db)

    def add_signal(self, signal: Signal) -> None:
        """Write a user's feedback."""
        with self._changing() as db:
            db.execute(_ADD_SIGNAL, signal_row(signal))

    def add_user(self, user_id: str, traits: Mapping[str, object]) -> None:
        """Write who a user is, beside what is known already."""
        with self._changing() as db:
            known = db.execute("SELECT traits FROM users WHERE user_id = ?", (user_id,)).fetchone()
            merged = {**(value_of(known[0]) if known else {}), **traits}
            db.execute(_ADD_USER, (user_id, json_text(merged), time.time_ns()))

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, in a file that has the tables."""
        with without_forks():
            self._make_file()
            with closing(sqlite3.connect(self.path, timeout=LOCK_TIMEOUT_S, isolation_level=None)) as db:
                _prepare(db)
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                    db.execute("COMMIT")
                except BaseException:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                    raise

    def _make_file(self) -> None:
        folder = self.path.parent
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / ".gitignore").write_text("*\n", encoding="ascii")  # what users wrote belongs into no repository
        if not self.path.exists():  # SQLite's own files beside it take its mode
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))

    def _tidy(self, db: sqlite3.Connection) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_tidy_s:
            self._next_tidy_s = now_s + TIDY_S
            oldest_ns = time.time_ns() - self._max_ns
            _delete_before(db, oldest_ns)
            db.execute("DELETE FROM users WHERE time_ns < ?", (oldest_ns,))
        while _used_bytes(db) > self._max_bytes:
            (count,) = db.execute("SELECT count(*) FROM roots").fetchone()
            offset = int(count * SHARE_DELETED)
            kept = db.execute("SELECT start_ns FROM roots ORDER BY start_ns LIMIT 1 OFFSET ?", (offset + 1,)).fetchone()
            if kept is None:
                return  # one trace alone; it stays until the next has come
            _delete_before(db, kept[0])


def _delete_before(db: sqlite3.Connection, time_ns: int) -> None:
    """Delete the traces that began before a Unix time, and the signals that came before it."""
    for table in ("spans", "roots"):
        db.execute(f"DELETE FROM {table} WHERE trace_id IN (SELECT trace_id FROM roots WHERE start_ns < ?)", (time_ns,))
    db.execute("DELETE FROM signals WHERE time_ns < ?", (time_ns,))


def _prepare(db: sqlite3.Connection) -> None:
    """Have the tables there."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        db.execute("PRAGMA auto_vacuum = FULL")  # before there is a table; the file shrinks when traces are deleted
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("BEGIN IMMEDIATE")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in SCHEMA.split(";"):
                db.execute(statement)
        db.execute("COMMIT")
    elif version != FORMAT:
        raise sqlite3.DatabaseError(f"is of another release of Spanhook (format {version}, not {FORMAT})")
    db.execute("PRAGMA synchronous = NORMAL")


def _first_and_roots(spans: Sequence[Span]) -> Iterator[Span]:
    """Of each trace in a batch the span that began first, and its root."""
    first: dict[str, Span] = {}
    for span in spans:
        if span.is_local_root:
            yield span
        elif (known := first.get(span.local_trace_key)) is None or span.start_ns < known.start_ns:
            first[span.local_trace_key] = span
    yield from first.values()


def _used_bytes(db: sqlite3.Connection) -> int:
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
