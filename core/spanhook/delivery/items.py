"""What travels through the queues."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from spanhook.span import Signal, Span, Trait


@dataclass(slots=True, frozen=True)
class Identity:
    """What the program said of a user."""

    user_id: str
    traits: Mapping[str, Trait]


class Barrier:
    """A mark in the queues: a worker that reaches it has handled everything that was accepted before it."""

    __slots__ = ("_answers", "_awaited", "_done", "_lock", "closing", "deadline")

    def __init__(self, workers: int, deadline: float, *, closing: bool) -> None:
        self.deadline = deadline  # on time.monotonic()
        self.closing = closing
        self._awaited = workers
        self._answers: list[bool] = []
        self._lock = threading.Lock()
        self._done = threading.Event()
        if not workers:
            self._done.set()

    def remaining_s(self) -> float:
        """Seconds until the caller stops waiting."""
        return max(0.0, self.deadline - time.monotonic())

    def answer(self, delivered: bool) -> None:
        """A worker's word: whether all that it had accepted is delivered."""
        with self._lock:
            self._answers.append(delivered)
            if len(self._answers) == self._awaited:
                self._done.set()

    def wait(self) -> bool:
        """Wait for the workers until the deadline. True only if each of them answered, and with True."""
        return self._done.wait(self.remaining_s()) and all(self._answers)


Item = Span | Identity | Signal
