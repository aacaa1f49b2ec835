"""What travels through the queues."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spanhook.span import Signal, Span, Trait

if TYPE_CHECKING:
    from spanhook.delivery.spool_file import SpoolFile


@dataclass(slots=True, frozen=True)
class Identity:
    """What the program said of a user."""

    user_id: str
    traits: Mapping[str, Trait]


class Barrier:
    """A mark in the queues: a worker that reaches it has handled everything that was accepted before it.

    Args:
        told: by backend, how many lost items earlier marks had told of when this one was made.
        timeout_s: how long the caller waits.
        closing: whether the workers end behind it.
        patient: whether a closing one's time is used to offer again what a backend can't deliver now.
    """

    __slots__ = ("_answers", "_awaited", "_deadline", "_done", "_lock", "closing", "patient", "told")

    def __init__(self, told: Mapping[str, int], timeout_s: float, *, closing: bool, patient: bool = False) -> None:
        self.told = told
        self.closing = closing
        self.patient = patient
        self._deadline = time.monotonic() + timeout_s
        self._awaited = len(told)
        self._answers: list[bool] = []
        self._lock = threading.Lock()
        self._done = threading.Event()
        if not told:
            self._done.set()

    def remaining_s(self) -> float:
        """Seconds until the caller stops waiting."""
        return min(max(0.0, self._deadline - time.monotonic()), threading.TIMEOUT_MAX)

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

SPAN, IDENTITY, SIGNAL = 1, 2, 4  # bits: the kinds that a backend takes are their sum
ALL_KINDS = SPAN | IDENTITY | SIGNAL
HOOKS = {SPAN: "emit", IDENTITY: "identify", SIGNAL: "track_signal"}


def kind_of(item: Item) -> int:
    """Which of the three."""
    return SPAN if isinstance(item, Span) else IDENTITY if isinstance(item, Identity) else SIGNAL


@dataclass(slots=True, frozen=True)
class Dropped:
    """Stands for an item that goes no further."""

    reason: str
    kinds: int = ALL_KINDS  # of which it may have been


NOT_PREPARED = Dropped("not_prepared")
TRACE_FULL = Dropped("trace_full", SPAN)


@dataclass(slots=True, eq=False)
class Entry:
    """An item in the queues; the backends' queues share it, and nobody changes it."""

    item: Item
    bytes: int
    file: SpoolFile | None = None  # that has it, under this id
    id: int = 0
