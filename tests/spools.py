"""Programs with a spool: their tracer, what they leave, and what is in the folder."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from doubles import Memory, tracer_of, wait_for
from spanhook import RetryLater, Span, Tracer
from threads import end_of_all


class Switched(Memory):
    """A backend that can be reached while `is_up` is set."""

    def __init__(self, *, is_up: bool = False) -> None:
        super().__init__(self._check)
        self.is_up = threading.Event()
        self.tries = 0
        if is_up:
            self.is_up.set()

    def _check(self, _: Sequence[Span]) -> None:
        self.tries += 1
        if not self.is_up.is_set():
            raise RetryLater("down")


def spooling(folder: Path, *backends: Any, **delivery: Any) -> Tracer:
    delivery = {"interval_s": 0.001, "spool": str(folder), **delivery}
    return tracer_of(*backends, delivery=delivery)


def spans(tracer: Tracer, *names: str, **inputs: Any) -> None:
    for name in names:
        with tracer.span(name, **inputs):
            pass


def leave(tracer: Tracer) -> None:
    """Shut down while a backend is down: at once when the spool has everything, where it stays."""
    wait_for(lambda: all(stats.queued == stats.spooled for stats in tracer.stats().backends.values()))
    assert tracer.shutdown(0.2) is False
    end_of_all()


def files(folder: Path, ending: str = ".db") -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.endswith(ending))


def rows(path: Path) -> list[Any]:
    database = sqlite3.connect(path)
    try:
        return database.execute("SELECT id, body FROM items ORDER BY id").fetchall()
    finally:
        database.close()


def left_behind(folder: Path, *names: str) -> Path:
    """What a process has left there: one file, with these spans."""
    first = spooling(folder, Switched())
    spans(first, *names)
    leave(first)
    (path,) = files(folder)
    return path


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """A file of the spool, as another program opens it."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def failing(monkeypatch: pytest.MonkeyPatch, of: type, method: str, message: str) -> threading.Event:
    """Have a method raise an error of the disk until the event is set."""
    works, real = threading.Event(), getattr(of, method)

    def fail(*arguments: Any) -> Any:
        if not works.is_set():
            raise sqlite3.OperationalError(message)
        return real(*arguments)

    monkeypatch.setattr(of, method, fail)
    return works
