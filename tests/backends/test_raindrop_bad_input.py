"""Whatever a program puts into its calls: Raindrop gets an event that it can take, and the program never notices."""

from __future__ import annotations

import contextlib
import datetime
import json
import threading
from typing import Any

import dspy
import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lm_server import LMServer
from programs import Answerer

pytest.importorskip("raindrop")

from raindrop_contract import MAX_EVENT_BYTES
from raindrop_server import RaindropServer
from raindrop_tracing import traced, tracing

from spanhook_backends.raindrop import delivery
from spanhook_backends.raindrop.texts import fit, fit_both, text_of, texts_of, wire_bytes


class Echo(dspy.Module):
    """Returns what it gets."""

    def forward(self, **inputs: Any) -> dspy.Prediction:
        return dspy.Prediction(**inputs)


class Order(pydantic.BaseModel):
    number: int
    note: str


def test_an_event_stays_below_a_mebibyte(raindrop: RaindropServer) -> None:
    """50 MB in many strings, each of them within the bound for one: cut, and what is cut says so."""
    pages = [character * 100_000 for character in "aé🌧" * 170]
    assert sum(len(page.encode()) for page in pages) > 50_000_000 / 2
    with traced(raindrop):
        Echo()(pages=pages, question="Why?")
    (event,) = raindrop.events
    assert len(json.dumps(event)) < MAX_EVENT_BYTES
    assert "[cut]" in event["ai_data"]["input"] or "more" in event["ai_data"]["input"]


