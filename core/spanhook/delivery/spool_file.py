"""One file of the spool: an SQLite database with the items of one process, and how far each backend has got."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from spanhook.delivery import spool_paths
from spanhook.delivery.codec import decode, encode
from spanhook.delivery.items import Entry, Item, kind_of
from spanhook.delivery.ownership import OwnedFile, lock_of_the_dead, new_file
from spanhook.delivery.sizes import size_of
from spanhook.delivery.spool_tables import FORMAT, Tables, is_damage
from spanhook.guard import attempt, warn

Gone = Sequence[tuple[int, int]]
"""Id and kind of what was deleted."""

Warn = Callable[..., None]
"""Logs a warning: a message, and what belongs into it."""


class SpoolFile(OwnedFile):
    """Items in the order of their ids. A backend has settled every item up to `done`; what all have settled is deleted.

    Its owner holds an OS lock on it as long as it lives. Thread-safe. Every method may raise `sqlite3.Error`, and has
    changed nothing then; when the file is no longer open they do nothing.

    Attributes:
        bytes: of the items in it.
        newest: the id of the last item.
    """

    def __init__(self, path: Path, lock_fd: int, warn: Warn) -> None:
        super().__init__(path, lock_fd)
        self.bytes = 0
        self.newest = 0
        self._warn = warn
        self._is_aside = False  # damaged: nothing is written any more, and what can be read is read
        self._deleted = 0  # the id up to which nothing is in it
        self._damaged: dict[int, int] = {}  # id and kind of what was damaged, and is deleted
        self._progress: dict[str, tuple[int, int]] = {}  # what the table has, or will have when it can be written
        self._waiting: set[str] = set()  # backends for which something may be left
        self._tables: Tables | None = None

    @classmethod
    def create(cls, folder: Path, backends: Mapping[str, int], warn: Warn = warn) -> SpoolFile:
        """A new file of this process, readable for its user only.

        Args:
            folder: where; it is made if it isn't there.
            backends: by name, the kinds of items that each of them takes.
            warn: logs without what the user's settings take out.

        Raises:
            OSError, sqlite3.Error: it can't be written; nothing is left of it.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path, fd = new_file(folder)
        file = cls(path, fd, warn)
        try:
            file._tables = Tables(path)
            file._tables.prepare()
            file._tables.make(backends.items())
            file._progress = {backend: (kinds, 0) for backend, kinds in backends.items()}
        except BaseException:
            file._let_go(remove=True)
            raise
        return file

    @classmethod
    def take_over(cls, path: Path, warn: Warn = warn) -> SpoolFile | None:
        """A file whose owner is dead; None if it is alive. It is not open if there is nothing to be had from it.

        Args:
            path: where it is.
            warn: logs without what the user's settings take out.

        Raises:
            OSError, sqlite3.Error: it can't be read now; it stays as it is. A damaged one is set aside.
        """
        if (fd := lock_of_the_dead(path)) is None:
            return None
        file = cls(path, fd, warn)
        try:
            file._tables = tables = Tables(path)
            tables.prepare()
            version = tables.version()
            if version == FORMAT:
                file._progress = tables.progress()
                file.bytes, file.newest = tables.size(), tables.newest()
                file._waiting = set(file._progress)
                tables.check()
                file._tidy(tables)
        except (sqlite3.Error, UnicodeDecodeError) as error:  # what SQLite says may have a piece of the file in it
            if isinstance(error, sqlite3.Error) and not is_damage(error):
                file._let_go()
                raise
            file.set_aside(error, is_readable=bool(file._waiting))
            return file
        if version != FORMAT:
            file._let_go(remove=version == 0)  # 0: its owner died before it had written anything
        if version not in (0, FORMAT):
            warn("spool: %s is of another release of Spanhook; it stays as it is", path)
        return file

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self._tables is not None

    @property
    def progress(self) -> Mapping[str, tuple[int, int]]:
        """By backend, the kinds of items that it takes and the id up to which it is done."""
        return self._progress

    def keeps(self, number: int) -> bool:
        """Whether a later process finds the item with this id."""
        return not self.is_lost and number > self._deleted

    def is_waiting_for(self, backends: Collection[str]) -> bool:
        """Whether it may have something left for one of these."""
        return not self._waiting.isdisjoint(backends)

    def append(self, items: Sequence[Item]) -> tuple[list[Entry], list[Exception]]:
        """Write items; the entries for the backends' queues, and what is wrong with items that can't be written.

        These are in memory only. All else that goes wrong is raised, and then nothing was written.
        """
        now = time.time_ns()
        entries: list[Entry] = []
        problems: list[Exception] = []
        encoded = [attempt(encode, item) for item in items]
        with self._open() as tables:
            if tables is None or self._is_aside:
                raise sqlite3.ProgrammingError("the file was closed")
            size = 0
            with tables.changing():
                for number, (item, (body, error)) in enumerate(zip(items, encoded, strict=True), self.newest + 1):
                    problem = error if body is None else tables.add((number, kind_of(item), now, body))
                    if problem is not None:
                        problems.append(problem)
                    if body is None or problem is not None:
                        entries.append(Entry(item, size_of(item)))
                    else:
                        entries.append(Entry(item, len(body), self, number))
                        size += len(body)
            self._waiting = set(self._progress)
            self.newest += len(items)
            self.bytes += size
        return entries, problems

    def read(self, kinds: int, after: int, upto: int, max_items: int, max_bytes: int) -> tuple[list[Entry], int, int]:
        """The next items after an id, the id up to which that is all of these kinds, and how many there are damaged.

        Damaged ones are deleted, whoever meets them first; each backend is told of them when it comes to them.
        """
        entries: list[Entry] = []
        damaged: dict[int, int] = {}
        size, reached = 0, upto
        with self._open() as tables:
            if tables is None:
                return [], upto, 0
            with tables.read(kinds, after, upto) as rows:
                for number, kind, body in rows:
                    if (item := decode(kind, body)) is None:
                        damaged[number] = kind
                        continue
                    entry = Entry(item, size_of(item), self, number)
                    size += entry.bytes
                    if entries and (len(entries) >= max_items or size > max_bytes):
                        reached = entries[-1].id
                        break
                    entries.append(entry)
            lost = _number(self._damaged | damaged, kinds, after, reached)
            if damaged and not self._is_aside:
                with contextlib.suppress(sqlite3.Error):  # a later process finds them again, then
                    self._tidy(tables, damaged=damaged)
                    self._damaged |= damaged
        return entries, reached, lost

    def settle(self, backend: str, upto: int) -> None:
        """Note that a backend is done with everything up to an id; delete what none needs any more.

        What can't be written down now is with the next call, or when the file is closed.
        """
        with self._open() as tables:
            kinds, done = self._progress[backend]
            self._progress[backend] = kinds, max(done, upto)
            if tables is not None:
                self._tidy(tables)

    def tidy(self) -> None:
        """Write down how far the backends have got, if that was not possible before."""
        with self._open() as tables:
            if tables is not None:
                self._tidy(tables)

    def forget(self, upto: int, tell: Callable[[Gone], None]) -> None:
        """Delete everything up to an id, whoever needs it; `tell` of it before anybody reads on."""
        with self._open() as tables:
            if tables is None or self._is_aside:
                return
            gone = tables.kinds_upto(upto)
            self._tidy(tables, least=upto)
            tell(gone)

    def count(self, kinds: int, after: int, upto: int) -> int:
        """How many items of these kinds there are after an id, up to another, with those that were damaged."""
        with self._open() as tables:
            return (
                0 if tables is None else tables.count(kinds, after, upto) + _number(self._damaged, kinds, after, upto)
            )

    def oldest(self, size: int) -> int:
        """The id up to which the oldest items have `size` bytes together, or all that there are."""
        with self._open() as tables:
            upto = None if tables is None else tables.oldest(size)
        return self.newest if upto is None else upto

    def older_than(self, time_ns: int) -> int:
        """The id up to which items were written before a Unix time; 0 if none was."""
        with self._open() as tables:
            first = None if tables is None else tables.first_since(time_ns)
        return self.newest if first is None else first - 1

    def close(self) -> None:
        """Let it go. It stays for a later process if there is something in it."""
        problem, is_empty = None, False
        with self._alone():
            if self._tables is not None and not self._is_aside:
                try:
                    is_empty = not any(self._left(self._tables).values())  # a full disk lets nobody write, but read
                    if not is_empty:
                        self._tidy(self._tables)
                except sqlite3.Error as error:
                    problem = error
            if problem is None or not is_damage(problem):
                self._let_go(remove=is_empty)
        if problem is not None and is_damage(problem):
            self.set_aside(problem)
        elif problem is not None:
            self._warn("spool: closing %s: %s", self.path, problem)

    def set_aside(self, error: Exception, *, is_readable: bool = False) -> None:
        """Give a damaged file another name, and say so; what SQLite has beside it goes along.

        Args:
            error: what was met.
            is_readable: whether that was in writing: it stays open for what can still be read, until that fails too.
        """
        aside = self.path.with_name(f"{self.path.name}.damaged")
        with self._alone():
            if not self.is_owned:
                return
            is_first, self._is_aside, self.is_lost = not self._is_aside, True, True
            outcome = ""
            if is_first:
                # Before it is closed: with that SQLite removes what it can't make sense of.
                _, problem = attempt(spool_paths.rename, self.path, aside)
                outcome = f"setting it aside failed: {problem}" if problem else f"it was set aside as {aside.name}"
                self.bytes = 0  # it takes no room from what comes
            if not (is_first and is_readable):
                self._let_go()
        if outcome:
            self._warn("spool: %s is damaged (%s); %s", self.path, error, outcome)

    def abandon(self) -> None:
        """In a forked child: it is the parent's. Nothing is in the middle of anything: see `without_forks`."""
        self._unlock()  # or the lock would outlive the parent
        self._tables = None  # while the parent has it open, SQLite writes nothing when this copy goes

    @contextlib.contextmanager
    def _open(self) -> Iterator[Tables | None]:
        with self._alone():
            yield self._tables

    def _tidy(self, tables: Tables, *, least: int = 0, damaged: Collection[int] = ()) -> None:
        """Write the progress; delete what nobody needs, everything up to `least`, and what is damaged."""
        if self._is_aside:
            left = self._left(tables)
        else:
            with tables.changing():
                tables.note((backend, done) for backend, (_, done) in self._progress.items())
                freed = sum(map(tables.delete, damaged))
                left = self._left(tables, least)
                upto = min((first - 1 for first in left.values() if first is not None), default=self.newest)
                if upto > self._deleted:
                    freed += tables.delete_upto(upto)
            self.bytes -= freed
            self._deleted = max(self._deleted, upto)
        self._waiting = {name for name, first in left.items() if first is not None}

    def _left(self, tables: Tables, after: int = 0) -> dict[str, int | None]:
        """The first item after an id that each backend lacks."""
        return {name: tables.first(kinds, max(done, after)) for name, (kinds, done) in self._progress.items()}

    def _let_go(self, *, remove: bool = False) -> None:
        if not self.is_owned:
            return
        if self._tables is not None:
            with contextlib.suppress(sqlite3.Error):
                self._tables.close()
            self._tables = None
        if remove:
            spool_paths.remove(self.path)
        self._unlock()


def _number(known: Mapping[int, int], kinds: int, after: int, upto: int) -> int:
    """How many of what is known by id and kind are of these kinds, after an id and up to another."""
    return sum(after < number <= upto and kind & kinds != 0 for number, kind in known.items())
