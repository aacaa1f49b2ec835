"""What a program says of its users: every parameter, what is allowed, and what a wrong value leads to."""

from __future__ import annotations

import json
import logging
import time
import uuid
from datetime import date, datetime, timedelta, timezone, tzinfo
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import spanhook
from doubles import Memory, tracer_of
from spanhook import Signal, Tracer
from spanhook.checks import identity, signal

RIGHT: dict[str, Any] = {"event_id": "e1", "name": "thumbs_up"}


def made(**changes: Any) -> Signal:
    """A signal with these parameters, as `track_signal` makes it."""
    left_out = dict.fromkeys(("timestamp", "properties", "attachment_id", "comment", "after", "sentiment"))
    return signal(**{**left_out, "signal_type": "default", **RIGHT, **changes})


@pytest.fixture
def tracer(memory: Memory) -> Tracer:
    return tracer_of(memory)


def test_all_nine_parameters_arrive(tracer, memory):
    """By position in the documented order."""
    assert tracer.track_signal(
        "e1", "edited", "edit", "2024-05-01T12:00:00Z", {"score": 0.5}, "a1", "better so", "new text", "POSITIVE"
    )
    assert tracer.flush()
    assert memory.signals == [
        Signal(
            event_id="e1",
            name="edited",
            type="edit",
            time_ns=1_714_564_800_000_000_000,
            properties={"score": 0.5},
            attachment_id="a1",
            comment="better so",
            after="new text",
            sentiment="POSITIVE",
        )
    ]


def test_an_interaction_is_no_event_id(tracer, caplog):
    """What has one is an easy mistake: the message says what to pass."""
    with tracer.interaction() as interaction:
        pass
    assert tracer.track_signal(interaction, "thumbs_up") is False
    assert caplog.messages == [f"track_signal: rejected: event_id {BLANK} Interaction: pass interaction.event_id"]


def test_what_is_left_out_has_a_default(tracer, memory):
    """An id and a name are enough; the time is now."""
    before = time.time_ns()
    assert tracer.track_signal("e1", "thumbs_up")
    after = time.time_ns()
    assert tracer.flush()
    (got,) = memory.signals
    assert before <= got.time_ns <= after
    assert got == Signal("e1", "thumbs_up", time_ns=got.time_ns)
    assert (got.type, dict(got.properties), got.comment, got.after, got.sentiment) == ("default", {}, None, None, None)


YEARS = "timestamp must be from 1970-01-01 to 2262-04-11, not"
BLANK = "must be a string that is not blank, not"
WRONG = [
    ({"event_id": ""}, f"event_id {BLANK} ''"),
    ({"event_id": " \n"}, f"event_id {BLANK} ' \\n'"),
    ({"event_id": None}, f"event_id {BLANK} None"),
    ({"event_id": 7}, f"event_id {BLANK} 7"),
    ({"event_id": object()}, f"event_id {BLANK} object"),
    ({"event_id": uuid.UUID(int=1)}, f"event_id {BLANK} UUID"),
    ({"event_id": dspy.Prediction(a=1)}, f"event_id {BLANK} Prediction: pass spanhook.event_id_of(prediction)"),
    ({"name": ""}, f"name {BLANK} ''"),
    ({"name": b"x"}, f"name {BLANK} bytes"),
    ({"signal_type": "thumbs"}, "signal_type must be one of default, feedback, edit, not 'thumbs'"),
    ({"signal_type": None}, "signal_type must be one of default, feedback, edit, not None"),
    ({"signal_type": ["edit"]}, "signal_type must be one of default, feedback, edit, not list"),
    ({"sentiment": "positive"}, "sentiment must be one of POSITIVE, NEGATIVE, None, not 'positive'"),
    ({"sentiment": 1}, "sentiment must be one of POSITIVE, NEGATIVE, None, not 1"),
    ({"properties": [("a", 1)]}, "properties must be a dict, not list"),
    ({"properties": {"b": 1, 1: "a"}}, "the name of a property must be a string, not 1"),
    ({"comment": 5}, "comment must be a string or None, not 5"),
    ({"after": {"text": "x"}}, "after must be a string or None, not dict"),
    ({"attachment_id": 1.5}, "attachment_id must be a string or None, not 1.5"),
    ({"timestamp": "soon"}, "timestamp must be a datetime, an ISO 8601 string or None, not 'soon'"),
    ({"timestamp": ""}, "timestamp must be a datetime, an ISO 8601 string or None, not ''"),
    ({"timestamp": 1_714_564_800}, "timestamp must be a datetime, an ISO 8601 string or None, not 1714564800"),
    ({"timestamp": date(2024, 5, 1)}, "timestamp must be a datetime, an ISO 8601 string or None, not date"),
    ({"timestamp": "1960-01-01"}, f"{YEARS} 1960-01-01T00:00:00+00:00"),
    ({"timestamp": datetime(1969, 12, 31, 23, 59, 59, tzinfo=timezone.utc)}, f"{YEARS} 1969-12-31T23:59:59+00:00"),
    ({"timestamp": "0001-01-01T00:00:00+14:00"}, f"{YEARS} 0001-01-01T00:00:00+14:00"),
    ({"timestamp": "2262-04-11T23:47:16.854776"}, f"{YEARS} 2262-04-11T23:47:16.854776+00:00"),
    ({"timestamp": datetime.max}, f"{YEARS} 9999-12-31T23:59:59.999999+00:00"),
    ({"name": "x" * 200, "comment": 5}, "comment must be a string or None, not 5"),
]


