"""Headers as they come: in every server's form, nonsense, hostile; and what others have put there stays."""

from __future__ import annotations

import logging
import uuid
from email.message import Message
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import spanhook
from doubles import Memory, tracer_of
from remote_trace import SPAN, TRACE, TRACEPARENT
from spanhook import RemoteParent, w3c


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": TRACEPARENT},
        {"TraceParent": f" {TRACEPARENT}\t"},
        {"HTTP_TRACEPARENT": TRACEPARENT},  # WSGI
        [(b"host", b"x"), (b"traceparent", TRACEPARENT.encode())],  # ASGI
        {"traceparent": [TRACEPARENT]},
        {"traceparent": f"cc-{TRACE}-{SPAN}-01-what-comes-later"},
        {"traceparent": f"cc-{TRACE}-{SPAN}-01"},
        {1: 2, "x": None, "traceparent": TRACEPARENT, "baggage": "a=b"},
    ],
)
def test_headers_as_servers_have_them(headers: Any, memory: Memory) -> None:
    """Names in any case, bytes, lists, pairs, and versions that are still to come."""
    tracer = tracer_of(memory)
    with spanhook.attach(headers), tracer.span("work") as span:
        pass
    assert (span.trace_id, span.parent_id) == (TRACE, SPAN)
    assert not tracer.stats().errors


def test_what_others_put_into_the_headers_stays(memory: Memory) -> None:
    """Their baggage and tracestate; ours are replaced, whatever the names' case."""
    tracer = tracer_of(memory)
    came = {
        "Traceparent": f"00-{TRACE}-{SPAN}-03",
        "Baggage": "team=blue;p=1, spanhook.user_id=old,spanhook.event_id=e1",
        "tracestate": "vendor=1",
    }
    with spanhook.attach(came):
        passed_on = spanhook.inject({})
        with tracer.interaction(user_id="new"):
            headers = spanhook.inject(dict(came))
    assert passed_on["traceparent"] == came["Traceparent"]
    assert headers["Traceparent"].startswith(f"00-{TRACE}-")
    assert headers["Traceparent"].endswith("-03")
    assert headers["Baggage"] == "team=blue;p=1,spanhook.user_id=new,spanhook.event_id=e1"
    assert headers["tracestate"] == passed_on["tracestate"] == "vendor=1"
    assert len(headers) == 3
    message = Message()
    message["TraceParent"] = "old"
    with tracer.span("work"):
        spanhook.inject(message)  # type: ignore[type-var]  # a mapping in all but name
    assert len(message.get_all("traceparent", [])) == 1


NONSENSE = [
    "",
    "nonsense",
    TRACEPARENT.upper(),
    TRACEPARENT[:-1],
    TRACEPARENT + "0",
    TRACEPARENT + "-",
    TRACEPARENT + "-more",
    f"ff-{TRACE}-{SPAN}-01",
    f"0-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"cc-{TRACE}-{SPAN}-01.later",
    f"{TRACEPARENT},{TRACEPARENT}",
    TRACEPARENT.replace("-", "_"),
    TRACEPARENT + "\r\nSet-Cookie: a=b",
    TRACEPARENT.replace("4b", "٤b"),
    "x" * 1_000_000,
]


@pytest.mark.parametrize("text", NONSENSE, ids=range(len(NONSENSE)))
def test_a_traceparent_that_is_none_is_said_once_and_counted(
    text: str, memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    """A new trace begins, and nothing of the text is in the log."""
    tracer = tracer_of(memory, tracing={"strict": True})
    with caplog.at_level(logging.WARNING, "spanhook"):
        for _ in range(3):
            with spanhook.attach({"traceparent": text}), tracer.span("work") as span:
                pass
    assert span.parent_id is None
    assert uuid.UUID(span.trace_id).version == 7
    assert list(tracer.stats().errors.values()) == [3]
    (said,) = caplog.messages
    assert said.startswith("attach: refused (logged once): traceparent: ")
    assert len(said) < 200
    assert said.isprintable()


def test_hostile_headers_and_baggage(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    """Two traceparents, baggage beyond all limits or with control characters, mappings that raise."""
    tracer = tracer_of(memory)

    class Hostile(dict[str, str]):
        def items(self) -> Any:
            raise RuntimeError("no")

    for headers in (
        [("traceparent", TRACEPARENT), ("Traceparent", TRACEPARENT)],
        Hostile(a="b"),
        17,
        {"traceparent": object()},
    ):
        with spanhook.attach(headers), tracer.span("work") as span:  # type: ignore[arg-type]
            pass
        assert span.parent_id is None
    for baggage in ("x=y," * 100, "spanhook.user_id=" + "u" * 9_000, "spanhook.user_id=a%0Ab", "spanhook.user_id=%20"):
        with spanhook.attach({"traceparent": TRACEPARENT, "baggage": baggage}), tracer.span("work") as span:
            pass
        assert (span.trace_id, span.user_id) == (TRACE, None)
    with tracer.interaction(user_id="u\n1", convo_id="c" * 2_000):
        assert "user_id" not in spanhook.inject({})["baggage"]
        full = {"baggage": "x=" + "y" * 8_180}
        assert spanhook.inject(dict(full))["baggage"] == full["baggage"]
        spanhook.inject(17)  # type: ignore[type-var]
    assert sum(tracer.stats().errors.values()) == 11
    assert "\n" not in "".join(caplog.messages)


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.?", fullmatch=True), st.text())
def test_any_text_gives_a_valid_parent_or_none(traceparent: str, baggage: str) -> None:
    """Whatever comes from outside: `attach` never raises, and what it continues has valid ids."""
    with spanhook.attach({"traceparent": traceparent, "baggage": baggage}):
        headers = spanhook.inject({})
    if headers:
        trace_id, span_id, *_ = w3c.read_traceparent(headers["traceparent"])
        assert RemoteParent(trace_id, span_id)


@given(st.dictionaries(st.sampled_from(["spanhook.user_id", "spanhook.convo_id"]), st.text(max_size=50)))
def test_baggage_comes_back_as_it_was(values: dict[str, str]) -> None:
    """Any text that can be an id."""
    values = {key: value for key, value in values.items() if w3c.fits(value)}
    text = w3c.add_baggage("", values, "spanhook.")
    assert text.isascii()
    assert w3c.read_baggage(text, values) == {
        key: value.encode(errors="replace").decode() for key, value in values.items()
    }
