"""When to ask a backend again that can't take anything now."""

from __future__ import annotations

import random
from typing import NamedTuple

from spanhook.errors import RetryLater
from spanhook.guard import Guard, message_of, one_line

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
LONGEST_ASKED_S = 300.0  # whatever a server asks for


class Pause(NamedTuple):
    """How long to wait before the next attempt, and whether that was asked for."""

    seconds: float
    is_asked: bool


class Outage:
    """Whether a backend can be reached, as its hooks say; logs when that changes, once. For one thread.

    Args:
        label: the backend's, for messages.
        guard: takes out of the reason what the user's settings say: a server's answer may be in it.
    """

    def __init__(self, label: str, guard: Guard) -> None:
        self._label = label
        self._guard = guard
        self._is_down = False
        self._pause_s = FIRST_PAUSE_S

    def pause(self, error: RetryLater) -> Pause:
        """After an attempt in vain: what the error asks for, or ever longer pauses."""
        if not self._is_down:
            self._is_down = True
            reason = one_line(message_of(error), self._guard.clean)
            self._guard.warn("%s: not reachable, will try again: %s", self._label, reason)
        if error.after_s is not None:  # in this order NaN becomes the shortest
            return Pause(min(max(FIRST_PAUSE_S, error.after_s), LONGEST_ASKED_S), is_asked=True)
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        return Pause(pause_s * random.uniform(0.75, 1.0), is_asked=False)  # many processes don't come back at once

    def over(self) -> None:
        """After an attempt that went well."""
        self._pause_s = FIRST_PAUSE_S
        if self._is_down:
            self._is_down = False
            self._guard.warn("%s: reachable again", self._label)
