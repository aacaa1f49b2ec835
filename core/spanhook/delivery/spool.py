"""The spool: finished items on disk until every backend has them, so that neither a crash nor an outage loses any."""

from __future__ import annotations

import logging
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spanhook.delivery.items import Entry, Item
from spanhook.delivery.ownership import is_left_behind
from spanhook.delivery.sizes import size_of
from spanhook.delivery.spool_file import SUFFIX, SpoolFile
from spanhook.guard import Guard, say, warn
from spanhook.processes import without_forks

if TYPE_CHECKING:
    from spanhook.config import DeliverySettings

LOOK_EVERY_S = 60.0
_DAY_NS = 86_400 * 10**9

Add = Callable[[SpoolFile], None]
Forget = Callable[[SpoolFile, int, str], None]


def check(folder: Path) -> str:
    """Make the folder, for its user only. Why it can't be the spool's; empty if it can."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return f"can't be written: {error.strerror or type(error).__name__}; give a directory that can"


class Spool:
    """This process's files in the folder. Used by the intake thread; a file is used by the backends' threads, too.

    Args:
        settings: `spool` is not None.
        backends: by name, the kinds of items that each of them takes.
        guard: counts what goes wrong.
    """

    def __init__(self, settings: DeliverySettings, backends: Mapping[str, int], guard: Guard) -> None:
        assert settings.spool is not None
        self._folder = settings.spool
        self._max_bytes = settings.spool_bytes
        self._max_age_ns = int(settings.spool_days * _DAY_NS)
        self._backends = backends
        self._guard = guard
        self._own: SpoolFile | None = None
        self._taken_over: list[SpoolFile] = []
        self._looked_at: float | None = None
        self._looked_into: set[Path] = set()

    @property
    def files(self) -> list[SpoolFile]:
        """Those in use, oldest first."""
        return [file for file in (*self._taken_over, self._own) if file is not None and file.is_open]

    def is_anything_left_behind(self) -> bool:
        """Whether a process that is dead has left something."""
        return any(is_left_behind(path) for path in self._paths())

    def look(self, add: Add, forget: Forget) -> None:
        """Once a minute: take over what dead processes have left, let go of what is done, delete what is too old."""
        now = time.monotonic()
        if self._looked_at is not None and now < self._looked_at + LOOK_EVERY_S:
            return
        self._looked_at = now
        for file in self._taken_over:
            with self._setting_aside(file):
                if not any(self._left_for_us(file)):
                    file.close()
        self._taken_over = [file for file in self._taken_over if file.is_open]
        for path in self._paths():
            if path not in self._looked_into:
                self._take_over(path, add)
        for file in self.files:
            with self._setting_aside(file):
                self._delete(file, file.older_than(time.time_ns() - self._max_age_ns), "spool_expired", forget)

    def save(self, items: Sequence[Item]) -> list[Entry]:
        """Write items before any backend gets them. What can't be written is in memory only, and that is said."""
        try:
            if self._own is None or not self._own.is_open:
                with without_forks():  # until it is known to be the parent's
                    self._own = SpoolFile.create(self._folder, self._backends)
            return self._own.append(items)
        except (OSError, sqlite3.Error, ValueError) as error:  # ValueError: something that can't be JSON
            self._guard.report(f"spool: writing into {self._folder}", error)
            return [Entry(item, size_of(item)) for item in items]

    def keep_within_bounds(self, forget: Forget) -> None:
        """Delete the oldest of what is too much; `forget` counts what a backend has not got yet."""
        excess = sum(file.bytes for file in self.files) - self._max_bytes
        if excess <= 0:
            return
        excess += self._max_bytes // 20  # not for each item anew
        for file in self.files:
            if excess > 0 and (before := file.bytes):
                with self._setting_aside(file):
                    self._delete(file, file.oldest(excess), "spool_full", forget)
                excess -= before - file.bytes

    def close(self) -> None:
        """Let the files go; those with something in them stay for a later process."""
        for file in self.files:
            file.close()

    def reset_after_fork(self) -> None:
        """In a forked child: the files are the parent's."""
        for file in self.files:
            file.abandon()
        self._own, self._taken_over, self._looked_at = None, [], None

    def _paths(self) -> list[Path]:
        try:
            return sorted(self._folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime)
        except OSError:  # one of them was removed in this moment
            return sorted(self._folder.glob(f"*{SUFFIX}"))

    def _delete(self, file: SpoolFile, upto: int, reason: str, forget: Forget) -> None:
        if upto > 0:
            forget(file, upto, reason)
            file.forget(upto)

    def _take_over(self, path: Path, add: Add) -> None:
        try:
            with without_forks():
                file = SpoolFile.take_over(path)
                if file is None:
                    return
                self._taken_over.append(file)
        except (OSError, sqlite3.Error) as error:
            warn("spool: %s can't be read: %s", path, error)
            self._looked_into.add(path)
            return
        self._looked_into.add(path)  # once: what is left in it then is not for us
        with self._setting_aside(file):
            for backend, (kinds, done) in file.progress().items():
                if backend not in self._backends and (count := file.count(kinds, done, file.newest)):
                    warn(_STAYS, count, backend, path, f"{self._max_age_ns / _DAY_NS:g}")
            if count := max(self._left_for_us(file), default=0):
                say(logging.INFO, "spool: delivering %d spans and signals that an earlier process has left", count)
            add(file)

    def _left_for_us(self, file: SpoolFile) -> list[int]:
        return [
            file.count(kinds & self._backends[backend], done, file.newest)
            for backend, (kinds, done) in file.progress().items()
            if backend in self._backends
        ]

    @contextmanager
    def _setting_aside(self, file: SpoolFile) -> Iterator[None]:
        """A file that can't be used is set aside."""
        try:
            yield
        except sqlite3.Error as error:
            file.set_aside(error)


_STAYS = "spool: %d items are for backend %s, which is not configured here; they stay in %s until they are %s days old"
