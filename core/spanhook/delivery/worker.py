"""One backend's queue and thread."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spanhook.delivery.items import ALL_KINDS, HOOKS, Barrier, Entry, Identity, kind_of
from spanhook.delivery.outage import Outage, Pause
from spanhook.delivery.queue import Queue
from spanhook.delivery.spool_file import SpoolFile
from spanhook.delivery.spooled_queue import SpooledQueue
from spanhook.delivery.stats import BackendStats
from spanhook.errors import PartlyFailed, RetryLater
from spanhook.guard import Guard, warn
from spanhook.span import Span

if TYPE_CHECKING:
    from spanhook.config import DeliverySettings
    from spanhook.plugins.registration import Plugin

WARN_EVERY_S = 60.0
LAST_PAUSE_S = 1.0  # the longest between attempts while the tracer closes
CLOSING_S = 0.5  # what is left of its time for the backend's own shutdown


class Worker:
    """Feeds one backend from a bounded queue on a thread of its own; what it does never delays another backend."""

    def __init__(self, plugin: Plugin, settings: DeliverySettings, guard: Guard) -> None:
        self.name = plugin.name
        self._plugin = plugin
        self._settings = settings
        self._guard = guard
        self.kinds = sum(kind for kind, hook in HOOKS.items() if hook in plugin.hooks)
        self.reset()

    def reset(self) -> None:
        """Start anew with an empty queue and no thread, as a forked process has to."""
        self._queue = (
            Queue(self._settings)
            if self._settings.spool is None
            else SpooledQueue(self._settings, self.name, self.kinds, self.lose)
        )
        self._lock = self._queue.lock
        self._in_flight = 0
        self._wakeup = threading.Event()
        self._accepted = self._delivered = self._failed = 0
        self._dropped: Counter[str] = Counter()
        self._lost = 0
        self._lost_told = 0  # of these, how many a barrier has told of
        self._warned_at = -WARN_EVERY_S
        self._unsaid = 0
        self._outage = Outage(self._plugin.label)
        self._last: Barrier | None = None  # the one that ends the thread, from when it is queued
        self._closing = threading.Event()
        self._gave_up = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, entries: Sequence[Entry]) -> None:
        """Queue items; drop and count those for which there is no room. Called by the intake thread only.

        What a backend has no hook for is nothing to it, and is not counted.
        """
        if self.kinds != ALL_KINDS:
            entries = [entry for entry in entries if kind_of(entry.item) & self.kinds]
        if self._closed:
            self.drop("shut_down", len(entries))
            return
        with self._lock:
            queued = sum(map(self._queue.put, entries))
            self._accepted += queued
        if queued < len(entries):
            self.drop("queue_full", len(entries) - queued)

    def put_barrier(self, barrier: Barrier) -> None:
        """Queue a mark; it takes no room from the items."""
        if self._closed:
            barrier.answer(self.is_done())
            return
        self._queue.put_barrier(barrier)
        if barrier.closing:
            self._last = barrier
            self._closing.set()

    def drop(self, reason: str, number: int = 1) -> None:
        """Count items that found no room."""
        with self._lock:
            self._accepted += number
        self.lose(reason, number)

    def lose(self, reason: str, number: int) -> None:
        """Count items that will not be delivered; say so at most once a minute, with the number."""
        with self._lock:
            self._dropped[reason] += number
            self._lost += number
            self._unsaid += number
            now = time.monotonic()
            if now - self._warned_at < WARN_EVERY_S:
                return
            unsaid, self._unsaid, self._warned_at = self._unsaid, 0, now
        warn("%s: %d dropped (%s)", self._plugin.label, unsaid, reason.replace("_", " "))

    def add_source(self, file: SpoolFile) -> None:
        """Deliver what a dead process left in the spool, too; it counts as accepted here."""
        if isinstance(self._queue, SpooledQueue):
            unread = self._queue.add_source(file)
            with self._lock:
                self._accepted += unread

    def forget(self, file: SpoolFile, upto: int, reason: str) -> None:
        """Count as dropped what the spool is about to delete."""
        if isinstance(self._queue, SpooledQueue) and (number := self._queue.forget(file, upto)):
            self.lose(reason, number)

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: the interpreter is shutting down.
        """
        self._thread = threading.Thread(target=self._run, name=f"spanhook-{self._plugin.name}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Have the thread look at the queue."""
        self._wakeup.set()

    def close_here(self, barrier: Barrier) -> None:
        """Shut the backend down on the calling thread; only where it never got anything and can't have a thread."""
        self._reach(barrier)
        self.wake()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end after a closing barrier."""
        join(self._thread, timeout_s)

    @property
    def lost_told(self) -> int:
        """How many lost items barriers have told of so far."""
        return self._lost_told

    def is_done(self) -> bool:
        """Whether nothing is left to do, and nothing was lost that no barrier has told of."""
        with self._lock:
            return not self._queue.left and not self._in_flight and self._lost == self._lost_told

    def stats(self) -> BackendStats:
        """The counts of this moment."""
        with self._lock:
            return BackendStats(
                accepted=self._accepted,
                delivered=self._delivered,
                queued=self._queue.left + self._in_flight,
                spooled=self._queue.spooled(self._in_flight),
                failed=self._failed,
                dropped=dict(self._dropped),
            )

    def _run(self) -> None:
        while not self._closed:
            self._wakeup.wait()
            self._wakeup.clear()
            while not self._closed and self._queue.fill():
                self._step()

    def _step(self) -> None:
        if self._last is not None and self._queue.is_spooled and not self._last.remaining_s():
            self._give_up()  # a later process has all the time
        with self._lock:
            taken = self._queue.take()
            if not isinstance(taken, Barrier):
                self._in_flight = len(taken)
        if isinstance(taken, Barrier):
            self._reach(taken)
        elif taken:
            self._deliver(taken)

    def _deliver(self, batch: Sequence[Entry]) -> None:
        """Offer a batch until the backend takes it or refuses it, or, when the tracer closes, until time is up."""
        first = batch[0].item
        hook = HOOKS[kind_of(first)]
        arguments: tuple[Any, ...] = (first,)
        if isinstance(first, Span):
            arguments = ([entry.item for entry in batch],)
        elif isinstance(first, Identity):
            arguments = (first.user_id, first.traits)
        was_asked = False
        while not self._gave_up:
            last = self._last
            pause = self._offer(hook, len(batch), *arguments)
            if pause is None:
                self._settle(batch)
                return
            if last is None:
                self._closing.wait(pause.seconds)
            elif (pause_s := _last_pause_s(pause, last, was_asked=was_asked)) is not None:
                was_asked = pause.is_asked
                time.sleep(pause_s)
            else:
                self._give_up()
        with self._lock:
            lost = len(batch) - self._queue.keep(batch)
            if lost:
                self._dropped["not_reachable"] += lost
                self._lost += lost
            self._in_flight = 0

    def _give_up(self) -> None:
        """Offer nothing more: the spool keeps it, or it is lost."""
        self._gave_up = True
        self._queue.stop_reading()

    def _offer(self, hook: str, count: int, *arguments: Any) -> Pause | None:
        """Call a hook. None if that settles the batch; else when to try again."""
        # Everything: even what a vendor's SDK raises to end the process must not end this thread alone, unseen.
        shield = self._guard(f"{self._plugin.label}: {hook}", everything=True)
        failed = count
        with shield:
            try:
                self._plugin.hooks[hook](*arguments)
            except RetryLater as error:
                return self._outage.pause(error)
            except PartlyFailed as error:
                failed = min(max(0, error.failed), count)
                self._outage.over()
                raise
            self._outage.over()
            failed = 0
        with self._lock:
            self._failed += failed
            self._delivered += count - failed
            self._lost += failed
            self._in_flight = 0
        return None

    def _settle(self, batch: Sequence[Entry]) -> None:
        try:
            self._queue.settled(batch)
        except sqlite3.Error as error:  # it may come again, after a restart
            self._guard.report(f"spool: noting what {self._plugin.label} has", error)

    def _reach(self, barrier: Barrier) -> None:
        with self._lock:
            delivered = self._lost == barrier.told[self.name] and not (self._gave_up and self._queue.left)
            self._lost_told = self._lost
        hooks = ("flush", "shutdown") if barrier.closing else ("flush",)
        for hook in hooks:
            implementation = self._plugin.hooks.get(hook)
            if implementation is not None:
                shield = self._guard(f"{self._plugin.label}: {hook}", everything=True)
                answer = None
                with shield:
                    answer = implementation(barrier.remaining_s())
                delivered = delivered and answer is not False and not shield.failed
        if barrier.closing:
            self._closed = True
        barrier.answer(delivered)


def _last_pause_s(pause: Pause, last: Barrier, *, was_asked: bool) -> float | None:
    """How long to wait for another attempt while the tracer closes; None if there is to be none.

    Args:
        pause: after the last attempt.
        last: what closes the worker.
        was_asked: whether the backend had asked for the attempt before, too: an exit grants that once.
    """
    if pause.is_asked and (last.patient or not was_asked):
        return pause.seconds if pause.seconds < last.remaining_s() else None
    pause_s = min(pause.seconds, LAST_PAUSE_S)
    return pause_s if last.patient and pause_s + CLOSING_S < last.remaining_s() else None


def join(thread: threading.Thread | None, timeout_s: float) -> None:
    """Wait for a thread to end, unless it is the one that asks or was never there."""
    if thread is not None and thread.is_alive() and thread is not threading.current_thread():
        thread.join(timeout_s)
