"""The spool: what was not delivered outlasts an outage, a shutdown and the process, and is delivered once."""

from __future__ import annotations

import os

import pytest

from doubles import WAIT_S, Memory, counts, tracer_of, wait_for
from spanhook import BackendStats
from spools import Switched, files, leave, spans, spooling

pytestmark = pytest.mark.usefixtures("short_pauses")


def test_an_outage_longer_than_the_queue_loses_nothing(spool_folder):
    """What found no room in memory is read from the spool: in order, once; then the folder is empty."""
    backend, free = Switched(), Memory()
    tracer = spooling(spool_folder, backend, free, queue_spans=20, batch_spans=7)
    names = [str(number) for number in range(300)]
    for name in names:
        spans(tracer, name)
        if int(name) % 10 == 9:
            assert tracer.flush(0) is False
            wait_for(lambda: counts(tracer, "b").delivered > int(name))  # noqa: B023
    assert counts(tracer) == BackendStats(accepted=300, queued=300, spooled=300)
    backend.is_up.set()
    assert tracer.flush(WAIT_S)
    assert [span.name for span in backend.spans] == names
    assert [span.name for span in free.spans] == names
    assert counts(tracer) == BackendStats(accepted=300, delivered=300)
    assert tracer.shutdown(WAIT_S)
    assert files(spool_folder, "") == []


def test_what_is_new_waits_behind_what_is_old(spool_folder):
    """A flush is about both; nothing is delivered twice."""
    first = spooling(spool_folder, Switched())
    spans(first, "1", "2", "3")
    leave(first)
    backend = Switched()
    second = spooling(spool_folder, backend, batch_spans=2)
    spans(second, "4", "5")
    assert second.flush(0.01) is False
    backend.is_up.set()
    assert second.flush(WAIT_S)
    assert [span.name for span in backend.spans] == ["1", "2", "3", "4", "5"]
    assert counts(second) == BackendStats(accepted=5, delivered=5)


def test_a_batch_that_was_refused_does_not_come_again(spool_folder):
    """A poisoned batch must not be offered at each start."""

    def refuse(_: object) -> None:
        raise ValueError("HTTP 400")

    tracer = spooling(spool_folder, Memory(refuse))
    spans(tracer, "1", "2")
    assert tracer.shutdown(WAIT_S) is False
    assert counts(tracer) == BackendStats(accepted=2, failed=2)
    assert files(spool_folder, "") == []


def test_metadata_alone_is_all_that_is_written(spool_folder):
    """With capture = "metadata" no content is on the disk either."""
    tracer = tracer_of(
        Switched(), tracing={"capture": "metadata"}, delivery={"spool": str(spool_folder), "interval_s": 0.001}
    )
    with pytest.raises(KeyError), tracer.span("work", question="sesame"):
        raise KeyError("sesame")
    leave(tracer)
    (path,) = files(spool_folder)
    assert b"work" in path.read_bytes()
    assert b"sesame" not in path.read_bytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_a_file_of_its_own(spool_folder):
    """What the parent had spooled stays the parent's; what the child leaves, a later start delivers."""
    backend = Switched()
    tracer = spooling(spool_folder, backend)
    spans(tracer, "parent")
    wait_for(lambda: spool_folder.exists() and files(spool_folder))
    child = os.fork()
    if child == 0:
        try:
            spans(tracer, "child")
            wait_for(lambda: tracer.stats().backends["a"].spooled)  # a forked copy of a large process is slow at first
            tracer.shutdown(0.5)
        finally:
            os._exit(len(files(spool_folder)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    backend.is_up.set()
    assert tracer.flush(WAIT_S)
    assert tracer.shutdown(WAIT_S)
    assert [span.name for span in backend.spans] == ["parent"]
    memory = Memory()
    second = spooling(spool_folder, memory)
    wait_for(lambda: [span.name for span in memory.spans] == ["child"])
    assert second.shutdown(WAIT_S)
    assert files(spool_folder, "") == []
