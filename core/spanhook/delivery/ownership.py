"""Whose a file of the spool is: the process's that holds an OS lock on it, as long as that lives."""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing tells whether a file's owner is alive, so nobody takes one over
    fcntl = None  # type: ignore[assignment]

open_paths: set[Path] = set()
"""What this process has open. To open such a file once more, and to close that, would drop SQLite's locks on it."""


def is_left_behind(path: Path) -> bool:
    """Whether a file's owner is dead. A file that can't be opened has to be looked into, too: that says why."""
    try:
        fd = lock_of_the_dead(path)
    except OSError:
        return True
    if fd is not None:
        os.close(fd)
    return fd is not None


def lock_of_the_dead(path: Path) -> int | None:
    """The descriptor of a file that nobody owns, locked for us.

    Raises:
        OSError: it can't be opened: it is another user's, or none, or this process has too many files open.
    """
    if fcntl is None or path in open_paths:
        return None
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:  # another process was quicker
        return None
    if lock(fd, path):
        return fd
    os.close(fd)
    return None


def lock(fd: int, path: Path) -> bool:
    """Lock a file that was opened; False if another has it, or has removed it meanwhile."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return is_still(fd, path)


def is_still(fd: int, path: Path) -> bool:
    """Whether a path is that of a file that was opened."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False
