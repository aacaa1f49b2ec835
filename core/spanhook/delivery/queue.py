"""What waits for one backend, in memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spanhook.delivery.items import Barrier, Entry
from spanhook.span import Span

if TYPE_CHECKING:
    from spanhook.config.settings import DeliverySettings
    from spanhook.delivery.spool_file import Gone, SpoolFile


class Queue:
    """Items and marks in order, bounded by the number of items and by their bytes.

    The intake thread puts in, the backend's thread takes out. `lock` guards it, and the worker's counts with it; it is
    re-entrant, as the garbage collector and signal handlers may end up here again.
    """

    is_spooled = False

    def __init__(self, settings: DeliverySettings) -> None:
        self.lock = threading.RLock()
        self.waiting = 0  # items
        self.bytes = 0
        self._max_items = settings.queue_spans
        self._max_bytes = settings.queue_bytes
        self._batch_spans = settings.batch_spans
        self._batch_bytes = settings.batch_bytes
        self._items: deque[Entry | Barrier] = deque()

    @property
    def left(self) -> int:
        """Items that wait."""
        return self.waiting

    def spooled(self, in_flight: Sequence[Entry]) -> int:
        """How many of these, and of those in flight, outlast the process; under the lock."""
        return 0

    def put(self, entry: Entry) -> bool:
        """Add an item, under the lock; False if there is no room. An empty queue has room for anything."""
        if self.waiting and (self.waiting >= self._max_items or self.bytes + entry.bytes > self._max_bytes):
            return False
        self._items.append(entry)
        self.waiting += 1
        self.bytes += entry.bytes
        return True

    def put_barrier(self, barrier: Barrier) -> None:
        """Add a mark; it takes no room from the items."""
        self._items.append(barrier)

    def take(self) -> Barrier | Sequence[Entry]:
        """The next mark, or the next batch, under the lock: spans up to the batch's bounds, or one of another kind."""
        batch: list[Entry] = []
        size = 0
        while self._items:
            first = self._items[0]
            if isinstance(first, Barrier):
                if batch:
                    break
                self._items.popleft()
                return first
            is_full = len(batch) >= self._batch_spans or size + first.bytes > self._batch_bytes
            if batch and (is_full or not isinstance(first.item, Span)):
                break
            self._items.popleft()
            batch.append(first)
            size += first.bytes
            if not isinstance(first.item, Span):
                break
        self.waiting -= len(batch)
        self.bytes -= size
        return batch

    def fill(self) -> bool:
        """Whether there is something to take."""
        return bool(self._items)

    def lacks(self, file: SpoolFile) -> int:
        """How many items of a file are for this backend."""
        return 0

    def add_source(self, file: SpoolFile, unread: int) -> None:
        """Have it deliver what a dead process has left in a file, too; so many items, under the lock."""

    def forget(self, file: SpoolFile, gone: Gone) -> int:
        """Leave out what was deleted from a file; how many items that are, under the lock."""
        return 0

    def settled(self, batch: Sequence[Entry]) -> None:
        """Note that the backend is done with what was taken out."""

    def keep(self, batch: Sequence[Entry]) -> int:
        """Keep what was taken out and not delivered for a later process, under the lock; how many items that are."""
        return 0

    def stop_reading(self) -> None:
        """Come to an end."""
