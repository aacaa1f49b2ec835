"""What forked and spawned processes need: locks that are free, to know that they were forked, an exit that is heard."""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.util
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any


class Lock:
    """A re-entrant lock that is free in a forked child, whoever held it in the parent: `with lock.here:`."""

    __slots__ = ("__weakref__", "here")

    def __init__(self) -> None:
        self.here = threading.RLock()  # Python's own, as a class around it would cost more than all it does
        _locks.add(self)

    def reset(self) -> None:
        """Forget who holds it."""
        self.here = threading.RLock()


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()

forks = 0
"""How many forks lie between this process and the one that imported Spanhook."""


def call_at_exit(owner: Any, callback: Callable[[], object]) -> None:
    """Call `callback` when this process ends, and when a process ends that `multiprocessing` makes of it.

    Workers of `multiprocessing` leave out what `atexit` has; they run its own finalizers instead.

    Args:
        owner: for whose life in a forked worker it holds.
        callback: a bound method of `owner`.
    """
    atexit.register(callback)
    if multiprocessing.parent_process() is not None:
        multiprocessing.util.Finalize(None, callback, exitpriority=0)
    multiprocessing.util.register_after_fork(
        owner, lambda _: multiprocessing.util.Finalize(None, callback, exitpriority=0)
    )


def _after_fork() -> None:
    global forks
    forks += 1
    for lock in list(_locks):
        lock.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
