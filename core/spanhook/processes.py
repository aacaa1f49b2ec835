"""What forked and spawned processes need: locks that are free, to know that they were forked, an exit that is heard."""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.util
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

FORK_PATIENCE_S = 1.0


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

_changed = threading.Condition()
_inside: list[int] = []  # threads in the middle of something
_forking: list[int] = []  # threads that are about to fork


@contextmanager
def without_forks() -> Iterator[None]:
    """A `with` block in the middle of which the process is not forked; on any thread.

    What one thread holds when another one forks stays locked in the child for ever: a file that it writes to, a log
    handler. A fork waits until such blocks are over, and they wait for a fork that has begun; no longer than a second.
    """
    me = threading.get_ident()
    with _changed:
        if me not in _inside:
            _changed.wait_for(lambda: _has_no_other(_forking), FORK_PATIENCE_S)
        _inside.append(me)
    try:
        yield
    finally:
        with _changed:
            _inside.remove(me)
            _changed.notify_all()


def _has_no_other(threads: list[int]) -> bool:
    return set(threads) <= {threading.get_ident()}


def _before_fork() -> None:
    with _changed:
        _forking.append(threading.get_ident())
        _changed.wait_for(lambda: _has_no_other(_inside), FORK_PATIENCE_S)


def _after_fork_in_parent() -> None:
    with _changed:
        _forking.remove(threading.get_ident())
        _changed.notify_all()


forks = 0
"""How many forks lie between this process and the one that imported Spanhook."""


def call_at_exit(owner: Any, callback: Callable[[], object]) -> None:
    """Call `callback` when this process ends, and when a process ends that `multiprocessing` makes of it.

    Workers of `multiprocessing` leave out what `atexit` has; they run its own finalizers instead.

    Args:
        owner: for whose life in a forked worker it holds.
        callback: a bound method of `owner`; after `atexit.unregister(callback)` nothing here keeps that alive.
    """
    atexit.register(callback)
    name = callback.__name__
    if multiprocessing.parent_process() is not None:
        _at_worker_exit(owner, name)
    multiprocessing.util.register_after_fork(owner, lambda forked: _at_worker_exit(forked, name))


def _at_worker_exit(owner: Any, name: str) -> None:
    known = weakref.ref(owner)

    def finish() -> None:
        if (still := known()) is not None:
            getattr(still, name)()

    multiprocessing.util.Finalize(None, finish, exitpriority=0)


def _after_fork_in_child() -> None:
    global forks, _changed
    forks += 1
    _changed = threading.Condition()
    _forking.clear()
    _inside[:] = [thread for thread in _inside if thread == threading.get_ident()]  # the others are not here
    for lock in list(_locks):
        lock.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
