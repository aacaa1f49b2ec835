"""From the intake thread to every backend's worker, by way of the spool where there is one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from spanhook.delivery.items import ALL_KINDS, Barrier, Entry, Item
from spanhook.delivery.sizes import size_of
from spanhook.delivery.spool import Spool
from spanhook.delivery.spool_file import Gone, SpoolFile
from spanhook.delivery.worker import Worker
from spanhook.guard import Guard

if TYPE_CHECKING:
    from spanhook.config.settings import DeliverySettings

SPOOL_BATCH = 500  # items in one transaction


class Fanout:
    """Gives each item to all workers. For the intake thread alone, but for `drop` and `len`.

    Attributes:
        moving: held while an item goes from one place to the next, so that nobody counts it twice, or not at all.
    """

    def __init__(self, workers: Collection[Worker], settings: DeliverySettings, guard: Guard) -> None:
        self._workers = workers
        self._guard = guard
        kinds = {worker.name: worker.kinds for worker in workers}
        self._spool = None if settings.spool is None else Spool(settings, kinds, guard)
        self._reset()

    def _reset(self) -> None:
        self.moving = threading.RLock()
        self._saving: deque[Item] = deque()  # on their way into the spool

    def reset_after_fork(self) -> None:
        """In a forked child: what was on its way is the parent's to deliver."""
        for worker in self._workers:
            worker.reset()
        if self._spool is not None:
            self._spool.reset_after_fork()
        self._reset()

    def __len__(self) -> int:
        """Items that the workers don't have yet."""
        return len(self._saving)

    @property
    def look_every_s(self) -> float | None:
        """How often somebody has to `look` at least; None if never."""
        return None if self._spool is None else self._spool.look_again_s

    def is_anything_left_behind(self) -> bool:
        """Whether earlier processes have left something in the spool."""
        return self._spool is not None and self._spool.is_anything_left_behind()

    def look(self) -> None:
        """Look after the spool's files: take over what dead processes have left."""
        if self._spool is not None:
            self._guard.call("spool: looking after its files", self._spool.look, self._add_source, self._forget)
            self.wake()

    def put(self, items: Sequence[Item]) -> None:
        """Give items to the workers, or put them in line for the spool; with `moving` held."""
        if self._spool is None:
            self._queue([Entry(item, size_of(item)) for item in items])
        else:
            self._saving.extend(items)

    def save(self, least: int = 1) -> None:
        """Put what stands in line into the spool, and give it to the workers, if it is so many items."""
        if self._spool is not None and len(self._saving) >= least:
            for entry in self._spool.save(list(self._saving)):
                with self.moving:
                    self._queue([entry])
                    self._saving.popleft()

    def put_barrier(self, barrier: Barrier) -> None:
        """Queue a mark behind all that came before."""
        self.save()
        if barrier.closing and self._spool is not None:
            self._spool.notice_removed()  # what is left is said to be kept
        for worker in self._workers:
            worker.put_barrier(barrier)

    def keep_within_bounds(self) -> None:
        """Delete what is too old, or has no room, in the spool."""
        if self._spool is not None:
            self._guard.call("spool: its bounds", self._spool.keep_within_bounds, self._forget)

    def drop(self, reason: str, number: int = 1, kinds: int = ALL_KINDS) -> None:
        """Count items that no backend gets, for those that take one of these kinds; `say_losses` says so."""
        for worker in self._workers:
            if worker.kinds & kinds:
                worker.drop(reason, number)

    def say_losses(self) -> None:
        """Log what was dropped; without `moving`, for which a log handler may wait that asks for the counts."""
        for worker in self._workers:
            worker.say_losses()

    def wake(self) -> None:
        """Have the workers look at their queues."""
        for worker in self._workers:
            worker.wake()

    def close(self) -> None:
        """Let go of the spool when the workers have come to their end: until then they note there what is done."""
        if self._spool is not None:
            for worker in self._workers:
                worker.join()
            self._spool.close()

    def _queue(self, entries: Sequence[Entry]) -> None:
        for worker in self._workers:
            worker.put(entries)

    def _add_source(self, file: SpoolFile) -> int:
        """Give the workers what is left in a file; the most that one of them lacks."""
        return max((worker.add_source(file) for worker in self._workers), default=0)

    def _forget(self, file: SpoolFile, gone: Gone, reason: str) -> None:
        for worker in self._workers:
            worker.forget(file, gone, reason)
