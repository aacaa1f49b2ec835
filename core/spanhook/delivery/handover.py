"""From the queue that the program's threads fill to the backends' workers: the intake thread's work."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from spanhook.delivery.fanout import SPOOL_BATCH, Fanout
from spanhook.delivery.items import NOT_PREPARED, SPAN, Barrier, Dropped, Item
from spanhook.delivery.keeping import Keeping
from spanhook.delivery.overflow import Overflow
from spanhook.guard import Guard

AT_ONCE = 100  # items that move on together
WAKE_EVERY = 500  # items, after which the workers may begin with them


class Handover:
    """Makes items fit for every backend and gives them to all. For the intake thread alone, but for `turn_away`.

    Args:
        intake: what the program's threads have put in; it is emptied.
        overflow: what found no room there.
        finish: makes an item fit.
        keeping: chooses what goes out.
    """

    def __init__(
        self,
        intake: deque[Any],
        overflow: Overflow,
        fanout: Fanout,
        finish: Callable[[Any], Item | Dropped],
        keeping: Keeping | None,
        guard: Guard,
    ) -> None:
        self._intake = intake
        self._overflow = overflow
        self._fanout = fanout
        self._finish = guard.shielded("delivery: preparing an item", finish)
        self._keeping = keeping
        self._keep = None if keeping is None else guard.shielded("delivery: choosing what to keep", keeping.take)
        self._guard = guard

    def pass_on(self) -> Barrier | None:
        """Hand what is there now over to the workers; the closing barrier if it came to that.

        What comes meanwhile is for the next time: a program may be faster than this thread, and no worker waits for it.
        """
        last: Barrier | None = None
        self._tell_overflow()
        left, handed_over = len(self._intake), 0
        while left and last is None:
            first = self._intake[0]
            if isinstance(first, Barrier):
                left -= 1
                last = first if first.closing else None
                self._pass_barrier(first)
                continue
            items = self._next(min(left, AT_ONCE))
            left, handed_over = left - len(items), handed_over + len(items)
            self._hand_over(self._prepared(items), taken=len(items))
            if handed_over >= WAKE_EVERY:
                self._fanout.wake()
                handed_over = 0
        self._fanout.save()
        if last is None:  # else what is left is said to be kept
            self._fanout.keep_within_bounds()
        self._fanout.wake()
        self._fanout.say_losses()
        return last

    def turn_away(self, reason: str) -> None:
        """Drop what is in the queue, as nothing will deliver it. On any thread, where no other is at work here."""
        with suppress(IndexError):  # another thread may be at it too
            while True:
                with self._fanout.moving:
                    item = self._intake.popleft()
                    if isinstance(item, Barrier):
                        item.answer(False, len(item.told))
                    else:
                        self._fanout.drop(reason)
        self._fanout.say_losses()

    def _next(self, most: int) -> list[Any]:
        """The next items in the queue, up to a mark. They stay there."""
        items: list[Any] = []
        for place in range(most):  # not by iterating: other threads append meanwhile
            item = self._intake[place]
            if isinstance(item, Barrier):
                break
            items.append(item)
        return items

    def _prepared(self, items: Sequence[Any]) -> list[Item | Dropped]:
        """What can go out now that these have come."""
        # Everything: a plugin that raises to end the process would end this thread alone, unseen, and all delivery.
        with self._guard("delivery: preparing items", everything=True):
            if self._keep is None:
                return [self._finish(item) or NOT_PREPARED for item in items]
            return [self._finished(item) for item in self._chosen(self._keep, items)]
        return [NOT_PREPARED] * len(items)

    def _finished(self, item: Any) -> Item | Dropped:
        return NOT_PREPARED if item is NOT_PREPARED else self._finish(item) or NOT_PREPARED

    def _chosen(self, keep: Callable[[Any], Sequence[Item] | None], items: Sequence[Any]) -> list[Any]:
        ready: list[Any] = []
        for item in items:
            chosen = keep(item)
            ready += (NOT_PREPARED,) if chosen is None else chosen
        return ready

    def _pass_barrier(self, barrier: Barrier) -> None:
        if barrier.closing and self._keeping is not None:
            kept = self._guard.call("delivery: choosing what to keep", self._keeping.close) or ()
            self._hand_over([self._finished(span) for span in kept], taken=0)
        self._tell_overflow()
        self._fanout.put_barrier(barrier)
        self._intake.popleft()

    def _tell_overflow(self) -> None:
        with self._fanout.moving:
            self._overflow.tell()
        self._fanout.say_losses()

    def _hand_over(self, prepared: Sequence[Item | Dropped], *, taken: int) -> None:
        """Give items to all; so many are taken out of the queue with that."""
        lost = 0 if self._keeping is None else self._keeping.take_lost()
        with self._fanout.moving:
            self._fanout.put([item for item in prepared if not isinstance(item, Dropped)])
            for dropped, number in Counter(item for item in prepared if isinstance(item, Dropped)).items():
                self._fanout.drop(dropped.reason, number, dropped.kinds)
            if lost:
                self._fanout.drop("keep_full", lost, SPAN)
            for _ in range(taken):  # only now: until then they count as queued
                self._intake.popleft()
        self._fanout.save(SPOOL_BATCH)
