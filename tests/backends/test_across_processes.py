"""What each backend makes of calls whose trace began in another process, or in another tracing system."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import dspy
import pytest

import spanhook
from lm_server import LMServer
from programs import Answerer
from remote_trace import TRACE, TRACEPARENT

FOREIGN = {"traceparent": TRACEPARENT}


@pytest.fixture
def lm() -> Iterator[LMServer]:
    with LMServer() as server, dspy.context(lm=server.lm()):
        yield server


def test_structlog_shows_each_interaction_of_a_foreign_trace(
    lm: LMServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a tree of its own, whole, as soon as it ends: nothing in it is late, and nothing is an orphan."""
    monkeypatch.setenv("COLUMNS", "120")
    tracer = spanhook.configure({"backends": {"structlog": {"format": "tree", "stream": "stdout"}}})
    with spanhook.attach(FOREIGN):
        for event in ("one", "two"):
            with tracer.interaction(event=event):
                Answerer()(question="Why?")
            tracer.flush()
    text = capsys.readouterr().out
    assert text.count(f"trace {TRACE}") == 2
    assert "one" in text.splitlines()[0]
    for mark in ("late", "incomplete", "continued"):
        assert mark not in text
    assert text.count("Answerer") == 2


def test_opik_has_a_trace_for_each_interaction_of_a_foreign_trace(lm: LMServer) -> None:
    """Opik takes UUIDv7 alone: the event's. A signal finds it."""
    pytest.importorskip("opik")
    from opik_case import opik_case

    with opik_case() as case:
        with spanhook.attach(FOREIGN):
            Answerer()(question="one")
            with case.tracer.interaction(event="two") as two:
                Answerer()(question="Why?")
            with case.tracer.interaction(event="three", event_id="order-17"):
                Answerer()(question="Why?")
        case.tracer.track_signal(two.event_id, "thumbs_up", sentiment="POSITIVE")
        case.tracer.track_signal("order-17", "thumbs_up", sentiment="POSITIVE")
        traces = {trace.fields["name"]: trace for trace in case.traces}
    assert set(traces) == {"Answerer", "two", "three"}
    assert all(uuid.UUID(trace.fields["id"]).version == 7 for trace in traces.values())
    assert traces["two"].fields["id"] == two.event_id
    assert list(traces["two"].scores) == list(traces["three"].scores) == ["thumbs_up"]
    for trace in traces.values():
        assert not any("orphan" in line for line in trace.tree())
        assert any(line.strip().startswith("llm") for line in trace.tree())


def test_opik_has_the_workers_spans_in_the_callers_trace(lm: LMServer) -> None:
    """Also where the caller itself goes on under a foreign trace; its name, input and output stay the caller's."""
    pytest.importorskip("opik")
    from opik_case import opik_case

    with opik_case() as case:
        for came in (None, FOREIGN):
            with spanhook.attach(came), case.tracer.interaction(event="front") as front:
                front.inputs = front.outputs = "front's"
                headers = spanhook.inject({})
            with spanhook.attach(headers):
                Answerer()(question="worker's")
        traces = case.traces
    assert len(traces) == 2
    for trace in traces:
        assert (trace.fields["name"], trace.fields["input"]) == ("front", {"input": "front's"})
        assert trace.tree()[0] == "general Answerer"
        assert not any("orphan" in line for line in trace.tree())
        assert any("llm" in line for line in trace.tree())


def test_raindrop_has_one_event_of_an_interaction_and_its_spans_from_all(lm: LMServer) -> None:
    """The process in which it began sends the event; a foreign trace's interactions have events of their own."""
    pytest.importorskip("raindrop")
    from raindrop_server import RaindropServer
    from raindrop_tracing import traced

    with RaindropServer() as raindrop:
        with traced(raindrop, tracing_enabled=True) as tracer:
            with tracer.interaction("u1", event="front") as front:
                front.inputs = "front's"
                headers = spanhook.inject({})
            with spanhook.attach(headers):
                Answerer()(question="worker's")
            with spanhook.attach(FOREIGN):
                first = spanhook.event_id_of(Answerer()(question="one"))
                second = spanhook.event_id_of(Answerer()(question="two"))
        assert [event["event_id"] for event in raindrop.events] == [front.event_id, first, second]
        events = [span.attributes["traceloop.association.properties.event_id"] for span in raindrop.spans]
        assert sorted(events) == sorted([front.event_id, first, second])
