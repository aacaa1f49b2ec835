"""What is in a file of the spool: its tables, and what there is to ask of them. For one thread at a time."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

FORMAT = 2

_SCHEMA = f"""
CREATE TABLE items (id INTEGER PRIMARY KEY, kind INTEGER, time_ns INTEGER, body BLOB);
CREATE TABLE progress (backend TEXT PRIMARY KEY, kinds INTEGER, done INTEGER);
PRAGMA user_version = {FORMAT};
"""

_CORRUPT, _NOT_A_DATABASE = 11, 26  # SQLite's; `sqlite3` names them from Python 3.11 on

# What is wrong with a row, and not with the file: it is too large, for example.
_REFUSALS = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, OverflowError)

Row = tuple[int, int, int, bytes]
"""id, kind, Unix time in ns, body"""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is broken. All else may be over soon: a lock, a full disk, too many open files."""
    code = getattr(error, "sqlite_errorcode", None)  # from Python 3.11 on
    if code is None:
        return type(error) is sqlite3.DatabaseError
    return code & 0xFF in (_CORRUPT, _NOT_A_DATABASE)


class Tables:
    """A connection to a file. Every method may raise `sqlite3.Error`.

    A file may be damaged in ways that SQLite does not see: no value is trusted to be there, or a number.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
        self._db.text_factory = lambda text: text.decode(errors="replace")

    def prepare(self) -> None:
        """Say how the file is to be used; the first look into it."""
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def make(self, backends: Iterable[tuple[str, int]]) -> None:
        """Make the tables in a new file, for backends by name and kinds of items."""
        self._db.executescript(_SCHEMA)
        self._db.executemany("INSERT INTO progress VALUES (?, ?, 0)", backends)

    def version(self) -> int:
        """Of the tables; 0 if there are none."""
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """One transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def add(self, row: Row) -> Exception | None:
        """Write an item; why SQLite refuses it, if it is the item that is wrong: then it can take others still."""
        try:
            self._db.execute("INSERT INTO items VALUES (?, ?, ?, ?)", row)
        except _REFUSALS as error:
            return error
        return None

    def delete(self, number: int) -> int:
        """Delete an item; its bytes."""
        freed = self._size("id = ?", number)
        self._db.execute("DELETE FROM items WHERE id = ?", (number,))
        return freed

    def delete_upto(self, upto: int) -> int:
        """Delete everything up to an id; how many bytes that was."""
        freed = self._size("id <= ?", upto)
        self._db.execute("DELETE FROM items WHERE id <= ?", (upto,))
        return freed

    def note(self, done: Iterable[tuple[str, int]]) -> None:
        """Write how far backends have got."""
        self._db.executemany("UPDATE progress SET done = ? WHERE backend = ?", ((upto, name) for name, upto in done))

    def check(self) -> None:
        """Look for damage that SQLite would read over: a page of which a part is missing has rows without ids.

        Raises:
            sqlite3.DatabaseError: it is damaged.
        """
        (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(" ".join(str(found).split()))

    def progress(self) -> dict[str, tuple[int, int]]:
        """By backend, the kinds of items that it takes and the id up to which it is done."""
        rows = self._db.execute("SELECT backend, kinds, done FROM progress").fetchall()
        if not all(isinstance(kinds, int) and isinstance(done, int) for _, kinds, done in rows):
            raise sqlite3.DatabaseError("its progress is no number")
        return {str(backend): (kinds, done) for backend, kinds, done in rows}

    def size(self) -> int:
        """Bytes of all items."""
        return self._size("id > ?", 0)

    def newest(self) -> int:
        """The id of the last item; 0 if there is none. It looks at all: the last one may be damaged, and have none."""
        return int(self._db.execute("SELECT coalesce(max(+id), 0) FROM items").fetchone()[0])

    def kinds_upto(self, upto: int) -> list[tuple[int, int]]:
        """Id and kind of everything up to an id."""
        question = "SELECT id, CAST(coalesce(kind, 0) AS INTEGER) FROM items WHERE id <= ? ORDER BY id"
        return self._db.execute(question, (upto,)).fetchall()

    def count(self, kinds: int, after: int, upto: int) -> int:
        """How many items of these kinds there are after an id, up to another."""
        question = "SELECT count(*) FROM items WHERE id > ? AND id <= ? AND kind & ?"
        return int(self._db.execute(question, (after, upto, kinds)).fetchone()[0])

    def first(self, kinds: int, after: int) -> int | None:
        """The id of the first item of these kinds after another."""
        question = "SELECT id FROM items WHERE id > ? AND kind & ? ORDER BY id LIMIT 1"
        row = self._db.execute(question, (after, kinds)).fetchone()
        return None if row is None else int(row[0])

    def oldest(self, size: int) -> int | None:
        """The id up to which the oldest items have `size` bytes together; None if all have less."""
        question = "SELECT id, coalesce(length(body), 0) FROM items ORDER BY id"
        with contextlib.closing(self._db.execute(question)) as rows:
            for number, bytes_of_it in rows:
                size -= bytes_of_it
                if size <= 0:
                    return int(number)
        return None

    def first_since(self, time_ns: int) -> int | None:
        """The id of the first item that was written at a Unix time or later, as far as is known."""
        question = "SELECT id FROM items WHERE ifnull(time_ns >= ?, 1) ORDER BY id LIMIT 1"
        row = self._db.execute(question, (time_ns,)).fetchone()
        return None if row is None else int(row[0])

    @contextlib.contextmanager
    def read(self, kinds: int, after: int, upto: int) -> Iterator[Iterator[tuple[int, int, object]]]:
        """Id, kind and body of the items of these kinds after an id, up to another."""
        question = "SELECT id, CAST(kind AS INTEGER), body FROM items WHERE id > ? AND id <= ? AND kind & ? ORDER BY id"
        with contextlib.closing(self._db.execute(question, (after, upto, kinds))) as rows:
            yield rows

    def _size(self, which: str, number: int) -> int:
        return int(self._db.execute(f"SELECT total(length(body)) FROM items WHERE {which}", (number,)).fetchone()[0])
