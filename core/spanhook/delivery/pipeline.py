"""The way from the program's threads to the workers."""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spanhook.delivery.fanout import SPOOL_BATCH, Fanout
from spanhook.delivery.items import NOT_PREPARED, SPAN, Barrier, Dropped, Item
from spanhook.delivery.keeping import Keeping
from spanhook.delivery.overflow import Overflow
from spanhook.delivery.stats import BackendStats
from spanhook.delivery.worker import Worker, join
from spanhook.guard import Guard

if TYPE_CHECKING:
    from spanhook.config import DeliverySettings
    from spanhook.plugins.registration import Plugin

AT_ONCE = 100  # items that move on together
WAKE_EVERY = 500  # items, after which the workers may begin with them
IDLE_ROUNDS = 10  # intervals without an item, before the intake thread lets itself be woken


class Pipeline:
    """Takes finished spans, identities and signals, in order, and gives them to every backend's worker.

    The calling thread appends to a queue. The intake thread looks there once an interval, does what all backends share
    (`finish`), and each worker goes its own way. Threads start with the first item and are daemons.
    """

    def __init__(
        self,
        backends: Sequence[Plugin],
        settings: DeliverySettings,
        finish: Callable[[Any], Item | Dropped],
        guard: Guard,
        keeping: Keeping | None = None,
    ) -> None:
        self._workers = {plugin.name: Worker(plugin, settings, guard) for plugin in backends}
        self._limit = settings.queue_spans
        self._few = settings.queue_spans - settings.queue_spans // 4  # that need no care; 0 when it is shut down
        self._interval_s = settings.interval_s
        self._finish = guard.shielded("delivery: preparing an item", finish)
        self._keeping = keeping
        self._keep = None if keeping is None else guard.shielded("delivery: choosing what to keep", keeping.take)
        self._guard = guard
        self._fanout = Fanout(self._workers.values(), settings, guard)
        self._forked = False
        self._closed = False
        self._reset()
        _pipelines.add(self)

    def _reset(self) -> None:
        self._intake: deque[Any] = deque()
        self._overflow = Overflow(self._fanout.drop)
        self._wakeup = threading.Event()
        self._is_awake = False  # whether the intake thread runs, and looks at the queue by itself
        self._hurry = threading.Event()
        self._starting = threading.Lock()
        self._refused: RuntimeError | None = None
        self._thread: threading.Thread | None = None

    def reset_after_fork(self) -> None:
        """In a forked child: no threads came along, and what was queued is the parent's to deliver."""
        self._fanout.reset_after_fork()
        if self._keeping is not None:
            self._keeping.reset()
        self._reset()
        self._forked = True

    def open(self) -> None:
        """Start to deliver what earlier processes have left in the spool, if they have."""
        if self._fanout.is_anything_left_behind():
            self._start()

    def put(self, item: Any) -> bool:
        """Accept an item, on the program's thread. False if it was dropped: the queue is full, or shut down."""
        intake = self._intake
        if len(intake) >= self._few:
            return self._put_among_many(item)
        intake.append(item)
        return self._is_awake or self._wake_up()

    def _put_among_many(self, item: Any) -> bool:
        """The same where there may be no room."""
        if self._closed:
            self._fanout.drop("shut_down")
            return False
        if len(self._intake) >= self._limit:
            self._overflow.add()
            return False
        self._intake.append(item)
        if not self._hurry.is_set():
            self._hurry.set()  # don't let it fill up while the intake thread waits for a batch to gather
        return self._is_awake or self._wake_up()

    def _wake_up(self) -> bool:
        """Have the intake thread look at the queue; False if it can't be started any more."""
        if self._thread is None:
            return self._start() or self._give_up()
        self._is_awake = True
        self._wakeup.set()
        return True

    def flush(self, timeout_s: float, *, closing: bool = False, patient: bool = True) -> bool:
        """Wait until every backend has handled what was accepted before, for at most `timeout_s` seconds.

        True only if all of it was delivered. A loss is told to the flushes that were waiting when it was met, or to the
        next one, and not again. With `closing` the backends are shut down and the threads end;
        what a backend can't deliver then is offered again until there is no time left, or once if not `patient`.
        """
        if self._closed:
            return self._is_done()
        # A forked child that traced nothing leaves the backends alone: what they hold is the parent's.
        closing_backends = closing and not self._forked
        running = self._thread is not None or (bool(self._intake or closing_backends) and self._start())
        told = {name: worker.lost_told for name, worker in self._workers.items()}
        barrier = Barrier(told, timeout_s, closing=closing, patient=patient)
        self._closed = closing
        if closing:
            self._few = 0
        if not running:
            if self._intake:
                self._give_up()
            if not closing_backends:
                return self._is_done()
            for worker in self._workers.values():
                worker.close_here(barrier)
            return barrier.wait()
        self._intake.append(barrier)
        self._hurry.set()
        self._wakeup.set()
        delivered = barrier.wait()
        if closing:
            for worker in self._workers.values():
                worker.join(barrier.remaining_s())
            join(self._thread, barrier.remaining_s())
        return delivered

    def stats(self) -> Mapping[str, BackendStats]:
        """The counts of each backend."""
        with self._fanout.moving:  # else what moves meanwhile is counted twice
            waiting = sum(1 for item in list(self._intake) if not isinstance(item, Barrier)) + len(self._fanout)
            counted = {name: self._overflow.added_to(worker.stats()) for name, worker in self._workers.items()}
        return {
            name: replace(stats, accepted=stats.accepted + waiting, queued=stats.queued + waiting)
            for name, stats in counted.items()
        }

    def _is_done(self) -> bool:
        return not self._intake and all(worker.is_done() for worker in self._workers.values())

    def _start(self) -> bool:
        """Start the threads, all at once; False if that is not possible any more.

        Python 3.12 lets nobody start one while the interpreter exits.
        """
        if not self._starting.acquire(blocking=False):
            return True  # on their way: on another thread, or further up on this one
        try:
            if self._thread is None and self._refused is None and not self._closed:
                for worker in self._workers.values():
                    worker.start()
                thread = threading.Thread(target=self._run, name="spanhook-intake", daemon=True)
                thread.start()
                self._thread = thread
        except RuntimeError as error:
            self._refused = error
        finally:
            self._starting.release()
        return self._thread is not None

    def _give_up(self) -> bool:
        """Drop what came in, as nothing can deliver it."""
        if self._refused is not None:
            self._guard.report("delivery: start of its threads", self._refused)
        with suppress(IndexError):  # another thread may be at it too
            while True:
                item = self._intake.popleft()
                if isinstance(item, Barrier):
                    for _ in self._workers:
                        item.answer(False)
                else:
                    self._fanout.drop("no_thread")
        return False

    def _run(self) -> None:
        self._is_awake = True
        last: Barrier | None = None
        idle_rounds = 0
        while last is None:
            self._fanout.look()
            if idle_rounds >= IDLE_ROUNDS:
                self._sleep()
            self._hurry.wait(self._interval_s)  # let a batch gather, unless someone waits for it
            self._hurry.clear()  # before the queue is emptied: who comes later hurries us again
            idle_rounds = 0 if self._intake else idle_rounds + 1
            last = self._pass_on()
        self._fanout.close(last)

    def _sleep(self) -> None:
        """Wait for the next item, when there was none for a while. Only then its thread has to wake this one.

        To wake another thread, and to hand Python's lock over to it in the middle of a call, takes longer than a span.
        """
        self._wakeup.clear()
        self._is_awake = False
        if not self._intake:  # who came before that does not wake us
            self._wakeup.wait(self._fanout.look_every_s)
        self._is_awake = True

    def _pass_on(self) -> Barrier | None:
        """Hand what is there now over to the workers; the closing barrier if there was one among it.

        What comes meanwhile is for the next time: a program may be faster than this thread, and no worker waits for it.
        """
        last: Barrier | None = None
        self._tell_overflow()
        left, handed_over = len(self._intake), 0
        while left:
            barrier = self._intake[0]
            if isinstance(barrier, Barrier):
                left -= 1
                last = barrier if barrier.closing else last
                self._pass_barrier(barrier)
                continue
            items = self._next(min(left, AT_ONCE))
            left, handed_over = left - len(items), handed_over + len(items)
            self._hand_over(items if self._keep is None else self._chosen(self._keep, items), taken=len(items))
            if handed_over >= WAKE_EVERY:
                self._fanout.wake()
                handed_over = 0
        self._fanout.save()
        self._fanout.keep_within_bounds()
        self._fanout.wake()
        return last

    def _next(self, most: int) -> list[Any]:
        """The next items in the queue, up to a mark. They stay there."""
        items: list[Any] = []
        for place in range(most):  # not by iterating: other threads append meanwhile
            item = self._intake[place]
            if isinstance(item, Barrier):
                break
            items.append(item)
        return items

    def _chosen(self, keep: Callable[[Any], Sequence[Item] | None], items: Iterable[Any]) -> list[Any]:
        """What can go out now that these have come."""
        ready: list[Any] = []
        for item in items:
            chosen = keep(item)
            ready += (NOT_PREPARED,) if chosen is None else chosen
        return ready

    def _pass_barrier(self, barrier: Barrier) -> None:
        if barrier.closing and self._keeping is not None:
            self._hand_over(self._keeping.close(), taken=0)
        self._tell_overflow()
        self._fanout.put_barrier(barrier)
        self._intake.popleft()

    def _tell_overflow(self) -> None:
        with self._fanout.moving:
            self._overflow.tell()

    def _hand_over(self, items: Iterable[Any], *, taken: int) -> None:
        """Make items fit for every backend, and give them to all; so many are taken out of the queue with that."""
        finished = [item if item is NOT_PREPARED else self._finish(item) or NOT_PREPARED for item in items]
        lost = 0 if self._keeping is None else self._keeping.take_lost()
        with self._fanout.moving:
            self._fanout.put([item for item in finished if not isinstance(item, Dropped)])
            for dropped, number in Counter(item for item in finished if isinstance(item, Dropped)).items():
                self._fanout.drop(dropped.reason, number, dropped.kinds)
            if lost:
                self._fanout.drop("keep_full", lost, SPAN)
            for _ in range(taken):  # only now: until then they count as queued
                self._intake.popleft()
        self._fanout.save(SPOOL_BATCH)


_pipelines: weakref.WeakSet[Pipeline] = weakref.WeakSet()


def _reset_all_after_fork() -> None:
    for pipeline in list(_pipelines):
        pipeline.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all_after_fork)
