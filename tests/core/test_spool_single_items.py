"""One item that the spool can't take is in memory only, counted and said; those that were written with it are there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import spanhook
from doubles import WAIT_S, Memory, counts, wait_for
from spanhook import BackendStats, Span, Tracer
from spools import Switched, database, files, spans, spooling
from threads import end_of_all


class Odd(Switched):
    """A backend whose `redact` makes of a span named "half" one that no JSON can hold."""

    @spanhook.hookimpl
    def redact(self, span: Span) -> None:
        if span.name == "half":
            span.kind = "\ud800"  # type: ignore[assignment]


def refuse_large(folder: Path) -> None:
    """Have SQLite itself refuse large items, as it does with those of a gigabyte."""
    with database(files(folder)[0]) as other:
        other.execute(
            "CREATE TRIGGER large BEFORE INSERT ON items WHEN length(NEW.body) > 5000 "
            "BEGIN SELECT RAISE(ABORT, 'too big'); END"
        )


def half(tracer: Tracer) -> None:
    spans(tracer, "half")


def large(tracer: Tracer) -> None:
    spans(tracer, "large", text="x" * 6_000)


def in_one_batch(tracer: Tracer, odd: Callable[[Tracer], None]) -> None:
    """Two odd ones among others, in one transaction: nothing is written until somebody asks."""
    spans(tracer, "1")
    odd(tracer)
    spans(tracer, "2")
    odd(tracer)
    spans(tracer, "3")
    tracer.flush(0)


@pytest.mark.parametrize("odd", [half, large])
def test_only_that_item_does_not_outlast_the_process(spool_folder, odd, caplog):
    """All others are delivered by the next start; it is counted each time, said once, and not said to be kept."""
    first = spooling(spool_folder, Odd(), interval_s=60)
    spans(first, "0")
    first.flush(0)
    wait_for(lambda: counts(first).spooled == 1)
    refuse_large(spool_folder)
    in_one_batch(first, odd)
    wait_for(lambda: not first._pipeline._intake and not len(first._pipeline._fanout))
    assert first.shutdown(0.2) is False
    assert caplog.messages[-1] == "not delivered: backend a: 2 dropped (not reachable), 4 kept in the spool"
    assert sum(message.startswith("spool: ") for message in caplog.messages) == 1
    assert [number for place, number in first.stats().errors.items() if "a single item" in place] == [2]
    end_of_all()
    memory = Memory()
    second = spooling(spool_folder, memory)
    wait_for(lambda: len(memory.spans) == 4)
    assert second.shutdown(WAIT_S)
    assert [span.name for span in memory.spans] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("odd", [half, large])
def test_it_is_delivered_like_any_other(spool_folder, odd):
    """In its place, and nothing stays in the folder."""
    backend = Odd(is_up=True)
    tracer = spooling(spool_folder, backend, interval_s=60)
    spans(tracer, "0")
    assert tracer.flush(WAIT_S)
    refuse_large(spool_folder)
    in_one_batch(tracer, odd)
    assert tracer.flush(WAIT_S)
    assert [span.name for span in backend.spans] == ["0", "1", odd.__name__, "2", odd.__name__, "3"]
    assert counts(tracer) == BackendStats(accepted=6, delivered=6)
    assert tracer.shutdown(WAIT_S)
    assert files(spool_folder, "") == []
