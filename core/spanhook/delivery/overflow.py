"""What found the intake full: counted by the program's threads, and told to the backends' workers later."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from spanhook.delivery.stats import BackendStats

REASON = "queue_full"


class Overflow:
    """Counts items that were dropped before any worker knew of them.

    A program's thread takes no worker's lock: its holder may be waiting for Python's own, and that takes milliseconds.

    Args:
        drop: tells all workers of a reason and a number.
    """

    def __init__(self, drop: Callable[[str, int], None]) -> None:
        self._drop = drop
        self._number = 0
        self._adding = threading.RLock()

    def add(self) -> None:
        """One more, on the program's thread."""
        with self._adding:
            self._number += 1

    def tell(self) -> None:
        """Let the workers count, and say, what there is. While nobody asks for the counts."""
        if number := self._number:
            self._drop(REASON, number)
            with self._adding:
                self._number -= number

    def added_to(self, stats: BackendStats) -> BackendStats:
        """A worker's counts with what it doesn't know yet."""
        if not (number := self._number):
            return stats
        dropped = {**stats.dropped, REASON: stats.dropped.get(REASON, 0) + number}
        return replace(stats, accepted=stats.accepted + number, dropped=dropped)
