"""Users and their feedback at Raindrop."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

pytest.importorskip("raindrop")

from raindrop_server import RaindropServer
from raindrop_tracing import traced


def test_an_interaction_inside_of_another_with_an_id_of_its_own_is_an_event(raindrop: RaindropServer) -> None:
    """Of its user, with what ran in it, so that its feedback finds it. One without an id is a part of the outer."""
    with traced(raindrop) as tracer, tracer.interaction("u1", "c1", "outer", event_id="all"):
        with tracer.span("a", q="A") as span:
            span.outputs = "AO"
        with tracer.interaction("u2", "c2", "inner", event_id="own"):
            with tracer.span("b", kind="tool", q="B"):
                pass
            with tracer.interaction("u3", event="within"), tracer.span("d", kind="tool") as span:
                span.outputs = "DO"
            tracer.track_signal("own", "thumbs_up")
        with tracer.interaction("u4", event="part"), tracer.span("c", kind="tool", q="C") as span:
            span.outputs = "CO"
    told = {event["event_id"]: (event["user_id"], event["event"], event["ai_data"]) for event in raindrop.events}
    assert told == {
        "all": ("u1", "outer", {"input": "A", "output": "CO", "convo_id": "c1"}),
        "own": ("u2", "inner", {"input": "B", "output": "DO", "convo_id": "c2"}),
    }
    assert [signal["event_id"] for signal in raindrop.signals] == ["own"]
    name = "traceloop.association.properties.event"
    assert {(s.event_id, s.attributes[name]) for s in raindrop.spans} == {("own", "inner"), ("all", "outer")}


def test_the_times_of_signals(raindrop: RaindropServer) -> None:
    """To the microsecond, from the first to the last that there is."""
    times = ["1970-01-01T00:00:00.000001+00:00", "2026-01-02T03:04:05.678901+00:00", "2262-04-11T23:47:16.854775+00:00"]
    with traced(raindrop) as tracer:
        for time in times:
            tracer.track_signal("e1", "clicked", timestamp=time)
    assert [signal["timestamp"].replace("Z", "+00:00") for signal in raindrop.signals] == times


def test_traits_keep_their_types(raindrop: RaindropServer) -> None:
    """str, int, bool and float arrive as they are; without traits there are none."""
    traits: dict[str, Any] = {"name": "Alice", "seats": 3, "beta": True, "score": 0.5}
    with traced(raindrop) as tracer:
        assert tracer.identify("u1", traits)
        assert tracer.identify("u2")
    assert raindrop.identities == [{"user_id": "u1", "traits": traits}, {"user_id": "u2", "traits": {}}]
    assert raindrop.identities[0]["traits"]["beta"] is True


def test_traits_that_are_no_json(raindrop: RaindropServer) -> None:
    """A float that is no number, an endless integer, half a character: as text, and the identity arrives."""
    with traced(raindrop) as tracer:
        tracer.identify("u1", {"nan": float("nan"), "huge": 10**400, "half": "a\ud800b", "long": "x" * 2_000_000})
    (identity,) = raindrop.identities
    assert identity["traits"]["nan"] == "nan"
    assert identity["traits"]["half"] == "a?b"
    assert identity["traits"]["long"].endswith("more characters]")


def test_a_signal_has_all_nine_of_its_parameters(raindrop: RaindropServer) -> None:
    """Feedback with everything that there is to say."""
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    with traced(raindrop) as tracer:
        tracer.track_signal(
            "e1",
            "thumbs_down",
            "feedback",
            when,
            {"page": 3, "where": {"x": 1}},
            "a1",
            "Too long.",
            sentiment="NEGATIVE",
        )
        tracer.track_signal("e1", "edited", "edit", when, after="Better so.")
    feedback, edit = raindrop.signals
    assert datetime.fromisoformat(feedback.pop("timestamp").replace("Z", "+00:00")) == when
    assert feedback == {
        "event_id": "e1",
        "signal_name": "thumbs_down",
        "signal_type": "feedback",
        "properties": {"page": 3, "where": {"x": 1}, "comment": "Too long."},
        "attachment_id": "a1",
        "sentiment": "NEGATIVE",
    }
    assert (edit["signal_type"], edit["properties"]) == ("edit", {"after": "Better so."})


@pytest.mark.parametrize(
    ("given", "properties"),
    [
        ({"signal_type": "feedback"}, {"spanhook.signal_type": "feedback"}),
        ({"signal_type": "feedback", "comment": "  "}, {"spanhook.signal_type": "feedback"}),
        ({"signal_type": "edit"}, {"spanhook.signal_type": "edit"}),
        ({"signal_type": "edit", "comment": "Why?"}, {"spanhook.signal_type": "edit", "comment": "Why?"}),
        ({"comment": "By the way"}, {"comment": "By the way"}),
        ({"after": "New text", "properties": {"a": 1}}, {"after": "New text", "a": 1}),
    ],
)
def test_what_raindrop_would_refuse_is_a_default_signal(
    raindrop: RaindropServer, given: dict[str, Any], properties: dict[str, Any]
) -> None:
    """Feedback without a comment, an edit without its text, and texts that the SDK would leave out: nothing is lost."""
    with traced(raindrop) as tracer:
        assert tracer.track_signal("e1", "clicked", **given)
    (signal,) = raindrop.signals
    assert signal["signal_type"] == "default"
    assert signal["properties"] == properties


def test_a_comment_may_stand_in_the_properties(raindrop: RaindropServer) -> None:
    """As with Raindrop's own SDK: feedback stays feedback."""
    with traced(raindrop) as tracer:
        tracer.track_signal("e1", "clicked", "feedback", properties={"comment": "Good."})
    assert raindrop.signals[0]["signal_type"] == "feedback"


def test_a_signal_that_is_too_large_is_cut(raindrop: RaindropServer) -> None:
    """Texts beyond 1 MiB, and half characters: what fits arrives, and what is cut says so."""
    with traced(raindrop) as tracer:
        tracer.track_signal(
            "e1", "edited", "edit", after="é" * 3_000_000, comment="\udcff", properties={"p": "x" * 9_999_999}
        )
    (signal,) = raindrop.signals
    assert signal["signal_type"] == "edit"
    assert signal["properties"]["after"].endswith("more characters]")
    assert signal["properties"]["comment"] == "?"
