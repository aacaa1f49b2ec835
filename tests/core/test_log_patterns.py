"""The user's own `[redact] patterns` hold in what the delivery logs: servers' answers, paths, SQLite's errors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from doubles import WAIT_S, Memory, counts, one_span, tracer_of, wait_for
from spanhook import RetryLater, Tracer
from spanhook.delivery.spool_tables import Tables
from spools import Switched, database, failing, files, leave, spans, spooling

pytestmark = pytest.mark.usefixtures("short_pauses")

SECRET = "tenant-4711"


def tracing(backend: Any, folder: Path | None = None) -> Tracer:
    delivery = {"interval_s": 0.001} if folder is None else {"interval_s": 0.001, "spool": str(folder)}
    return tracer_of(backend, redact={"patterns": [r"tenant-\d+"]}, delivery=delivery)


@pytest.mark.parametrize(
    ("reason", "logged"),
    [
        (f"HTTP 503: {SECRET}\nis busy", "HTTP 503: [redacted] is busy"),
        ("x" * 495 + SECRET, "x" * 495 + "[reda"),
    ],
)
def test_why_a_backend_can_t_be_reached(reason, logged, caplog):
    """Whatever its server has answered, also where that is cut."""

    def away(_: object) -> None:
        raise RetryLater(reason)

    tracer = tracing(Memory(away))
    one_span(tracer)
    wait_for(lambda: caplog.messages)
    assert caplog.messages == [f"backend a: not reachable, will try again: {logged}"]
    tracer.shutdown(0)


def leave_files(folder: Path) -> None:
    """One for a backend that is not there, one of another release, and one that is none."""
    first = spooling(folder, Memory(), Switched())
    spans(first, "1")
    wait_for(lambda: counts(first, "a").delivered == counts(first, "b").spooled == 1)
    leave(first)
    shutil.copy(files(folder)[0], folder / "1-newer.db")
    with database(folder / "1-newer.db") as newer:
        newer.execute("PRAGMA user_version = 99")
    (folder / "1-nonsense.db").write_bytes(b"nonsense" * 1_000)


def test_the_paths_of_the_spool(tmp_path, caplog):
    """Of files that were left, and of those in use."""
    folder = tmp_path / SECRET
    leave_files(folder)
    tracer = tracing(Memory(), folder)
    for told in ("is damaged", "of another release", "which is not configured here; they stay in"):
        wait_for(lambda: any(told in message for message in caplog.messages))  # noqa: B023
    one_span(tracer)
    assert tracer.flush(WAIT_S)
    folder.rename(tmp_path / "elsewhere")
    one_span(tracer)
    assert tracer.flush(WAIT_S)
    assert any("was removed while it was in use" in message for message in caplog.messages)
    assert sum("[redacted]" in message for message in caplog.messages) >= 4
    assert SECRET not in caplog.text


def test_what_sqlite_says_at_the_end(tmp_path, monkeypatch, caplog):
    """It may have a piece of the file in it."""
    tracer = tracing(Switched(), tmp_path / SECRET)
    one_span(tracer)
    wait_for(lambda: counts(tracer).spooled == 1)
    failing(monkeypatch, Tables, "note", f"disk I/O error in {SECRET}")
    leave(tracer)
    assert any(message.startswith("spool: closing ") for message in caplog.messages)
    assert SECRET not in caplog.text
