"""What is done once to each finished span before the backends get it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from doubles import Memory, one_span, tracer_of
from spanhook import RedactSettings, Span, SpanError
from spanhook.finishing import Finisher
from spanhook.guard import Guard

REDACT = RedactSettings()
HALF = "\ud83d"  # half an emoji, as a browser may send it


def span(**fields: Any) -> Span:
    return Span("0" * 32, "1" * 16, None, fields.pop("event_id", "e"), "custom", fields.pop("name", "n"), 0, **fields)


def test_content_is_bounded():
    """Inputs, outputs, attributes, the name, and an error's texts; each says how much was cut."""
    cut = "aaaa… [2 more characters]"
    long = span(
        name="a" * 6,
        inputs={"q": "a" * 6},
        outputs=["a" * 6],
        attributes={"x": "a" * 6},
        error=SpanError("ValueError", "a" * 6, "a" * 6),
    )
    Finisher(4, Guard(), REDACT)(long)
    assert (long.name, long.inputs, long.outputs, long.attributes) == (cut, {"q": cut}, [cut], {"x": cut})
    assert long.error == SpanError("ValueError", cut, cut)


def test_ids_and_models_are_never_cut():
    """A signal has to find its event again, and a price its model."""
    words = dict.fromkeys(
        ("event_id", "user_id", "convo_id", "model", "response_model", "provider", "finish_reason"), "a" * 6
    )
    whole = span(**words)
    Finisher(4, Guard(), REDACT)(whole)
    assert {name: getattr(whole, name) for name in words} == words


@pytest.mark.parametrize("field", ["event_id", "user_id", "convo_id", "model", "response_model", "name"])
def test_every_text_is_valid(field):
    """No backend's encoder stumbles over half a character, wherever it came from."""
    broken = span(**{field: HALF, "error": SpanError("E", HALF, HALF), "attributes": {HALF: HALF}})
    Finisher(100, Guard(), REDACT)(broken)
    json.dumps(broken.to_dict(), ensure_ascii=False).encode("utf-8")
    assert getattr(broken, field) == "?"


def test_an_error_without_content_stays_without():
    """With capture = "metadata" there is no message to cut."""
    bare = span(error=SpanError("ValueError", None, None))
    Finisher(4, Guard(), REDACT)(bare)
    assert bare.error == SpanError("ValueError", None, None)


@pytest.mark.parametrize("attributes", [{5: "no text as a name"}, [1], None])
def test_a_span_that_can_t_be_finished_goes_out_without_its_content(attributes):
    """It is counted, and the span says so: backends get dicts and strings whatever the program did to its span."""
    guard = Guard()
    broken = span(inputs={"fine": 1}, attributes=attributes)
    Finisher(4, guard, REDACT)(broken)
    assert (broken.inputs, broken.outputs, broken.attributes) == (None, None, {"spanhook.content_lost": True})
    assert guard.counts() == {"delivery: preparing a span: TypeError": 1}


class Hostile(str):
    """A text that can't be looked up."""

    __slots__ = ()

    def __hash__(self) -> int:
        raise RuntimeError("no")


@pytest.mark.parametrize("field", ["user_id", "convo_id", "model", "finish_reason", "event_id", "name"])
@pytest.mark.parametrize("value", [Hostile("u1"), ["u1"]], ids=["hostile", "a list"])
def test_a_word_that_is_no_plain_text_ends_nothing(field, value):
    """A plugin's hook may have put it there. The span goes out with its content; at most it lacks its words."""
    odd = span(inputs={"q": "why"}, **{field: value})
    Finisher(10, Guard(), REDACT)(odd)
    assert odd.inputs == {"q": "why"}
    assert json.loads(json.dumps(odd.to_dict()))[field] in (None, "", "u1", "custom", "<builtins.list>")


def test_what_a_hook_has_put_there_becomes_plain_data():
    """A backend can write all content as JSON, and the queues can weigh it."""
    odd = span(inputs={"ids": {7}, "by": b"123"}, outputs=[object()], attributes={"of": (1, 2.5)})
    Finisher(4, Guard(), REDACT)(odd)
    assert (odd.inputs, odd.outputs) == (
        {"ids": [7], "by": "<3 b… [5 more characters]"},
        ["<bui… [13 more characters]"],
    )
    assert odd.attributes == {"of": [1, 2.5]}
    assert json.loads(json.dumps(odd.to_dict()))["inputs"] == odd.inputs


@pytest.mark.parametrize(("name", "shown"), [(5, "<builtins.int>"), (None, "<builtins.NoneType>")])
def test_a_name_is_text(name, shown):
    """Also where the program gave something else as one."""
    odd = span(name=name)
    Finisher(4, Guard(), REDACT)(odd)
    assert odd.name == shown


def test_the_limit_is_the_configuration_s():
    """`max_text_chars` reaches the backends."""
    memory = Memory()
    tracer = tracer_of(memory, tracing={"max_text_chars": 3})
    one_span(tracer, "abcdef")
    assert tracer.flush()
    assert memory.spans[0].name == "abc… [3 more characters]"


def test_the_ids_of_what_can_t_be_checked_are_checked_alone(monkeypatch):
    """One comment on which a pattern takes too long: ids are still redacted, and what has no id left goes nowhere."""
    monkeypatch.setattr("spanhook.redaction.redactor.PATTERN_TIMEOUT_S", 0.01)
    endless = "a" * 40 + "c"
    memory = Memory()
    tracer = tracer_of(memory, redact={"patterns": [r"(a|aa)+$", r"CUST-\d+"]})
    tracer.track_signal("CUST-4711", "about CUST-1", comment=endless)
    tracer.track_signal("e", endless)
    tracer.track_signal(endless, "n")
    tracer.identify("CUST-4711", {"a": endless})
    tracer.identify(endless, {})
    assert not tracer.flush(30.0)
    assert [(signal.event_id, signal.name, signal.comment) for signal in memory.signals] == [
        ("[redacted]", "about [redacted]", None), ("e", "default", None),
    ]  # fmt: skip
    assert memory.identities == [("[redacted]", {})]
    (stats,) = tracer.stats().backends.values()
    assert stats.dropped == {"not_prepared": 2}


def test_what_a_user_wrote_is_content():
    """`capture = "metadata"` leaves a signal its numbers and its sentiment."""
    memory = Memory()
    tracer = tracer_of(memory, tracing={"capture": "metadata"})
    tracer.track_signal(
        "e", "edited", "edit", comment="you wrote", after="all of it", sentiment="NEGATIVE", properties={"score": 0.5}
    )
    assert tracer.flush()
    (signal,) = memory.signals
    assert (signal.comment, signal.after) == (None, None)
    assert (signal.name, signal.type, signal.sentiment, signal.properties) == (
        "edited", "edit", "NEGATIVE", {"score": 0.5},
    )  # fmt: skip
