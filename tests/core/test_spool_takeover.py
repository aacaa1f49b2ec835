"""Files that other processes have left, or still have: who takes them over, when, and how many at a time."""

from __future__ import annotations

import logging
import os

import pytest

import spanhook
from doubles import WAIT_S, Memory, counts, messages, wait_for
from spanhook import BackendStats, Span
from spanhook.delivery import ownership, spool
from spanhook.delivery.spool_file import SpoolFile
from spanhook.delivery.spool_tables import Tables
from spools import Switched, database, failing, files, leave, left_behind, spans, spooling

pytestmark = pytest.mark.usefixtures("short_pauses", "looks_often")


@pytest.mark.parametrize("trouble", ["locked", "unable to open database file", "too many open files"])
def test_a_file_that_can_t_be_opened_now_is_delivered_later(spool_folder, trouble, monkeypatch, caplog):
    """It is no damage: said once, and left where it is."""
    path = left_behind(spool_folder, "1", "2")
    memory = Memory()
    with database(path) as other:
        if trouble == "locked":
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")
        elif trouble == "too many open files":
            real = os.open
            monkeypatch.setattr(
                os, "open", lambda *a: (_ for _ in ()).throw(OSError(24, trouble)) if a[0] == path else real(*a)
            )
        else:
            works = failing(monkeypatch, Tables, "version", trouble)
        with caplog.at_level(logging.WARNING, "spanhook"):
            second = spooling(spool_folder, memory)
            spans(second, "new")
            wait_for(lambda: second.stats().errors)
        assert files(spool_folder, ".damaged") == []
        assert path.exists()
        if trouble == "too many open files":
            monkeypatch.setattr(os, "open", real)
        elif trouble != "locked":
            works.set()
    wait_for(lambda: len(memory.spans) == 3)
    assert sum("taking over" in message for message in messages(caplog.records)) == 1
    assert second.shutdown(WAIT_S)
    assert files(spool_folder, "") == []


def test_many_files_are_taken_over_a_few_at_a_time(spool_folder):
    """As many restarts during an outage leave: descriptors are the program's, too."""
    spool_folder.mkdir()
    names = []
    for number in range(30):
        file = SpoolFile.create(spool_folder, {"a": 7})
        names.append(f"{number}")
        file.append([Span("0" * 32, f"{number:016x}", None, "e", "custom", names[-1], 1, 2)])
        file.close()
    most = []
    memory = Memory(lambda _: most.append(len(ownership.open_paths)))
    tracer = spooling(spool_folder, memory)
    wait_for(lambda: counts(tracer).delivered == 30)
    assert max(most) <= spool.MAX_TAKEN_OVER
    assert sorted(span.name for span in memory.spans) == sorted(names)
    wait_for(lambda: not files(spool_folder, ""))
    assert tracer.shutdown(WAIT_S)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_takes_over_what_its_parent_had_taken_over(spool_folder, tmp_path):
    """When the parent is gone: a worker lives on where its master was killed."""
    left_behind(spool_folder, "old")
    backend = Switched()
    tracer = spooling(spool_folder, backend)
    wait_for(lambda: counts(tracer).queued == 1)
    child = os.fork()
    if child == 0:
        try:
            wait_for((tmp_path / "the parent is gone").exists)
            backend.is_up.set()
            spans(tracer, "new")
            wait_for(lambda: len(backend.spans) == 2)
        finally:
            os._exit(len(backend.spans))
    leave(tracer)
    (tmp_path / "the parent is gone").touch()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2


def test_the_files_of_living_processes_are_left_alone(spool_folder):
    """Two tracers share the folder, as two processes do: each delivers its own."""
    one, two = Switched(), Switched()
    first = spooling(spool_folder, one)
    spans(first, "1")
    wait_for(lambda: spool_folder.exists() and files(spool_folder))
    source = {"instrument": "wrapped", "backends": [], "extractors": []}
    second = spanhook.configure(
        {"tracing": source, "delivery": {"spool": str(spool_folder), "interval_s": 0.001}}, plugins={"a": two}
    )
    spans(second, "2")
    wait_for(lambda: len(files(spool_folder)) == 2 or not files(spool_folder))
    one.is_up.set()
    two.is_up.set()
    assert second.flush(WAIT_S)
    first.shutdown(WAIT_S)
    assert [span.name for span in (*one.spans, *two.spans)] in (["1", "2"], ["2", "1"])


def test_what_is_for_a_backend_that_is_not_configured_stays_and_is_said(spool_folder, caplog):
    """Another program may have it; a later start with that backend delivers it."""
    first = spooling(spool_folder, Switched(is_up=True), Switched())
    spans(first, "1", "2")
    wait_for(lambda: counts(first).delivered == 2)
    leave(first)
    with caplog.at_level(logging.WARNING, "spanhook"):
        only_a = spooling(spool_folder, Memory())
        wait_for(lambda: "2 items are for backend b, which is not configured here" in caplog.text)
        assert only_a.shutdown(WAIT_S)
    memory = Memory()
    both = spooling(spool_folder, Memory(), memory)
    wait_for(lambda: counts(both, "b").delivered == 2)
    assert counts(both) == BackendStats()
    assert both.shutdown(WAIT_S)
    assert files(spool_folder, "") == []
