"""The spool: finished items on disk until every backend has them, so that neither a crash nor an outage loses any."""

from __future__ import annotations

import logging
import os
import sqlite3
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spanhook.delivery.items import Entry, Item
from spanhook.delivery.ownership import is_left_behind
from spanhook.delivery.sizes import size_of
from spanhook.delivery.spool_file import Gone, SpoolFile
from spanhook.delivery.spool_paths import SUFFIX
from spanhook.delivery.spool_tables import is_damage
from spanhook.guard import Guard, say
from spanhook.processes import without_forks

if TYPE_CHECKING:
    from spanhook.config.settings import DeliverySettings

LOOK_EVERY_S = 60.0
MAX_TAKEN_OVER = 8  # files at a time; each has four descriptors open
NEXT_FILES_S = 0.2  # how soon others follow those that are done
_DAY_NS = 86_400 * 10**9

Add = Callable[[SpoolFile], int]
Forget = Callable[[SpoolFile, Gone, str], None]


def check(folder: Path) -> str:
    """Make the folder, for its user only. Why it can't be the spool's; empty if it can."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return f"can't be written: {error.strerror or type(error).__name__}; give a directory that can"
    except UnicodeEncodeError as error:
        return f"can't be written: this process has {error.encoding} names only; set PYTHONUTF8=1, or give another name"
    except ValueError:  # a null character
        return "can't be the name of a directory"


class Spool:
    """This process's files in the folder. Used by the intake thread; a file is used by the backends' threads, too.

    Args:
        settings: `spool` is not None.
        backends: by name, the kinds of items that each of them takes.
        guard: counts what goes wrong.
    """

    def __init__(self, settings: DeliverySettings, backends: Mapping[str, int], guard: Guard) -> None:
        assert settings.spool is not None
        self._folder = Path(os.path.abspath(settings.spool))  # the program may go to another directory
        self._max_bytes = settings.spool_bytes
        self._days = settings.spool_days
        self._backends = backends
        self._guard = guard
        self._begin()

    def _begin(self) -> None:
        self._own: SpoolFile | None = None
        self._taken_over: list[SpoolFile] = []
        self._found: deque[Path] = deque()  # oldest first; some of them may be taken over, when there is room
        self._looked_at: float | None = None
        self._looked_into: set[Path] = set()

    @property
    def files(self) -> list[SpoolFile]:
        """Those in use, oldest first."""
        return [file for file in (*self._taken_over, self._own) if file is not None and file.is_open]

    @property
    def look_again_s(self) -> float:
        """How long nobody has to `look`."""
        return NEXT_FILES_S if self._found else LOOK_EVERY_S

    def is_anything_left_behind(self) -> bool:
        """Whether a process that is dead has left something."""
        return any(is_left_behind(path) for path in self._paths())

    def look(self, add: Add, forget: Forget) -> None:
        """Let go of what is done, and take over what dead processes have left; once a minute delete what is too old."""
        self.notice_removed()
        for file in self._taken_over:
            if not file.is_waiting_for(self._backends):
                file.close()
        self._taken_over = [file for file in self._taken_over if file.is_open]
        now = time.monotonic()
        is_due = self._looked_at is None or now >= self._looked_at + LOOK_EVERY_S
        if is_due:
            self._looked_at = now
            self._found = deque(path for path in self._paths() if path not in self._looked_into)
            for file in self.files:
                with self._using(file):
                    file.tidy()  # it may not have been possible before
                self._expire(file, forget)
        while self._found and len(self._taken_over) < MAX_TAKEN_OVER:
            self._take_over(self._found.popleft(), add, forget)

    def save(self, items: Sequence[Item]) -> list[Entry]:
        """Write items before any backend gets them. What can't be written is in memory only, and that is said."""
        entries = self._guard.call(f"spool: writing into {self._folder}", self._write, items)
        return [Entry(item, size_of(item)) for item in items] if entries is None else entries

    def keep_within_bounds(self, forget: Forget) -> None:
        """Delete the oldest of what is too much; `forget` counts what a backend has not got yet."""
        excess = sum(file.bytes for file in self.files) - self._max_bytes
        if excess <= 0:
            return
        excess += self._max_bytes // 20  # not for each item anew
        for file in self.files:
            if excess > 0 and (before := file.bytes):
                with self._using(file):
                    self._delete(file, file.oldest(excess), "spool_full", forget)
                excess -= before - file.bytes

    def notice_removed(self) -> None:
        """Say that somebody has removed a file that is in use; what is in it is delivered, and a new one begun."""
        for file in self.files:
            if file.notice_removal():
                self._guard.warn(
                    "spool: %s was removed while it was in use; what is in it does not outlast this process", file.path
                )
        if self._own is not None and self._own.is_lost:  # it may have been set aside, too
            self._taken_over.append(self._own)
            self._own = None

    def close(self) -> None:
        """Let the files go; those with something in them stay for a later process."""
        for file in self.files:
            file.close()

    def reset_after_fork(self) -> None:
        """In a forked child: the files are the parent's."""
        for file in self.files:
            file.abandon()
        self._begin()

    def _paths(self) -> list[Path]:
        try:
            return sorted(self._folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime)
        except OSError:  # one of them was removed in this moment
            return sorted(self._folder.glob(f"*{SUFFIX}"))

    def _write(self, items: Sequence[Item]) -> list[Entry]:
        try:
            entries, problems = self._writable().append(items)
        except sqlite3.Error as error:
            if self._own is not None and is_damage(error):
                self._own.set_aside(error, is_readable=True)
            if self._own is None or not self._own.is_lost:  # a backend's thread may have set it aside, too
                raise
            entries, problems = self._writable().append(items)
        for problem in problems:
            self._guard.report("spool: writing a single item, which is in memory only", problem)
        return entries

    def _writable(self) -> SpoolFile:
        """This process's file, a new one where there is none that can be written."""
        self.notice_removed()
        if self._own is None or not self._own.is_open:
            with without_forks():  # until it is known to be the parent's
                self._own = SpoolFile.create(self._folder, self._backends, self._guard.warn)
        return self._own

    def _expire(self, file: SpoolFile, forget: Forget) -> None:
        with self._using(file):
            self._delete(file, file.older_than(self._oldest_ns()), "spool_expired", forget)

    def _oldest_ns(self) -> int:
        """The time before which everything is too old; at most as long ago as SQLite can count."""
        return max(0, time.time_ns() - int(min(self._days * _DAY_NS, 2**62)))

    def _delete(self, file: SpoolFile, upto: int, reason: str, forget: Forget) -> None:
        if upto > 0:
            file.forget(upto, lambda gone: forget(file, gone, reason))

    def _take_over(self, path: Path, add: Add, forget: Forget) -> None:
        try:
            with without_forks():
                file = SpoolFile.take_over(path, self._guard.warn)
                if file is not None:
                    self._taken_over.append(file)
        except (OSError, sqlite3.Error) as error:  # it may be possible later
            self._guard.report(f"spool: taking over what was left in {self._folder}", error)
            return
        if file is None:
            return
        self._looked_into.add(path)  # once: what is left in it then is not for us
        with self._using(file, is_readable=False):
            for backend, (kinds, done) in file.progress.items():
                if backend not in self._backends and (count := file.count(kinds, done, file.newest)):
                    self._guard.warn(_STAYS, count, backend, path, f"{self._days:g}")
            if count := add(file):
                say(logging.INFO, "spool: delivering %d spans and signals that an earlier process has left", count)
        self._expire(file, forget)

    @contextmanager
    def _using(self, file: SpoolFile, *, is_readable: bool = True) -> Iterator[None]:
        """A damaged file is set aside. What else goes wrong with it is said once, and it is used again later."""
        try:
            yield
        except sqlite3.Error as error:
            if is_damage(error):
                file.set_aside(error, is_readable=is_readable)
            else:
                self._guard.report(f"spool: using a file in {self._folder}", error)


_STAYS = "spool: %d items are for backend %s, which is not configured here; they stay in %s until they are %s days old"