@pytest.mark.parametrize(("changes", "problem"), WRONG)
def test_a_wrong_signal(tracer, memory, caplog, changes, problem):
    """Logged with what is allowed, counted as rejected, False, and never raised; nothing reaches a backend."""
    with caplog.at_level(logging.WARNING, "spanhook"):
        assert tracer.track_signal(**{**RIGHT, **changes}) is False
    assert [record.getMessage() for record in caplog.records] == [f"track_signal: rejected: {problem}"]
    assert tracer.stats().rejected == {"track_signal": 1}
    assert tracer.stats().errors == {}
    assert tracer.flush()
    assert memory.signals == []


@pytest.mark.parametrize(("changes", "problem"), WRONG)
def test_a_wrong_signal_with_strict(changes, problem):
    """For development and tests it is a ValueError with the same words, and counted too."""
    tracer = tracer_of(Memory(), tracing={"strict": True})
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        tracer.track_signal(**{**RIGHT, **changes})
    assert str(caught.value) == problem
    assert tracer.stats().rejected == {"track_signal": 1}


TRAIT = "must be a str, int, float or bool, not"
WRONG_IDENTITIES = [
    (("", {}), f"user_id {BLANK} ''"),
    ((None, {}), f"user_id {BLANK} None"),
    (("u", ["pro"]), "traits must be a dict, not list"),
    (("u", {"plan": None}), f"trait 'plan' {TRAIT} None"),
    (("u", {"plan": ["pro"]}), f"trait 'plan' {TRAIT} list"),
    (("u", {"since": date(2024, 5, 1)}), f"trait 'since' {TRAIT} date"),
    (("u", {3: "x"}), "the name of a trait must be a string that is not blank, not 3"),
    (("u", {"": "x"}), "the name of a trait must be a string that is not blank, not ''"),
    (("u", {"  ": "x"}), "the name of a trait must be a string that is not blank, not '  '"),
]


@pytest.mark.parametrize(("arguments", "problem"), WRONG_IDENTITIES)
@pytest.mark.parametrize("strict", [False, True])
def test_a_wrong_identity(memory, caplog, arguments, problem, strict):
    """The same for identities."""
    tracer = tracer_of(memory, tracing={"strict": strict})
    if strict:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
            tracer.identify(*arguments)
        assert str(caught.value) == problem
    else:
        with caplog.at_level(logging.WARNING, "spanhook"):
            assert tracer.identify(*arguments) is False
        assert [record.getMessage() for record in caplog.records] == [f"identify: rejected: {problem}"]
    assert tracer.stats().rejected == {"identify": 1}
    assert tracer.flush()
    assert memory.identities == []


def test_a_right_identity(tracer, memory):
    """With every type of trait, and without traits; what the program changes later changes nothing."""
    traits: dict[str, Any] = {"name": "Alice", "seats": 3, "score": 0.5, "beta": True}
    assert tracer.identify("u1", traits)
    traits["name"] = "Bob"
    assert tracer.identify("u2")
    assert tracer.flush()
    assert memory.identities == [("u1", {"name": "Alice", "seats": 3, "score": 0.5, "beta": True}), ("u2", {})]


def test_properties_are_copied(tracer, memory):
    """As plain data, at the moment of the call."""
    properties: dict[str, Any] = {"tags": ["a"], "thing": object()}
    assert tracer.track_signal("e", "s", properties=properties)
    properties["tags"].append("b")
    assert tracer.flush()
    assert memory.signals[0].properties == {"tags": ["a"], "thing": "<builtins.object>"}


class Hostile(dict):  # type: ignore[type-arg]
    """A dict whose every method raises what is no ValueError."""

    def __iter__(self) -> Any:
        raise LookupError

    def items(self) -> Any:
        raise LookupError

    def keys(self) -> Any:
        raise LookupError


