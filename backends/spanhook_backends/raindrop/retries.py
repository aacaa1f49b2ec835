"""Trying until it works, or until nobody wants it any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal, NamedTuple

from spanhook import RetryLater, Span, SpanhookError

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 2.0
LOOK_EVERY_S = 0.25

Outcome = Literal["delivered", "refused", "unreachable", "unknown"]
Holds = Callable[[Span], bool]  # whether something is made of this span


class NotDelivered(SpanhookError):  # noqa: N818 - it reads as what happened
    """Raindrop has not got what it was to get. The message says why.

    Args:
        lost: for each thing that was refused, which spans it was made of.
        is_final: whether anything else would fare the same.
    """

    def __init__(self, message: str, *, lost: Sequence[Holds] = (), is_final: bool = False) -> None:
        super().__init__(message)
        self.lost = lost
        self.is_final = is_final


class Attempt(NamedTuple):
    """What became of one request. "unknown": there is no telling."""

    outcome: Outcome
    reason: str = ""
    status: int | None = None  # the HTTP status of a refusal

    @property
    def advice(self) -> str:
        """What to do, if nothing else will be taken either; else nothing."""
        if self.status in (401, 403):
            return "check api_key and project_id"
        is_redirect = self.status is not None and 300 <= self.status < 400
        return "a redirect; set endpoint to where Raindrop is" if is_redirect else ""


class Retries:
    """Repeats what could not reach Raindrop, with pauses, until it is closed. For one thread at a time.

    Attributes:
        trouble: why Raindrop can't be reached; empty if it can. On any thread.
        is_exit: whether the interpreter exits: then nothing is repeated here.
    """

    def __init__(self) -> None:
        self.trouble = ""
        self.is_exit = False
        self._closing = threading.Event()

    def run(self, attempt: Callable[[], Attempt]) -> Attempt:
        """Attempt once and, as long as Raindrop can't be reached, again.

        Raises:
            NotDelivered: it was closed before Raindrop could be reached.
            RetryLater: the interpreter exits, and Raindrop can't be reached.
        """
        pause_s = FIRST_PAUSE_S
        while (made := attempt()).outcome == "unreachable":
            self.trouble = made.reason
            if self.is_exit:
                raise RetryLater(made.reason)
            if self._closing.wait(pause_s):
                raise NotDelivered(f"not reachable: {made.reason}", is_final=True)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        self.trouble = ""
        return made

    def close(self) -> None:
        """Repeat nothing from now on. On any thread."""
        self._closing.set()


class Outlasting:
    """Does what may take as long as an outage on a thread of its own, so that the tracer's thread is free meanwhile."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self._work: Work | None = None

    def run(self, given: object, work: Callable[[], None]) -> None:
        """Do `work` with what was given, and wait for it. Raises what it raises.

        Raises:
            RetryLater: Raindrop can't be reached. It goes on; call again, with the same object, to wait for it.
        """
        if self._work is None or self._work.given is not given:
            self._work = Work(given, work)
            thread = threading.Thread(target=self._work.run, name="spanhook-raindrop-send", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter exits and lets nobody start a thread
                self._retries.is_exit = True
                self._work.run()
        while not self._work.done.wait(LOOK_EVERY_S):
            if self._retries.trouble:
                raise RetryLater(self._retries.trouble, after_s=LOOK_EVERY_S)
        done, self._work = self._work, None
        if done.error is not None:
            raise done.error


class Work:
    """Something that is being done; `error` is what it raised when it is done."""

    def __init__(self, given: object, work: Callable[[], None]) -> None:
        self.given = given
        self.done = threading.Event()
        self.error: BaseException | None = None
        self._work = work

    def run(self) -> None:
        """Do it. On any thread, which it does not end."""
        with self:
            self._work()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.error = error
        self.done.set()
        return True
