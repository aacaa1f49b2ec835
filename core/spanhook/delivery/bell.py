"""What one thread sleeps on until another rings."""

from __future__ import annotations

import threading
from contextlib import suppress


class Bell:
    """Rings may come from anywhere: a signal handler, or a finalizer that the garbage collector runs, may ring on a
    thread that is in the middle of ringing. `threading.Event` has a lock that such a thread would wait for, for ever.
    Here is but one lock, held while the bell is silent: to ring is to release it.
    """

    __slots__ = ("_silence",)

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self.clear()

    def ring(self) -> None:
        """Wake who waits, or who waits next."""
        with suppress(RuntimeError):  # it has rung already, and more than once is no more
            self._silence.release()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Sleep until it rings, for at most so many seconds; whether it did. The ring is over then."""
        return self._silence.acquire(timeout=-1 if timeout_s is None else min(timeout_s, threading.TIMEOUT_MAX))

    def clear(self) -> None:
        """Forget what has rung."""
        self._silence.acquire(blocking=False)
