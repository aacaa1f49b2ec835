"""What became of one backend's items, and a word to the program when some are lost."""

from __future__ import annotations

import threading
import time
from collections import Counter

from spanhook.delivery.stats import BackendStats
from spanhook.guard import warn

WARN_EVERY_S = 60.0


class Counts:
    """Counts the items of one backend.

    Args:
        label: the backend's, for messages.
        lock: guards them, and the queue with them: an item is in one place at any moment. Nothing is logged while it is
            held, as a log handler of the program's may ask for the counts.
    """

    def __init__(self, label: str, lock: threading.RLock) -> None:
        self._label = label
        self._lock = lock
        self.accepted = self.delivered = self.failed = 0
        self.lost = 0  # failed or dropped
        self.lost_told = 0  # of these, how many a barrier has told of
        self._dropped: Counter[str] = Counter()
        self._unsaid: Counter[str] = Counter()
        self._said_at = -WARN_EVERY_S

    def settle(self, delivered: int, failed: int) -> None:
        """Count what the backend has taken, and what it has not."""
        with self._lock:
            self.delivered += delivered
            self.failed += failed
            self.lost += failed

    def drop(self, reason: str, number: int, *, accepted: int = 0, say: bool = True) -> None:
        """Count items that will not be delivered; so many of them were not counted as accepted yet."""
        with self._lock:
            self.accepted += accepted
            self.lost += number
            self._dropped[reason] += number
            if say:
                self._unsaid[reason] += number

    def say(self) -> None:
        """Log what was dropped, at most once a minute."""
        now = time.monotonic()
        with self._lock:
            if not self._unsaid.total() or now - self._said_at < WARN_EVERY_S:
                return
            said, self._unsaid, self._said_at = self._unsaid, Counter(), now
        warn(
            "%s: %s", self._label, ", ".join(f"{n} dropped ({reason.replace('_', ' ')})" for reason, n in said.items())
        )

    def stats(self, queued: int, spooled: int) -> BackendStats:
        """The counts of this moment, under the lock."""
        return BackendStats(
            accepted=self.accepted,
            delivered=self.delivered,
            queued=queued,
            spooled=spooled,
            failed=self.failed,
            dropped=dict(self._dropped),
        )
