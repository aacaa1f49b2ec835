"""One file of the spool: an SQLite database with the items of one process, and how far each backend has got."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spanhook.delivery.codec import decode, encode
from spanhook.delivery.items import Entry, Item, kind_of
from spanhook.delivery.ownership import lock, lock_of_the_dead, open_paths
from spanhook.delivery.sizes import size_of
from spanhook.guard import warn
from spanhook.processes import without_forks

SUFFIX = ".db"
FORMAT = 1

_SCHEMA = f"""
CREATE TABLE items (id INTEGER PRIMARY KEY, kind INTEGER, time_ns INTEGER, size INTEGER, body BLOB);
CREATE TABLE progress (backend TEXT PRIMARY KEY, kinds INTEGER, done INTEGER);
PRAGMA user_version = {FORMAT};
"""


class SpoolFile:
    """Items in the order of their ids. A backend has settled every item up to `done`; what all have settled is deleted.

    Its owner holds an OS lock on it as long as it lives. Thread-safe. Every method may raise `sqlite3.Error`; after
    `close` they do nothing.
    """

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self.bytes = 0
        self._lock = threading.RLock()
        self._lock_fd = lock_fd
        self._newest = 0
        self._db: sqlite3.Connection | None = None
        open_paths.add(path)

    @classmethod
    def create(cls, folder: Path, backends: Mapping[str, int]) -> SpoolFile:
        """A new file of this process, readable for its user only.

        Args:
            folder: where.
            backends: by name, the kinds of items that each of them takes.

        Raises:
            OSError, sqlite3.Error: it can't be written.
        """
        while True:
            path = folder / f"{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            if lock(fd, path):  # else another process took the file, still empty, for one that nobody owns
                break
            os.close(fd)
        file = cls(path, fd)
        try:
            db = file._connect()
            db.executescript(_SCHEMA)
            db.executemany("INSERT INTO progress VALUES (?, ?, 0)", backends.items())
        except sqlite3.Error:
            file.close()
            raise
        return file

    @classmethod
    def take_over(cls, path: Path) -> SpoolFile | None:
        """A file whose owner is dead; None if it is alive.

        Raises:
            OSError, sqlite3.Error: it can't be read, or is damaged; a damaged one was set aside.
        """
        if (fd := lock_of_the_dead(path)) is None:
            return None
        file = cls(path, fd)
        try:
            db = file._connect()
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version not in (0, FORMAT):
                warn("spool: %s is of another release of Spanhook; it stays as it is", path)
                file.close()
                return None
            if version == 0:  # its owner died before it had written anything
                file.close(remove=True)
                return None
            (file.bytes,) = db.execute("SELECT coalesce(sum(size), 0) FROM items").fetchone()
            (file._newest,) = db.execute("SELECT coalesce(max(id), 0) FROM items").fetchone()
        except sqlite3.Error as error:
            file.set_aside(error)
            return None
        return file

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self._db is not None

    @property
    def newest(self) -> int:
        """The id of the last item."""
        return self._newest

    def append(self, items: Sequence[Item]) -> list[Entry]:
        """Write items, all or none of them; the entries for the backends' queues."""
        first, now = self._newest + 1, time.time_ns()
        rows = []
        for number, item in enumerate(items, first):
            body = encode(item)
            rows.append((number, kind_of(item), now, len(body), body))
        with self._changing() as db:
            db.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", rows)
            self._newest += len(rows)
            self.bytes += sum(row[3] for row in rows)
        return [Entry(item, row[3], self, row[0]) for item, row in zip(items, rows, strict=True)]

    def read(self, kinds: int, after: int, upto: int, max_items: int, max_bytes: int) -> tuple[list[Entry], int]:
        """The next items after an id, and the id up to which that is all of these kinds. Damaged ones are left out."""
        entries: list[Entry] = []
        size = 0
        with self._alone():
            if self._db is None:
                return [], after
            rows = self._db.execute(
                "SELECT id, kind, body FROM items WHERE id > ? AND id <= ? AND kind & ? ORDER BY id",
                (after, upto, kinds),
            )
            with contextlib.closing(rows):
                for number, kind, body in rows:
                    if len(entries) >= max_items or (entries and size + len(body) > max_bytes):
                        return entries, entries[-1].id
                    size += len(body)
                    with contextlib.suppress(ValueError, TypeError, KeyError):
                        item = decode(kind, body)
                        entries.append(Entry(item, size_of(item), self, number))
        return entries, upto

    def settle(self, backend: str, upto: int) -> None:
        """Note that a backend is done with everything up to an id; delete what none needs any more."""
        if not self.is_open:
            return
        with self._changing() as db:
            db.execute("UPDATE progress SET done = max(done, ?) WHERE backend = ?", (upto, backend))
            self._delete_upto(self._settled_upto(db), db)

    def forget(self, upto: int) -> None:
        """Delete everything up to an id, whoever needs it."""
        with self._changing() as db:
            self._delete_upto(upto, db)

    def progress(self) -> dict[str, tuple[int, int]]:
        """By backend, the kinds of items that it takes and the id up to which it is done."""
        with self._alone():
            rows = [] if self._db is None else self._db.execute("SELECT backend, kinds, done FROM progress").fetchall()
        return {backend: (kinds, done) for backend, kinds, done in rows}

    def count(self, kinds: int, after: int, upto: int) -> int:
        """How many items of these kinds there are after an id, up to another."""
        question = "SELECT count(*) FROM items WHERE id > ? AND id <= ? AND kind & ?"
        with self._alone():
            return 0 if self._db is None else int(self._db.execute(question, (after, upto, kinds)).fetchone()[0])

    def oldest(self, size: int) -> int:
        """The id up to which the oldest items have `size` bytes together, or all that there are."""
        with self._alone():
            if self._db is None:
                return 0
            with contextlib.closing(self._db.execute("SELECT id, size FROM items ORDER BY id")) as rows:
                for number, bytes_of_it in rows:
                    size -= bytes_of_it
                    if size <= 0:
                        return int(number)
        return self._newest

    def older_than(self, time_ns: int) -> int:
        """The id up to which items were written before a Unix time; 0 if none was."""
        with self._alone():
            if self._db is None:
                return 0
            found = self._db.execute("SELECT id FROM items WHERE time_ns >= ? ORDER BY id LIMIT 1", (time_ns,))
            row = found.fetchone()
            if row is None:
                return self._newest
            return int(row[0]) - 1

    def close(self, *, remove: bool = False) -> None:
        """Let it go. It stays for a later process if there is something in it, unless it is to be removed."""
        with self._alone():
            db, self._db = self._db, None
            if self._lock_fd < 0:
                return
            try:
                if db is not None:
                    upto = self._settled_upto(db)
                    remove = remove or not db.execute("SELECT count(*) FROM items WHERE id > ?", (upto,)).fetchone()[0]
                    db.close()
                if remove:
                    for path in (self.path, *_beside(self.path)):
                        path.unlink(missing_ok=True)
            except (sqlite3.Error, OSError) as error:
                warn("spool: closing %s: %s", self.path, error)
            os.close(self._lock_fd)
            self._lock_fd = -1
            open_paths.discard(self.path)

    def set_aside(self, error: Exception) -> None:
        """Give a damaged file another name, and say so."""
        with self._alone():
            if self._lock_fd < 0:
                return
            db, self._db = self._db, None
            if db is not None:
                with contextlib.suppress(sqlite3.Error):
                    db.close()
            aside = self.path.with_name(f"{self.path.name}.damaged")
            with contextlib.suppress(OSError):
                for path in _beside(self.path):
                    path.unlink(missing_ok=True)
                self.path.rename(aside)
            warn("spool: %s is damaged (%s); it was set aside as %s", self.path, error, aside.name)
            self.close()

    def abandon(self) -> None:
        """In a forked child: it is the parent's. Nothing is in the middle of anything: see `without_forks`."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)  # or the lock would outlive the parent
            self._lock_fd = -1
        open_paths.discard(self.path)
        self._db = None  # while the parent has it open, SQLite writes nothing when this copy goes

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """For one thread at a time, and for no fork: in the middle of anything SQLite can't be forked."""
        with without_forks(), self._lock:
            yield

    def _connect(self) -> sqlite3.Connection:
        self._db = db = sqlite3.connect(self.path, timeout=1.0, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        return db

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Any]:
        """One transaction. After `close` it goes nowhere."""
        with self._alone():
            if self._db is None:
                raise sqlite3.ProgrammingError("the file was closed")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _settled_upto(self, db: sqlite3.Connection) -> int:
        upto = self._newest
        for kinds, done in db.execute("SELECT kinds, done FROM progress").fetchall():
            question = "SELECT id FROM items WHERE id > ? AND kind & ? ORDER BY id LIMIT 1"
            if (first := db.execute(question, (done, kinds)).fetchone()) is not None:
                upto = min(upto, first[0] - 1)
        return upto

    def _delete_upto(self, upto: int, db: sqlite3.Connection) -> None:
        (freed,) = db.execute("SELECT coalesce(sum(size), 0) FROM items WHERE id <= ?", (upto,)).fetchone()
        db.execute("DELETE FROM items WHERE id <= ?", (upto,))
        self.bytes -= freed


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")
