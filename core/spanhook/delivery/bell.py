"""What one thread sleeps on until another rings."""

from __future__ import annotations

from queue import Empty, SimpleQueue


class Bell:
    """Rings may come from anywhere: a signal handler, or a finalizer that the garbage collector runs, may ring on a
    thread that is in the middle of ringing. `threading.Event` has a lock that such a thread would wait for, for ever;
    `SimpleQueue` is made for it.
    """

    __slots__ = ("_rings",)

    def __init__(self) -> None:
        self._rings: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        """Wake who waits, or who waits next."""
        if self._rings.empty():  # more than one is no more
            self._rings.put(None)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Sleep until it rings, for at most so many seconds; whether it did. The ring is over then."""
        try:
            self._rings.get(timeout=timeout_s)
        except Empty:
            return False
        return True

    def clear(self) -> None:
        """Forget what has rung."""
        while self.wait(0):
            pass
