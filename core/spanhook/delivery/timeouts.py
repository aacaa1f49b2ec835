"""Seconds that somebody waits at most."""

from __future__ import annotations

import threading
import time
from numbers import Real
from typing import Any

from spanhook.guard import Guard

DEFAULT_S = 5.0
LONGEST_S = min(threading.TIMEOUT_MAX, 1e9)  # what every system can wait for


def seconds(what: str, given: Any, guard: Guard) -> float:
    """The timeout that a program has given; what is no number is refused, which is said, and the default taken."""
    if isinstance(given, Real) and given == given:  # NaN is not
        return max(0.0, float(given)) if given < LONGEST_S else LONGEST_S
    shown = given if given is None or isinstance(given, Real) else f"a {type(given).__name__}"
    guard.refuse(what, f"timeout must be a number of seconds, not {shown}; {DEFAULT_S} is taken")
    return DEFAULT_S


def seconds_until(deadline: float) -> float:
    """How long it is until a time of `time.monotonic`."""
    return min(max(0.0, deadline - time.monotonic()), LONGEST_S)
