"""Feedback: a span in the trace that it is about, with the event of the GenAI conventions, from any process."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

pytest.importorskip("grpc")

from otlp_server import OTLPServer, Reply, traced, tracing
from otlp_wire import OTLPSpan

from spanhook import Signal
from spanhook_backends.otlp import OTLPBackend

EVENT = "gen_ai.evaluation.result"
MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def _signal(receiver: Any) -> OTLPSpan:
    (found,) = [span for span in receiver.spans if span.attributes["spanhook.kind"] == "signal"]
    return found


def test_a_signal_hangs_under_the_root_of_its_trace(receiver: Any) -> None:
    """Everything that the user said, with the user and the conversation."""
    with traced(receiver) as tracer:
        with tracer.interaction(user_id="u1", convo_id="c1") as interaction:
            pass
        assert tracer.flush()
        tracer.track_signal(
            interaction.event_id,
            "thumbs_down",
            "edit",
            timestamp=MOMENT,
            properties={"page": 3, "tags": ["a", "b"], "nested": {"x": None}},
            attachment_id="f1",
            comment="Wrong!",
            after="Rome",
            sentiment="NEGATIVE",
        )
    signal, root = _signal(receiver), next(span for span in receiver.spans if span.name == "interaction")
    assert (signal.trace_id, signal.parent_id, signal.name) == (root.trace_id, root.span_id, "signal thumbs_down")
    assert signal.start_ns == signal.end_ns == int(MOMENT.timestamp()) * 10**9
    (event,) = signal.events
    assert (event.name, event.time_ns) == (EVENT, signal.start_ns)
    result = {
        "gen_ai.evaluation.name": "thumbs_down",
        "gen_ai.evaluation.score.value": 0.0,
        "gen_ai.evaluation.score.label": "negative",
        "gen_ai.evaluation.explanation": "Wrong!",
        "trace.annotations.0.annotation.name": "thumbs_down",
        "trace.annotations.0.annotation.score": 0.0,
        "trace.annotations.0.annotation.label": "negative",
        "trace.annotations.0.annotation.explanation": "Wrong!",
        "trace.annotations.0.annotation.annotator_kind": "HUMAN",
    }
    assert event.attributes == result
    assert signal.attributes == {
        **result,
        "openinference.span.kind": "EVALUATOR",
        "user.id": "u1",
        "gen_ai.conversation.id": "c1",
        "session.id": "c1",
        "spanhook.kind": "signal",
        "spanhook.event_id": interaction.event_id,
        "spanhook.signal.type": "edit",
        "spanhook.signal.sentiment": "NEGATIVE",
        "spanhook.signal.attachment_id": "f1",
        "spanhook.signal.after": "Rome",
        "spanhook.signal.properties.page": 3,
        "spanhook.signal.properties.tags": ["a", "b"],
        "spanhook.signal.properties.nested": '{"x":null}',
    }


@pytest.mark.parametrize(
    ("more", "score", "label"),
    [
        ({"sentiment": "POSITIVE"}, 1.0, "positive"),
        ({"sentiment": "NEGATIVE"}, 0.0, "negative"),
        ({}, 1.0, None),
        ({"properties": {"score": 0.25}, "sentiment": "POSITIVE"}, 0.25, "positive"),
        ({"properties": {"score": "high"}}, 1.0, None),
    ],
)
def test_the_score_of_a_signal(more: dict[str, Any], score: float, label: str | None) -> None:
    """The property `score` where it is a number, else the sentiment, else 1: it happened. As in the other backends."""
    with OTLPServer() as receiver, traced(receiver) as tracer:
        with tracer.interaction() as interaction:
            pass
        tracer.track_signal(interaction.event_id, "rating", **more)
    attributes = _signal(receiver).events[0].attributes
    assert attributes["gen_ai.evaluation.score.value"] == score
    assert attributes.get("gen_ai.evaluation.score.label") == label


def test_a_signal_finds_the_trace_of_another_process(receiver: Any) -> None:
    """By the event id alone, which tells the trace id; the root is not known here."""
    with traced(receiver) as tracer, tracer.interaction() as interaction:
        pass
    with traced(receiver) as elsewhere:  # a tracer that has seen nothing of it
        elsewhere.track_signal(interaction.event_id, "thumbs_up")
    signal, root = _signal(receiver), next(span for span in receiver.spans if span.name == "interaction")
    assert (signal.trace_id, signal.parent_id) == (root.trace_id, None)


def test_a_signal_finds_its_trace_by_an_id_of_the_programs_own(receiver: Any) -> None:
    """The id tells no trace, but this process has sent it."""
    with traced(receiver) as tracer:
        with tracer.interaction(event_id="order-17"):
            pass
        assert tracer.flush()
        tracer.track_signal("order-17", "thumbs_up")
    signal, root = _signal(receiver), next(span for span in receiver.spans if span.name == "interaction")
    assert (signal.trace_id, signal.parent_id) == (root.trace_id, root.span_id)


def test_a_signal_on_what_nobody_knows_is_not_lost(receiver: Any) -> None:
    """It has a trace of its own, and the event id to find it by."""
    with traced(receiver) as tracer:
        tracer.track_signal("order-18", "thumbs_up")
    signal = _signal(receiver)
    assert signal.attributes["spanhook.event_id"] == "order-18"
    assert signal.parent_id is None


def test_a_signal_that_is_sent_again_is_the_same_span() -> None:
    """So that a receiver that had taken it, and whose answer was lost, has it once."""
    signal = Signal("order-17", "thumbs_up", time_ns=1)
    ids = set()
    with OTLPServer() as receiver:
        backend = OTLPBackend(OTLPBackend.Options(**receiver.options))
        for _ in range(2):
            backend.track_signal(signal)
        backend.track_signal(Signal("order-17", "thumbs_up", time_ns=2))
        backend.shutdown(1.0)
        ids = {span.span_id for span in receiver.spans}
    assert (len(receiver.spans), len(ids)) == (3, 2)


def test_signals_that_differ_are_two_spans() -> None:
    """In whatever they differ: of one name and one moment, too."""
    first = Signal("order-17", "thumbs_up", time_ns=1, properties={"score": 1})
    others: list[dict[str, Any]] = [
        {"type": "feedback"},
        {"properties": {"score": 0}},
        {"attachment_id": "f1"},
        {"comment": "c"},
        {"after": "a"},
        {"sentiment": "POSITIVE"},
    ]
    with OTLPServer() as receiver:
        backend = OTLPBackend(OTLPBackend.Options(**receiver.options))
        for signal in (first, *(replace(first, **other) for other in others)):
            backend.track_signal(signal)
        backend.shutdown(1.0)
    assert len({span.span_id for span in receiver.spans}) == 7


@pytest.mark.parametrize("timestamp", ["1970-01-01T00:00:01+00:00", "2262-04-11T00:00:00+00:00"])
def test_a_signal_of_another_age(receiver: Any, timestamp: str) -> None:
    """Every time that `track_signal` takes can be sent."""
    with traced(receiver) as tracer:
        assert tracer.track_signal("order-17", "thumbs_up", timestamp=timestamp)
    exact = int(datetime.fromisoformat(timestamp).timestamp()) * 10**9
    assert _signal(receiver).start_ns == _signal(receiver).events[0].time_ns == exact


def test_a_signal_hangs_under_the_interaction_that_it_is_about(receiver: Any) -> None:
    """Inside of another: under its own span if it has an id of its own, else under the root."""
    with traced(receiver) as tracer:
        with (
            tracer.interaction(event="outer", user_id="u1") as outer,
            tracer.interaction(event="with an id", event_id="order-17", user_id="u2") as inner,
            tracer.interaction(event="in it"),
            tracer.span("work"),
        ):
            pass
        assert tracer.flush()
        for interaction, name in ((outer, "on outer"), (inner, "on inner")):
            tracer.track_signal(interaction.event_id, name)
    spans = {span.name: span for span in receiver.spans}
    assert len({span.trace_id for span in spans.values()}) == 1
    for signal, about, user in (("on outer", "outer", "u1"), ("on inner", "with an id", "u2")):
        assert spans[f"signal {signal}"].parent_id == spans[about].span_id
        assert spans[f"signal {signal}"].attributes["user.id"] == user


def test_a_refused_signal_is_counted() -> None:
    """Feedback is not lost in silence either."""
    with OTLPServer() as receiver:
        receiver.answer_with(always=Reply(400))
        with tracing(receiver) as tracer:
            tracer.track_signal("order-17", "thumbs_up")
            assert not tracer.flush()
            assert tracer.stats().backends["otlp"].failed == 1


def test_messages_of_signals_are_json_where_no_attribute_can_hold_them() -> None:
    """A list of mixed values, for one."""
    with OTLPServer() as receiver, traced(receiver) as tracer:
        tracer.track_signal("order-17", "rating", properties={"list": [1, "a"]})
    assert json.loads(_signal(receiver).attributes["spanhook.signal.properties.list"]) == [1, "a"]
