"""Outages of each kind, with each backend: what fits arrives after the recovery, once, and all is accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from outage_cases import BACKENDS, FAULTS, Case, case_of

from doubles import WAIT_S, wait_for
from spanhook import BackendStats, Tracer
from threads import end_of_all


@pytest.fixture(params=BACKENDS)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    monkeypatch.setenv("OPIK_CONNECTION_MONITOR_PING_INTERVAL", "0.5")
    made = case_of(request.param)
    with made.stack:
        yield made
        made.heal()


def one(tracer: Tracer, name: str) -> None:
    """An interaction without anything in it: one item."""
    with tracer.interaction(event=name) as interaction:
        interaction.inputs, interaction.outputs = {"question": "Why?"}, {"answer": "Because."}


def counted(tracer: Tracer) -> BackendStats:
    (stats,) = tracer.stats().backends.values()
    assert stats.accepted == stats.delivered + stats.queued + stats.failed + sum(stats.dropped.values())
    return stats


@pytest.mark.parametrize("fault", FAULTS)
def test_after_an_outage_what_fits_in_the_queue_arrives_once(case, fault):
    """Longer than the queue is long: the newest are dropped, and counted; whatever was taken arrives, in order."""
    tracer = case.configure(queue_spans=20, batch_spans=10, interval_s=0.001)
    case.begin(fault)
    for number in range(60):
        one(tracer, str(number))
    case.wait_until_felt(fault, tracer)
    wait_for(lambda: counted(tracer).accepted == 60)
    assert counted(tracer).delivered == 0
    case.end(fault)
    tracer.flush(WAIT_S)
    stats = counted(tracer)
    assert stats == BackendStats(accepted=60, delivered=stats.delivered, dropped=stats.dropped)
    assert stats.delivered >= 20
    arrived = Counter(case.arrived())
    assert set(arrived.values()) == {1}
    assert len(arrived) == stats.delivered
    one(tracer, "after it")
    assert tracer.flush(WAIT_S)
    assert case.arrived().count("after it") == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_an_outage_without_end_holds_up_nobody(case, fault):
    """flush and shutdown are over in their time and say False; the counts add up; no thread of ours stays."""
    tracer = case.configure(interval_s=0.001)
    case.begin(fault)
    for number in range(10):
        one(tracer, str(number))
    assert tracer.flush(0.2) is False
    assert tracer.shutdown(0.5) is False
    stats = counted(tracer)
    assert stats.accepted == 10
    assert stats.delivered == 0
    assert stats.lost()
    if fault != "refuses":
        case.heal()
    end_of_all()
