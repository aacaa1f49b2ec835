"""What waits for one backend, in memory and, where that is full, in the spool."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from spanhook.delivery.items import Barrier, Entry
from spanhook.delivery.queue import Queue
from spanhook.delivery.spool_file import Gone, SpoolFile
from spanhook.delivery.spool_tables import is_damage

if TYPE_CHECKING:
    from spanhook.config.settings import DeliverySettings


@dataclass(slots=True)
class _Source:
    """The part of a file that is not in memory: items after `read`, up to `upto`."""

    file: SpoolFile
    read: int
    upto: int
    unread: int


@dataclass(slots=True, frozen=True)
class _Mark:
    """A barrier behind an item that is not in memory."""

    source: _Source
    upto: int
    barrier: Barrier


class SpooledQueue(Queue):
    """A queue that is never full: all that is in it is in the spool, too, and is read from there when there is room.

    Args:
        backend: whose.
        kinds: of items, that it takes.
        lose: called with a reason and a number, under the lock, when something in the spool can't be read.
    """

    is_spooled = True

    def __init__(self, settings: DeliverySettings, backend: str, kinds: int, lose: Callable[[str, int], None]) -> None:
        super().__init__(settings)
        self.unread = 0
        self._backend = backend
        self._kinds = kinds
        self._lose = lose
        self._kept: list[Entry] = []
        self._is_closing = False
        self._sources: deque[_Source] = deque()  # oldest first; the last one grows
        self._marks: deque[_Mark] = deque()

    @property
    def left(self) -> int:
        """Items that wait, in memory and in the spool."""
        return self.waiting + self.unread + len(self._kept)

    def spooled(self, in_flight: Sequence[Entry]) -> int:
        """How many of these, and of those in flight, the spool keeps; under the lock."""
        entries = chain(self._items, in_flight, self._kept)
        in_memory = sum(isinstance(entry, Entry) and entry.is_kept for entry in entries)
        return in_memory + sum(source.unread for source in self._sources if not source.file.is_lost)

    def lacks(self, file: SpoolFile) -> int:
        """How many items of a file are for this backend."""
        kinds, done = file.progress.get(self._backend, (0, 0))
        return file.count(kinds & self._kinds, done, file.newest)

    def add_source(self, file: SpoolFile, unread: int) -> None:
        """Have it deliver what a dead process has left in a file, too; so many items, under the lock."""
        if unread:
            self._sources.append(_Source(file, file.progress[self._backend][1], file.newest, unread))
            self.unread += unread

    def put(self, entry: Entry) -> bool:
        """Add an item, under the lock: to memory, unless it is full or others wait in the spool."""
        if entry.file is None or not self._sources:
            has_room = super().put(entry)
            if has_room or entry.file is None:
                return has_room
        if not self._sources or self._sources[-1].file is not entry.file:
            self._sources.append(_Source(entry.file, entry.id - 1, entry.id, 0))
        source = self._sources[-1]
        source.upto = entry.id
        source.unread += 1
        self.unread += 1
        return True

    def put_barrier(self, barrier: Barrier) -> None:
        """Add a mark behind the last item."""
        with self.lock:
            if self._sources and not self._is_closing:
                self._marks.append(_Mark(self._sources[-1], self._sources[-1].upto, barrier))
            else:
                super().put_barrier(barrier)

    def fill(self) -> bool:
        """Read on when nothing is left in memory. Whether there is something to take.

        Raises:
            sqlite3.Error: what is in the spool can't be read now.
        """
        while not self._items and self._sources and not self._is_closing:
            self._read_on()
        return bool(self._items)

    def settled(self, batch: Sequence[Entry]) -> None:
        """Note that the backend is done with these. On the backend's thread; may raise `sqlite3.Error`.

        A damaged file is set aside: it would have the same delivered at each start.
        """
        upto = {entry.file: entry.id for entry in batch if entry.file is not None}
        problems: list[sqlite3.Error] = []
        for file, last in upto.items():  # each of them, whatever is wrong with another
            try:
                file.settle(self._backend, last)
            except sqlite3.Error as error:
                if is_damage(error):
                    file.set_aside(error, is_readable=True)
                else:
                    problems.append(error)
        if problems:
            raise problems[0]

    def keep(self, batch: Sequence[Entry]) -> int:
        """Leave in the spool what was taken out and not delivered, under the lock; how many that are."""
        kept = [entry for entry in batch if entry.is_kept]
        self._kept += kept  # themselves, as their file may be set aside after that
        return len(kept)

    def stop_reading(self) -> None:
        """Leave in the spool what is there, and come to the marks."""
        with self.lock:
            self._is_closing = True
            self._items.extend(mark.barrier for mark in self._marks)
            self._marks.clear()

    def forget(self, file: SpoolFile, gone: Gone) -> int:
        """Leave out what was deleted from a file; how many items that are, under the lock."""
        upto = gone[-1][0] if gone else 0
        dropped = [e for e in self._items if isinstance(e, Entry) and e.file is file and e.id <= upto]
        if dropped:
            left = set(map(id, dropped))
            self._items = deque(entry for entry in self._items if id(entry) not in left)
            self.waiting -= len(dropped)
            self.bytes -= sum(entry.bytes for entry in dropped)
        unread = 0
        for source in self._sources:
            if source.file is file and source.read < upto:
                last = min(upto, source.upto)
                number = sum(source.read < id_ <= last and kind & self._kinds != 0 for id_, kind in gone)
                source.read = last
                source.unread -= number
                unread += number
        self.unread -= unread
        return len(dropped) + unread

    def _read_on(self) -> None:
        with self.lock:
            source = self._sources[0]
            after, upto = source.read, source.upto
            if self._marks and self._marks[0].source is source:
                upto = self._marks[0].upto
        try:
            entries, reached, lost = source.file.read(self._kinds, after, upto, 2 * self._batch_spans, self._max_bytes)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            source.file.set_aside(error)
            entries, reached, lost = [], source.upto, 0
        if not source.file.is_open:  # nothing more is to be had from it, and who waits is told of that
            reached = source.upto
        with self.lock:
            if source.read != after:
                return  # some of it was deleted meanwhile
            source.read = reached
            source.unread -= len(entries) + lost
            self.unread -= len(entries) + lost
            if lost:  # before any mark behind it
                self._lose("spool_damaged", lost)
            self._items += entries
            self.waiting += len(entries)
            self.bytes += sum(entry.bytes for entry in entries)
            while self._marks and self._marks[0].source is source and self._marks[0].upto <= reached:
                self._items.append(self._marks.popleft().barrier)
            if reached >= source.upto:
                self._sources.popleft()
                self.unread -= source.unread
                if source.unread:
                    self._lose("spool_damaged", source.unread)
