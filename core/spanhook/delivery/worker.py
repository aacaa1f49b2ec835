"""One backend's queue and thread."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spanhook.delivery.bell import Bell
from spanhook.delivery.counts import Counts
from spanhook.delivery.items import ALL_KINDS, HOOKS, Barrier, Entry, Identity, kind_of
from spanhook.delivery.outage import Outage, Pause
from spanhook.delivery.queue import Queue
from spanhook.delivery.spool_file import Gone, SpoolFile
from spanhook.delivery.spooled_queue import SpooledQueue
from spanhook.delivery.stats import BackendStats
from spanhook.errors import PartlyFailed, RetryLater
from spanhook.guard import Guard
from spanhook.span import Span

if TYPE_CHECKING:
    from spanhook.config.settings import DeliverySettings
    from spanhook.plugins.registration import Plugin

READ_AGAIN_S = 1.0  # after which what could not be read is tried again
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
            else SpooledQueue(self._settings, self.name, self.kinds, self._lose)
        )
        self._lock = self._queue.lock
        self._counts = Counts(self._plugin.label, self._lock)
        self._in_flight: Sequence[Entry] = ()
        self._wakeup = Bell()
        self._outage = Outage(self._plugin.label, self._guard)
        self._last: Barrier | None = None  # the one that ends the thread, from when it is queued
        self._closing = Bell()
        self._gave_up = False
        self._closed = False
        self._inside = ""  # the hook, of flush and shutdown, that runs
        self._end: list[str] = []  # what these two said of what the backend had taken, when the tracer closed
        self._thread: threading.Thread | None = None

    def put(self, entries: Sequence[Entry]) -> None:
        """Queue items; drop and count those for which there is no room. Called by the intake thread only.

        What a backend has no hook for is nothing to it, and is not counted.
        """
        if self.kinds != ALL_KINDS:
            entries = [entry for entry in entries if kind_of(entry.item) & self.kinds]
        with self._lock:
            queued = sum(map(self._queue.put, entries))
            self._counts.accepted += queued
            if queued < len(entries):
                self.drop("queue_full", len(entries) - queued)

    def put_barrier(self, barrier: Barrier) -> None:
        """Queue a mark; it takes no room from the items."""
        self._queue.put_barrier(barrier)
        if barrier.closing:
            self._last = barrier
            self._closing.ring()

    def drop(self, reason: str, number: int = 1) -> None:
        """Count items that got no further; `say_losses` says so."""
        self._counts.drop(reason, number, accepted=number)

    def say_losses(self) -> None:
        """Log what was dropped, at most once a minute; with no lock held that a log handler may wait for."""
        self._counts.say()

    def add_source(self, file: SpoolFile) -> int:
        """Deliver what a dead process left in the spool, too; it counts as accepted here. How much that is."""
        unread = self._queue.lacks(file)
        with self._lock:
            self._queue.add_source(file, unread)
            self._counts.accepted += unread
        return unread

    def forget(self, file: SpoolFile, gone: Gone, reason: str) -> None:
        """Count as dropped what the spool has deleted."""
        with self._lock:
            self._lose(reason, self._queue.forget(file, gone))

    def start(self) -> None:
        """Start the thread, unless there is one.

        Raises:
            RuntimeError: the system has no thread to give, or the interpreter is shutting down.
        """
        if self._thread is not None:
            return
        # Noted before it starts: a signal handler may raise from the middle of it, or come here again.
        self._thread = threading.Thread(target=self._run, name=f"spanhook-{self._plugin.name}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
            raise

    def wake(self) -> None:
        """Have the thread look at the queue."""
        self._wakeup.ring()

    def close_here(self, barrier: Barrier) -> None:
        """Shut the backend down on the calling thread; only where it never got anything and can't have a thread."""
        self._reach(barrier)
        self.wake()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the thread to end after a closing barrier, however long that takes where nothing else is said."""
        join(self._thread, timeout_s)

    @property
    def lost_told(self) -> int:
        """How many lost items barriers have told of so far."""
        return self._counts.lost_told

    def is_done(self) -> bool:
        """Whether nothing is left to do, and nothing was lost that no barrier has told of."""
        with self._lock:
            return not self._queue.left and not self._in_flight and self._counts.lost == self._counts.lost_told

    def stats(self) -> BackendStats:
        """The counts of this moment."""
        with self._lock:
            return self._counts.stats(self._queue.left + len(self._in_flight), self._queue.spooled(self._in_flight))

    def held_back(self) -> str:
        """One phrase on what the backend had taken and may not have delivered; empty if it said that it has."""
        if not self._counts.delivered:
            return ""
        return ", ".join([*self._end, *([f"its {self._inside} has not ended"] if self._inside else ())])

    def _lose(self, reason: str, number: int) -> None:
        if number:
            self._counts.drop(reason, number)

    def _run(self) -> None:
        while not self._closed:
            self._wakeup.wait(READ_AGAIN_S if self._queue.left else None)
            # Everything: whatever it is, it must not end this thread alone, unseen.
            with self._guard(f"{self._plugin.label}: its queue", everything=True):
                while not self._closed and self._has_next():
                    self._step()
            self.say_losses()

    def _has_next(self) -> bool:
        """Whether there is something to take from the queue."""
        if self._last is not None and self._queue.is_spooled and not self._last.remaining_s():
            self._give_up()  # a later process has all the time
        try:
            return self._queue.fill()
        except sqlite3.Error as error:
            self._guard.report(f"spool: reading what waits for {self._plugin.label}", error)
        if self._last is None:
            return False  # it may be possible later
        self._give_up()
        return self._queue.fill()

    def _step(self) -> None:
        with self._lock:
            taken = self._queue.take()
            if not isinstance(taken, Barrier):
                self._in_flight = taken
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
                self._counts.drop("not_reachable", lost, say=False)  # the shutdown says it
            self._in_flight = ()

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
            self._counts.settle(count - failed, failed)
            self._in_flight = ()
        return None

    def _settle(self, batch: Sequence[Entry]) -> None:
        try:
            self._queue.settled(batch)
        except sqlite3.Error as error:  # it is noted with the next ones
            self._guard.report(f"spool: noting what {self._plugin.label} has", error)

    def _reach(self, barrier: Barrier) -> None:
        with self._lock:
            delivered = self._counts.lost == barrier.told[self.name] and not (self._gave_up and self._queue.left)
            self._counts.lost_told = self._counts.lost
        hooks = ("flush", "shutdown") if barrier.closing else ("flush",)
        for hook in hooks:
            implementation = self._plugin.hooks.get(hook)
            if implementation is not None:
                shield = self._guard(f"{self._plugin.label}: {hook}", everything=True)
                answer = None
                self._inside = hook
                with shield:
                    answer = implementation(barrier.remaining_s())
                if shield.failed or answer is False:
                    delivered = False
                    if barrier.closing:
                        self._end.append(f"its {hook} failed" if shield.failed else f"its {hook} was not sure of all")
                self._inside = ""
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


def join(thread: threading.Thread | None, timeout_s: float | None) -> None:
    """Wait for a thread to end, unless it is the one that asks or was never there."""
    if thread is not None and thread.is_alive() and thread is not threading.current_thread():
        thread.join(timeout_s)
