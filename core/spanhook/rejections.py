"""What the program gave that can't be used: logged, counted, and with `[tracing] strict` raised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from spanhook.guard import Guard
from spanhook.processes import Lock

MAX_SHOWN_CHARS = 300  # of what is wrong


class Rejections:
    """Lets checks say no to the program. Safe on any thread.

    Args:
        guard: for values of the program's that raise when a check looks at them.
        strict: whether the program gets the ValueError.
    """

    def __init__(self, guard: Guard, *, strict: bool) -> None:
        self._guard = guard
        self._strict = strict
        self._lock = Lock()
        self._counts: Counter[str] = Counter()

    def accepts(self, what: str, work: Callable[..., object], *arguments: Any) -> bool:
        """Do `work`; a ValueError from it means that the program gave something wrong.

        Returns whether it was done; False, too, where `work` returns that.

        Raises:
            ValueError: that of `work`, with `strict`.
        """
        outcome = self._guard.call(what, _outcome, work, arguments)
        if isinstance(outcome, ValueError):
            self.reject(what, outcome)
        return outcome is True

    def reject(self, what: str, wrong: ValueError) -> None:
        """Say no.

        Raises:
            ValueError: `wrong`, with `strict`.
        """
        with self._lock.here:
            self._counts[what] += 1
        if self._strict:
            raise wrong
        problem = self._guard.clean(wrong)[:MAX_SHOWN_CHARS]  # in this order: half a secret is not known as one
        self._guard.warn("%s: rejected: %s", what, problem if self._guard.content else problem.partition(", not ")[0])

    def counts(self) -> dict[str, int]:
        """How often, by what was called."""
        with self._lock.here:
            return dict(self._counts)


def _outcome(work: Callable[..., object], arguments: tuple[Any, ...]) -> bool | ValueError:
    try:
        return work(*arguments) is not False
    except ValueError as wrong:
        return wrong
