"""Trying until it works, or until nobody wants it any more."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Literal, NamedTuple

logger = logging.getLogger("spanhook")

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 2.0

Outcome = Literal["delivered", "refused", "unreachable", "unknown"]


class NotDelivered(RuntimeError):  # noqa: N818 - it reads as what happened
    """Raindrop has not got what it was to get. The message says why.

    Args:
        is_final: whether anything else would fare the same.
    """

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


class Attempt(NamedTuple):
    """What became of one request. "unknown": there is no telling."""

    outcome: Outcome
    reason: str = ""
    status: int | None = None  # the HTTP status of a refusal

    @property
    def is_key_refused(self) -> bool:
        """Whether nothing else will be taken either."""
        return self.status in (401, 403)


class Retries:
    """Repeats what could not reach Raindrop, with pauses, until it is closed. For one thread at a time."""

    def __init__(self) -> None:
        self._closing = threading.Event()
        self._is_down = False

    def run(self, attempt: Callable[[], Attempt]) -> Attempt:
        """Attempt once and, as long as Raindrop can't be reached, again.

        Raises:
            NotDelivered: it was closed before Raindrop could be reached.
        """
        pause_s = FIRST_PAUSE_S
        while (made := attempt()).outcome == "unreachable":
            if not self._is_down:
                self._is_down = True
                logger.warning("backend raindrop: not reachable, will try again: %s", made.reason)
            if self._closing.wait(pause_s):
                raise NotDelivered(f"not reachable: {made.reason}", is_final=True)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        if self._is_down and made.outcome == "delivered":
            self._is_down = False
            logger.warning("backend raindrop: reachable again")
        return made

    def close(self) -> None:
        """Repeat nothing from now on. On any thread."""
        self._closing.set()