@pytest.mark.parametrize("strict", [False, True])
def test_what_raises_in_our_hands_is_not_accepted(strict):
    """Code of the program's that fails while it is read: counted as an error, False, and never raised."""
    tracer = tracer_of(Memory(), tracing={"strict": strict})
    assert tracer.identify("u", Hostile(a=1)) is False
    assert tracer.track_signal("e", "s", properties=Hostile(a=1)) is False
    assert tracer.stats().errors == {"identify: LookupError": 1, "track_signal: LookupError": 1}


class NoOffset(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return None


MICROSECOND = 1_714_564_800_123_457_000
MOMENT = datetime(2024, 5, 1, 12, 0, 0, 123_457)


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        (MOMENT, MICROSECOND),
        (MOMENT.replace(tzinfo=NoOffset()), MICROSECOND),
        (MOMENT.replace(tzinfo=timezone.utc), MICROSECOND),
        (MOMENT.replace(hour=14, tzinfo=timezone(timedelta(hours=2))), MICROSECOND),
        ("2024-05-01T12:00:00.123457", MICROSECOND),
        ("2024-05-01 12:00:00.123457", MICROSECOND),
        ("2024-05-01T12:00:00.123457Z", MICROSECOND),
        ("2024-05-01T12:00:00.123457z", MICROSECOND),
        ("2024-05-01T14:00:00.123457+02:00", MICROSECOND),
        ("2024-05-01T04:30:00.123457-07:30", MICROSECOND),
        ("2024-05-01T12:00:00.123Z", 1_714_564_800_123_000_000),
        ("2024-05-01", 1_714_521_600_000_000_000),
        (datetime(1970, 1, 1, tzinfo=timezone.utc), 0),
        ("2262-04-11T23:47:16.854775", 9_223_372_036_854_775_000),
    ],
)
def test_a_timestamp(timestamp, expected):
    """A datetime or ISO 8601 text, to the microsecond; without a zone it is UTC, wherever the server stands."""
    assert made(timestamp=timestamp).time_ns == expected


@given(
    st.datetimes(
        datetime(1970, 1, 2),
        datetime(2262, 4, 11),
        timezones=st.sampled_from([timezone.utc, timezone(timedelta(hours=14))]),
    )
)
def test_a_timestamp_is_exact(moment: datetime):
    """No microsecond is lost to floating point, in any year, and the text says the same as the datetime."""
    nanoseconds = made(timestamp=moment).time_ns
    assert moment - datetime(1970, 1, 1, tzinfo=timezone.utc) == timedelta(microseconds=nanoseconds // 1000)
    assert made(timestamp=moment.isoformat()).time_ns == nanoseconds


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes()
    | st.just(object()),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
    max_leaves=5,
)
OPTIONAL = ("signal_type", "timestamp", "properties", "attachment_id", "comment", "after", "sentiment")
TEXT = st.text(st.characters())  # lone surrogates too: half an emoji from a browser


@given(
    values=st.fixed_dictionaries(
        {"event_id": TEXT, "name": TEXT},
        optional=dict.fromkeys(
            ("signal_type", "timestamp", "properties", "attachment_id", "comment", "after", "sentiment"),
            ANYTHING | TEXT,
        ),
    )
)
def test_a_signal_is_right_or_refused(values):
    """Whatever is given: either a ValueError, or a signal that is JSON and UTF-8."""
    try:
        got = made(**values)
    except ValueError:
        return
    fields = {name: getattr(got, name) for name in Signal.__slots__}
    json.dumps(fields, allow_nan=False, ensure_ascii=False).encode("utf-8")


@given(user_id=TEXT | ANYTHING, traits=st.dictionaries(TEXT, TEXT | st.integers() | st.floats()) | ANYTHING)
def test_an_identity_is_right_or_refused(user_id, traits):
    """Whatever is given: either a ValueError, or an identity that is JSON and UTF-8."""
    try:
        got = identity(user_id, traits)
    except ValueError:
        return
    json.dumps([got.user_id, got.traits], allow_nan=False, ensure_ascii=False).encode("utf-8")


def test_nothing_is_cut_from_feedback(tracer, memory):
    """`max_text_chars` bounds what spans hold; what a user wrote is short and stays whole."""
    tracer = spanhook.configure(
        {"tracing": {"backends": [], "extractors": [], "max_text_chars": 5}}, plugins={"memory": memory}
    )
    assert tracer.track_signal("event-with-a-long-id", "s", comment="a longer comment")
    assert tracer.flush()
    assert (memory.signals[0].event_id, memory.signals[0].comment) == ("event-with-a-long-id", "a longer comment")
