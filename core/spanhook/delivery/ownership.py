"""Whose a file of the spool is: the process's that holds an OS lock on it, as long as that lives."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from spanhook.delivery import spool_paths
from spanhook.processes import without_forks

try:
    import fcntl
except ImportError:  # Windows: nothing tells whether a file's owner is alive, so nobody takes one over
    fcntl = None  # type: ignore[assignment]

open_paths: set[Path] = set()
"""What this process has open. To open such a file once more, and to close that, would drop SQLite's locks on it."""


def new_file(folder: Path) -> tuple[Path, int]:
    """An empty file in a folder, readable for its user only, and its descriptor, locked for us.

    Raises:
        OSError: it can't be written.
    """
    while True:
        path = spool_paths.new_path(folder)
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        if lock(fd, path):  # else another process took the file, still empty, for one that nobody owns
            return path, fd
        os.close(fd)


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


class OwnedFile:
    """A file that is locked for this process until it lets it go. Thread-safe.

    Attributes:
        is_lost: no later process finds it: it was set aside, or removed.
    """

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self.is_lost = False
        self._lock = threading.RLock()
        self._lock_fd = lock_fd
        open_paths.add(path)

    @property
    def is_owned(self) -> bool:
        """Whether it is locked still."""
        return self._lock_fd >= 0

    def notice_removal(self) -> bool:
        """Whether somebody has removed it since this was asked last. What is in it can still be read."""
        with self._alone():
            if self.is_lost or not self.is_owned or is_still(self._lock_fd, self.path):
                return False
            self.is_lost = True
            return True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """For one thread at a time, and for no fork: in the middle of anything SQLite can't be forked."""
        with without_forks(), self._lock:
            yield

    def _unlock(self) -> None:
        if self.is_owned:
            os.close(self._lock_fd)
            self._lock_fd = -1
        open_paths.discard(self.path)
