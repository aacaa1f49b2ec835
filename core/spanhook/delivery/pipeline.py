"""The way from the program's threads to the workers."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from spanhook.config import DeliverySettings
from spanhook.delivery.items import Barrier, Item
from spanhook.delivery.stats import BackendStats
from spanhook.delivery.worker import Worker
from spanhook.guard import Guard
from spanhook.plugins.registration import Plugin
from spanhook.span import Span


class Pipeline:
    """Takes finished spans, identities and signals, in order, and gives them to every backend's worker.

    The calling thread appends to a queue and, once a batch, sets an event. The intake thread does what all backends
    share (`finish`), then each worker goes its own way. Threads start with the first item and are daemons.
    """

    def __init__(
        self, backends: Sequence[Plugin], settings: DeliverySettings, finish: Callable[[Span], None], guard: Guard
    ) -> None:
        self._workers = {plugin.name: Worker(plugin, settings, guard) for plugin in backends}
        self._limit = settings.queue_spans
        self._interval_s = settings.interval_s
        self._finish = finish
        self._guard = guard
        self._forked = False
        self._reset()
        _pipelines.add(self)

    def _reset(self) -> None:
        self._intake: deque[Item | Barrier] = deque()
        self._awake = False
        self._wakeup = threading.Event()
        self._hurry = threading.Event()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def reset_after_fork(self) -> None:
        """In a forked child: no threads came along, and what was queued is the parent's to deliver."""
        self._guard.reset_lock()
        for worker in self._workers.values():
            worker.reset()
        self._reset()
        self._forked = True

    def put(self, item: Item) -> bool:
        """Accept an item, on the program's thread. False if it was dropped: the queue is full, or shut down."""
        if self._closed or len(self._intake) >= self._limit:
            self._drop("shut_down" if self._closed else "queue_full")
            return False
        self._intake.append(item)
        if not self._awake:
            self._awake = True
            self._wakeup.set()
            if self._thread is None:
                self._start()
        return True

    def flush(self, timeout_s: float, *, closing: bool = False) -> bool:
        """Wait until every backend has handled what was accepted before, for at most `timeout_s` seconds.

        True only if all of it was delivered. With `closing` the backends are shut down and the threads end.
        """
        if self._closed:
            return True
        self._closed = closing
        if self._thread is None:  # nothing was ever accepted
            # A forked child that traced nothing leaves the backends alone: what they hold is the parent's.
            idle = not closing or self._forked
            results = [] if idle else [worker.close_unused() for worker in self._workers.values()]
            return all(results)
        barrier = Barrier(len(self._workers), time.monotonic() + timeout_s, closing=closing)
        self._intake.append(barrier)
        self._hurry.set()
        self._wakeup.set()
        delivered = barrier.wait()
        if closing:
            for worker in self._workers.values():
                worker.join(barrier.remaining_s())
            self._thread.join(barrier.remaining_s())
        return delivered

    def stats(self) -> Mapping[str, BackendStats]:
        """The counts of each backend."""
        waiting = sum(1 for item in list(self._intake) if not isinstance(item, Barrier))
        counted = {}
        for name, worker in self._workers.items():
            stats = worker.stats()
            counted[name] = BackendStats(
                accepted=stats.accepted + waiting,
                delivered=stats.delivered,
                queued=stats.queued + waiting,
                failed=stats.failed,
                dropped=stats.dropped,
            )
        return counted

    def _start(self) -> None:
        """Start the threads, all at once: from an exit handler Python lets nobody start one."""
        with self._start_lock:
            if self._thread is not None:
                return
            shield = self._guard("delivery: start of its threads")
            with shield:
                for worker in self._workers.values():
                    worker.start()
                thread = threading.Thread(target=self._run, name="spanhook-intake", daemon=True)
                thread.start()
                self._thread = thread
            if shield.failed:
                self._closed = True
                while self._intake:
                    self._intake.popleft()
                    self._drop("no_thread")

    def _drop(self, reason: str) -> None:
        for worker in self._workers.values():
            worker.drop(reason)

    def _run(self) -> None:
        closing = False
        while not closing:
            self._wakeup.wait()
            self._wakeup.clear()
            self._hurry.wait(self._interval_s)  # let a batch gather, unless someone waits for it
            self._hurry.clear()
            self._awake = False  # before the queue is emptied: who comes later wakes us again
            closing = self._pass_on()

    def _pass_on(self) -> bool:
        """Hand everything over to the workers; whether a closing barrier was among it."""
        closing = False
        while self._intake:
            item = self._intake[0]
            if isinstance(item, Barrier):
                closing = closing or item.closing
                for worker in self._workers.values():
                    worker.put_barrier(item)
            else:
                if isinstance(item, Span):
                    self._finish(item)
                for worker in self._workers.values():
                    worker.put(item)
            self._intake.popleft()  # only now: until then it counts as queued
        for worker in self._workers.values():
            worker.wake()
        return closing


_pipelines: weakref.WeakSet[Pipeline] = weakref.WeakSet()


def _reset_all_after_fork() -> None:
    for pipeline in list(_pipelines):
        pipeline.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all_after_fork)
