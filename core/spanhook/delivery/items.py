"""What travels through the queues."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spanhook.delivery.bell import Bell
from spanhook.delivery.timeouts import seconds_until
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

    def __init__(self, told: Mapping[str, int], timeout_s: float, *, closing: bool, patient: bool) -> None:
        self.told = told
        self.closing = closing
        self.patient = patient
        self._deadline = time.monotonic() + timeout_s
        self._awaited = len(told)
        self._answers: list[bool] = []
        self._lock = threading.RLock()
        self._done = Bell()

    def remaining_s(self) -> float:
        """Seconds until the caller stops waiting."""
        return seconds_until(self._deadline)

    def answer(self, delivered: bool, workers: int = 1) -> None:
        """A worker's word, or that of several: whether all that it had accepted is delivered."""
        with self._lock:
            self._answers += [delivered] * workers
        self._done.ring()

    def is_answered(self) -> bool:
        """Whether all workers have reached it."""
        return len(self._answers) >= self._awaited

    def wait(self, timeout_s: float) -> bool:
        """Wait for the workers. True only if each of them answered, and with True."""
        deadline = time.monotonic() + timeout_s
        while not self.is_answered() and self._done.wait(seconds_until(deadline)):
            pass
        self._done.ring()  # others may wait for the same
        return self.is_answered() and all(self._answers)


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

    @property
    def is_kept(self) -> bool:
        """Whether a later process finds it in the spool."""
        return self.file is not None and self.file.keeps(self.id)
