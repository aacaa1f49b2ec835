"""The way from the program's threads to the workers."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spanhook.delivery.bell import Bell
from spanhook.delivery.fanout import Fanout
from spanhook.delivery.handover import Handover
from spanhook.delivery.items import Barrier, Dropped, Item
from spanhook.delivery.keeping import Keeping
from spanhook.delivery.overflow import Overflow
from spanhook.delivery.stats import BackendStats
from spanhook.delivery.timeouts import seconds_until
from spanhook.delivery.worker import Worker, join
from spanhook.guard import Guard
from spanhook.processes import Lock

if TYPE_CHECKING:
    from spanhook.config.settings import DeliverySettings
    from spanhook.plugins.registration import Plugin

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
        keeping: Keeping | None,
    ) -> None:
        self._workers = {plugin.name: Worker(plugin, settings, guard) for plugin in backends}
        self._limit = settings.queue_spans
        self._few = settings.queue_spans - settings.queue_spans // 4  # that need no care; 0 when it is shut down
        self._interval_s = settings.interval_s
        self._finish = finish
        self._keeping = keeping
        self._guard = guard
        self._fanout = Fanout(self._workers.values(), settings, guard)
        self._lock = Lock()  # for whoever starts, flushes or closes
        self._forked = False
        self._closed = False
        self._reset()
        _pipelines.add(self)

    def _reset(self) -> None:
        self._intake: deque[Any] = deque()
        self._overflow = Overflow(self._fanout.drop)
        self._handover = Handover(self._intake, self._overflow, self._fanout, self._finish, self._keeping, self._guard)
        self._wakeup = Bell()
        self._is_awake = False  # whether the intake thread runs, and looks at the queue by itself
        self._hurry = Bell()
        self._last: Barrier | None = None  # the one that ends the threads
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
        if self._guard.call("spool: looking for what was left", self._fanout.is_anything_left_behind):
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
            self._fanout.say_losses()
            return False
        if len(self._intake) >= self._limit:
            self._overflow.add()
            return False
        self._intake.append(item)
        self._hurry.ring()  # don't let it fill up while the intake thread waits for a batch to gather
        return self._is_awake or self._wake_up()

    def _wake_up(self) -> bool:
        """Have the intake thread look at the queue; False if it can't be started any more."""
        if self._thread is not None or self._start():
            self._is_awake = True
            self._wakeup.ring()
            return True
        if not self._closed and threading.main_thread().is_alive():
            return True  # it waits for an attempt that succeeds
        self._handover.turn_away("no_thread")
        return False

    def flush(self, timeout_s: float) -> bool:
        """Wait until every backend has handled what was accepted before, for at most `timeout_s` seconds.

        True only if all of it was delivered. A loss is told to the flushes that were waiting when it was met, or to the
        next one, and not again. What `close` has begun is what there is to wait for then, and its result.
        """
        is_running = self._thread is not None or (bool(self._intake) and self._start())
        with self._lock.here:  # nobody closes between the look and the mark
            barrier = self._last
            if barrier is None:
                if self._closed or not is_running:
                    return self._is_done()
                barrier = self._barrier(timeout_s, closing=False, patient=True)
                self._intake.append(barrier)
        self._ring()
        return barrier.wait(timeout_s) and (not barrier.closing or self._is_done())

    def close(self, timeout_s: float, *, patient: bool) -> bool:
        """Flush, shut the backends down and end the threads; later calls wait for what the first has begun.

        What a backend can't deliver then is offered again until there is no time left, or once if not `patient`.
        """
        deadline = time.monotonic() + timeout_s
        has_work = self._thread is not None or bool(self._intake)
        is_running = (has_work or not self._forked) and self._start()
        with self._lock.here:
            is_first, self._closed, self._few = not self._closed, True, 0
            # A forked child that traced nothing leaves the backends alone: what they hold is the parent's.
            if is_first and (is_running or not self._forked):
                self._last = self._barrier(timeout_s, closing=True, patient=patient)
                if is_running:
                    self._intake.append(self._last)
            last = self._last
        if is_first and not is_running:
            self._handover.turn_away("no_thread")
        if last is None:
            return self._is_done()
        if is_first and not is_running:
            for worker in self._workers.values():
                worker.close_here(last)
        last.patient = last.patient and patient
        self._ring()
        delivered = last.wait(timeout_s)
        for worker in self._workers.values():
            worker.join(seconds_until(deadline))
        join(self._thread, seconds_until(deadline))
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

    def held_back(self) -> Mapping[str, str]:
        """By backend, in words, what it may hold back of what it has taken; empty for nothing."""
        return {name: worker.held_back() for name, worker in self._workers.items()}

    def _barrier(self, timeout_s: float, *, closing: bool, patient: bool) -> Barrier:
        told = {name: worker.lost_told for name, worker in self._workers.items()}
        return Barrier(told, timeout_s, closing=closing, patient=patient)

    def _ring(self) -> None:
        """Have the intake thread look at the queue at once."""
        self._hurry.ring()
        self._wakeup.ring()

    def _is_done(self) -> bool:
        return not self._intake and all(worker.is_done() for worker in self._workers.values())

    def _start(self) -> bool:
        """Start the threads that don't run; False if that is not possible now.

        The system may have none to give, and Python 3.12 lets nobody start one while the interpreter exits.
        """
        problem = None
        with self._lock.here:
            try:
                if self._thread is None and not self._closed:
                    for worker in self._workers.values():
                        worker.start()
                    # Noted before it starts: a signal handler may raise from the middle of it, or come here again.
                    self._thread = threading.Thread(target=self._run, name="spanhook-intake", daemon=True)
                    self._thread.start()
            except RuntimeError as error:
                self._thread, problem = None, error
        if problem is not None and self._intake:
            self._guard.report("delivery: start of its threads", problem)
        return self._thread is not None

    def _run(self) -> None:
        self._is_awake = True
        last: Barrier | None = None
        idle_rounds = 0
        while last is None:
            self._fanout.look()
            if idle_rounds >= IDLE_ROUNDS:
                self._sleep()
            self._hurry.wait(self._interval_s)  # let a batch gather, unless someone waits for it
            idle_rounds = 0 if self._intake else idle_rounds + 1
            with self._guard("delivery: handing items on", everything=True):
                last = self._handover.pass_on()
        self._handover.turn_away("shut_down")
        self._fanout.close()
        self._handover.turn_away("shut_down")

    def _sleep(self) -> None:
        """Wait for the next item, when there was none for a while. Only then its thread has to wake this one.

        To wake another thread, and to hand Python's lock over to it in the middle of a call, takes longer than a span.
        """
        self._wakeup.clear()
        self._is_awake = False
        if not self._intake:  # who came before that does not wake us
            self._wakeup.wait(self._fanout.look_every_s)
        self._is_awake = True


_pipelines: weakref.WeakSet[Pipeline] = weakref.WeakSet()


def _reset_all_after_fork() -> None:
    for pipeline in list(_pipelines):
        pipeline.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all_after_fork)