def test_one_text_of_50_mb(raindrop: RaindropServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the bounds for one string and for the queue are far beyond what Raindrop takes."""
    monkeypatch.setenv("SPANHOOK_DELIVERY__QUEUE_BYTES", "1000000000")
    with tracing(raindrop, section={"max_text_chars": 100_000_000}) as tracer:
        with tracer.interaction("u1", properties={"page": "p" * 5_000_000}):
            Echo()(text="x" * 50_000_000)
        assert tracer.flush(30)
    (event,) = raindrop.events
    assert raindrop.problems == []
    assert len(json.dumps(event)) < MAX_EVENT_BYTES
    assert event["ai_data"]["input"].startswith("xxx")
    assert event["ai_data"]["input"].endswith("more characters]")
    assert event["properties"]["page"].endswith("more characters]")


def test_a_message_without_content(raindrop: RaindropServer) -> None:
    """As only another library's messages are: the whole conversation is the input, and no other event suffers."""
    with LMServer() as server, traced(raindrop), contextlib.suppress(Exception):
        Echo()(text="before")
        server.lm()(messages=[{"role": "user", "parts": ["hi"]}])
    first, second = (event["ai_data"]["input"] for event in raindrop.events)
    assert first == "before"
    assert "hi" in second


@pytest.mark.skipif(not hasattr(dspy, "lm15"), reason="DSPy 3.4 has brought typed requests")
@pytest.mark.parametrize("in_interaction", [False, True])
def test_a_typed_request(raindrop: RaindropServer, in_interaction: bool) -> None:
    """`lm(dspy.lm15.Request(…))`: what was asked last and what was answered, as of any other call."""
    types = dspy.lm15
    with LMServer() as server, contextlib.ExitStack() as around:
        lm = server.lm(engine="lm15")
        tool = types.FunctionTool(name="find", description="Finds.", parameters={"type": "object"})
        messages = (types.Message.user("Hi"), types.Message.assistant("Yes?"), types.Message.user("Where?"))
        tracer = around.enter_context(traced(raindrop))
        if in_interaction:
            around.enter_context(tracer.interaction())
        lm(types.Request(model=lm.model, system="Be short.", messages=messages, tools=(tool,)))
    (event,), (span,) = raindrop.events, raindrop.spans
    assert (event["ai_data"]["input"], event["ai_data"]["output"]) == ("Where?", "answer-1")
    assert span.attributes["gen_ai.completion.0.content"] == "answer-1"
    asked = json.loads(str(span.attributes["gen_ai.prompt.0.content"]))
    assert [message["content"] for message in asked] == ["Be short.", "Hi", "Yes?", "Where?"]
    (offered,) = span.attributes["ai.prompt.tools"]
    assert json.loads(offered)["name"] == "find"


def test_an_event_that_cannot_be_made_loses_no_other(raindrop: RaindropServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever nobody thought of: its own spans count as failed, and the others arrive."""
    event_of = delivery.event_of

    def fails(trace: Any, *others: Any) -> Any:
        if trace.root.user_id == "u1":
            raise KeyError("odd")
        return event_of(trace, *others)

    monkeypatch.setattr(delivery, "event_of", fails)
    with tracing(raindrop) as tracer:
        for number in range(3):
            with tracer.interaction(f"u{number}"), tracer.span("x", q="Why?"):
                pass
        assert not tracer.flush(30)
        stats = tracer.stats().backends["raindrop"]
    assert (stats.delivered, stats.failed) == (4, 2)
    assert [event["user_id"] for event in raindrop.events] == ["u0", "u2"]


def test_half_characters(raindrop: RaindropServer) -> None:
    """Lone surrogates, in texts, ids and names: the event is valid Unicode."""
    broken = ("u\ud800", "c\udfff", "e\ud800", {"p\ud800": "v\udfff"}, "id-\ud800")
    with traced(raindrop) as tracer, tracer.interaction(*broken):
        Echo()(text="broken \ud83d emoji")
    (event,) = raindrop.events
    assert (event["user_id"], event["event_id"], event["ai_data"]["convo_id"]) == ("u?", "id-?", "c?")
    assert event["ai_data"]["input"] == "broken ? emoji"
    assert event["properties"]["p?"] == "v?"


def test_what_is_no_json(raindrop: RaindropServer) -> None:
    """Locks, generators, arrays, images, models, cycles, numbers that JSON lacks: one event, and nothing consumed."""
    numpy = pytest.importorskip("numpy")
    generator = iter([1, 2, 3])
    circle: list[Any] = []
    circle.append(circle)
    inputs = {
        "lock": threading.Lock(),
        "generator": generator,
        "array": numpy.zeros((100, 100)),
        "image": dspy.Image(url="data:image/png;base64,AAAA"),
        "order": Order(number=17, note="fragile"),
        "circle": circle,
        "nan": float("nan"),
        "huge": 10**5000,
        "bytes": b"\x00\xff",
        "when": datetime.date(2026, 1, 2),
        "keys": {1: "one", (2, 3): "two"},
    }
    with traced(raindrop) as tracer, tracer.interaction(properties={"lock": threading.Lock(), "nan": float("inf")}):
        Echo()(**inputs)
    (event,) = raindrop.events
    lines = event["ai_data"]["input"].splitlines()
    assert len(lines) == len(inputs)
    assert lines[4] == '{"number": 17, "note": "fragile"}'
    assert lines[9] == "2026-01-02"
    assert list(generator) == [1, 2, 3]


def test_a_call_with_nothing_in_it(raindrop: RaindropServer) -> None:
    """No input and no output, or empty ones: Raindrop takes no event without text, so it says that there was none."""

    class Nothing(dspy.Module):
        def forward(self, **inputs: Any) -> None:
            return None

    with traced(raindrop):
        Nothing()()
        Echo()(text="")
    assert [event["ai_data"] for event in raindrop.events] == [{"input": "[no text captured]"}] * 2


def test_many_properties(raindrop: RaindropServer) -> None:
    """What has no room is left out, and counted."""
    properties = {f"p{number}": "x" * 10_000 for number in range(100)}
    with traced(raindrop) as tracer, tracer.interaction(properties=properties) as interaction:
        interaction.inputs = {"question": "Why?"}
    (event,) = raindrop.events
    kept = [name for name in event["properties"] if name in properties]
    assert event["properties"]["spanhook.properties_left_out"] == 100 - len(kept)
    assert len(kept) > 10


def test_a_property_does_not_hide_what_happened(raindrop: RaindropServer) -> None:
    """The program's own properties can't be taken for Spanhook's."""
    given = {"ai.usage.prompt_tokens": "lots", "spanhook.trace_id": "mine"}
    with LMServer() as server, dspy.context(lm=server.lm()), traced(raindrop) as tracer:
        interaction = tracer.interaction(properties=given)
        with interaction:
            Answerer()(question="Why?")
    (event,) = raindrop.events
    assert event["properties"]["ai.usage.prompt_tokens"] == server.answered[1].tokens.prompt
    assert event["properties"]["spanhook.trace_id"] == interaction.trace_id


texts = st.text(st.characters(), max_size=200)


@example("\U00010000" * 2, 24)  # two escapes each, and two quotes
@given(texts, st.integers(2, 400))
def test_a_text_is_cut_to_fit(text: str, room: int) -> None:
    """Never more bytes of JSON than there is room for, beside the mark; untouched where it fits."""
    cut = fit(text, room)
    assert (cut == text) == (wire_bytes(text) <= room)
    kept = cut if cut == text else cut.rpartition("… [")[0]
    assert wire_bytes(kept) <= room
    assert text.startswith(kept)


@given(st.none() | texts, st.none() | texts, st.integers(200, 2_000))
def test_two_texts_share_the_room(first: str | None, second: str | None, room: int) -> None:
    """Together they fit, and neither is cut without need."""
    cut = fit_both(first, second, room)
    sizes = [0 if text is None else wire_bytes(text) for text in (first, second)]
    for text, size, result in zip((first, second), sizes, cut, strict=True):
        assert (result is None) == (text is None)
        assert result == text or (sum(sizes) > room and size > room // 2)
    assert sum(0 if text is None else wire_bytes(text) for text in cut) <= room + 2 * 60


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=9), below, max_size=4),
)


@given(json_values, st.integers(1, 50))
def test_a_value_as_text(value: Any, room: int) -> None:
    """As JSON that reads back, or cut: never much longer than asked for."""
    whole = text_of(value)
    assert isinstance(value, str) or json.loads(whole) == value
    assert len(text_of(value, room)) <= room + 40


def test_values_one_below_the_other() -> None:
    """Strings as they are, all else as JSON; nothing where there is no text."""
    assert texts_of({"a": "x", "b": [1, None], "c": True}) == "x\n[1, null]\ntrue"
    assert texts_of(["x", "y"]) == "x\ny"
    assert texts_of([{"text": "x"}]) == '[{"text": "x"}]'
    assert [texts_of(empty) for empty in ({}, None, "", [], {"a": ""})] == [None] * 5
