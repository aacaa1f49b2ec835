"""One trace in several processes: what `inject` writes, `attach` continues, and what neither of them takes."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from email.message import Message
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import spanhook
from doubles import Memory, tracer_of
from programs import Answerer
from spanhook import RemoteParent, w3c

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


pytestmark = pytest.mark.usefixtures("dummy_lm")


def roots(memory: Memory) -> list[spanhook.Span]:
    return [span for span in memory.spans if span.is_local_root]


def test_a_call_continues_the_callers_trace(memory: Memory) -> None:
    """Trace, parent, user, conversation and event; each span says which one is the root here."""
    tracer = tracer_of(memory)
    with tracer.interaction(user_id="u 1, ü;=%", convo_id="c1") as front:
        headers = spanhook.inject({"accept": "text/html"})
        outer = spanhook.current_span()
        assert outer is not None
    assert headers["traceparent"] == f"00-{front.trace_id}-{outer.span_id}-01"
    assert headers["baggage"].isascii()
    with spanhook.attach(headers):
        Answerer()(question="Why?")
    tracer.flush()
    front_root, root = roots(memory)
    assert front_root.parent_id is None
    assert not front_root.event_is_remote
    assert (root.name, root.trace_id, root.parent_id) == ("Answerer", front.trace_id, outer.span_id)
    assert (root.user_id, root.convo_id, root.event_id) == ("u 1, ü;=%", "c1", front.event_id)
    assert root.event_is_remote
    below = [span for span in memory.spans if span.local_root_id == root.span_id]
    assert len(below) > 2
    assert {span.trace_id for span in below} == {front.trace_id}
    assert [span for span in below if span.is_local_root] == [root]


def test_headers_of_their_own(memory: Memory) -> None:
    """Without an argument `inject` makes a dict, a new one each time."""
    tracer = tracer_of(memory)
    assert spanhook.inject() == {}
    with tracer.interaction(user_id="u1"):
        assert spanhook.inject() == spanhook.inject({}) != {}
    assert spanhook.inject() == {}


def test_a_worker_process_continues_the_trace_and_its_feedback_meets_it(memory: Memory) -> None:
    """The real thing: another interpreter that knows the headers only."""
    tracer = tracer_of(memory)
    with tracer.interaction(user_id="u1") as front:
        headers = spanhook.inject({})
    worker = """
import json, sys, spanhook
from doubles import Memory, tracer_of
memory = Memory()
tracer = tracer_of(memory)
with spanhook.attach(json.loads(sys.argv[1])):
    with tracer.interaction(event="work") as interaction:
        pass
tracer.track_signal(interaction.event_id, "thumbs_up")
tracer.flush()
span, = memory.spans
print(json.dumps([span.trace_id, span.parent_id, span.user_id, memory.signals[0].event_id]))
"""
    done = subprocess.run(
        [sys.executable, "-c", worker, json.dumps(headers)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
    )
    tracer.flush()
    (root,) = memory.spans
    assert json.loads(done.stdout) == [front.trace_id, root.span_id, "u1", front.event_id]


def test_interactions_under_one_foreign_trace_have_events_of_their_own(memory: Memory) -> None:
    """A caller that is no Spanhook names no event: two interactions must not share one by accident."""
    tracer = tracer_of(memory)
    with spanhook.attach({"traceparent": PARENT}):
        with tracer.interaction() as first:
            Answerer()(question="1")
        with tracer.interaction(event_id="order-17", user_id="u2") as second:
            pass
    tracer.flush()
    assert first.trace_id == second.trace_id == TRACE
    assert uuid.UUID(first.event_id).version == 7
    assert second.event_id == "order-17"
    assert [(root.parent_id, root.event_is_remote) for root in roots(memory)] == [(SPAN, False)] * 2
    assert len({span.local_trace_key for span in memory.spans}) == 2


def test_it_reaches_tasks_and_dspys_threads_and_no_further(memory: Memory) -> None:
    """Each task has its own; after the block and on other threads new traces begin."""
    tracer = tracer_of(memory)

    async def serve(number: int) -> None:
        with spanhook.attach({"traceparent": f"00-{number:032x}-{SPAN}-01"}):
            await asyncio.gather(*(Answerer().acall(question=str(number)) for _ in range(2)))

    async def everyone() -> None:
        await asyncio.gather(*(serve(number) for number in range(1, 9)))

    asyncio.run(everyone())
    with spanhook.attach({"traceparent": PARENT}):
        dspy.Parallel(num_threads=2, disable_progress_bar=True)([(Answerer(), {"question": "p"})] * 3)
        carried = contextvars.copy_context()
        for run in (lambda: None, lambda: carried.run(Answerer(), question="carried")):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
    Answerer()(question="after")
    tracer.flush()
    found = [(span.inputs["question"], span.trace_id, span.parent_id) for span in roots(memory)]
    in_tasks = [one for one in found if one[0].isdigit()]
    assert len(in_tasks) == 16
    assert all(trace_id == f"{int(question):032x}" for question, trace_id, _ in in_tasks)
    assert [one for one in found if one[0] in ("p", "carried")] == [("p", TRACE, SPAN)] * 3 + [("carried", TRACE, SPAN)]
    assert [parent for question, _, parent in found if question == "after"] == [None]


def test_a_message_loop_inside_a_span_continues_the_messages_traces(memory: Memory) -> None:
    """What is attached is further in than the loop's own span, or than the DSPy call that runs; a call's own trace
    attached again changes nothing."""
    tracer = tracer_of(memory)

    def tool(question: str) -> str:
        with spanhook.attach({"traceparent": PARENT}), tracer.span("in a tool"):
            pass
        return question

    with tracer.span("loop") as loop:
        with spanhook.attach({"traceparent": PARENT}):
            Answerer()(question="message")
            with tracer.span("work"), tracer.span("more"):
                pass
        with spanhook.attach(spanhook.inject({})), tracer.span("own"):
            pass
        dspy.Tool(tool)(question="q")
    tracer.flush()
    by_name = {span.name: span for span in memory.spans}
    assert [(by_name[name].trace_id, by_name[name].parent_id) for name in ("Answerer", "work", "in a tool")] == [
        (TRACE, SPAN)
    ] * 3
    assert by_name["more"].parent_id == by_name["work"].span_id
    assert by_name["own"].parent_id == by_name["tool"].parent_id == loop.span_id
    assert loop.parent_id is None


def test_the_callers_sampling_counts(memory: Memory) -> None:
    """Kept there, kept here, whatever the rate; left out there, left out and counted here, and said to the next."""
    tracer = tracer_of(memory, tracing={"sample_rate": 0.0})
    with spanhook.attach({"traceparent": PARENT}), tracer.span("kept"):
        assert spanhook.inject({})["traceparent"].endswith("-01")
    with tracer.span("left out"):
        assert spanhook.inject({})["traceparent"].endswith("-00")
    tracer = tracer_of(memory)
    with spanhook.attach({"traceparent": f"00-{TRACE}-{SPAN}-00"}), tracer.span("left out"):
        pass
    tracer.flush()
    assert [span.name for span in memory.spans] == ["kept"]
    assert tracer.stats().sampled_out == 1


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


def test_nothing_is_injected_where_nothing_runs(memory: Memory) -> None:
    """Nor after the tracer was shut down."""
    tracer = tracer_of(memory)
    assert spanhook.inject({}) == {}
    tracer.shutdown()
    with tracer.span("work"):
        assert spanhook.inject({"a": "b"}) == {"a": "b"}


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": PARENT},
        {"TraceParent": f" {PARENT}\t"},
        {"HTTP_TRACEPARENT": PARENT},  # WSGI
        [(b"host", b"x"), (b"traceparent", PARENT.encode())],  # ASGI
        {"traceparent": [PARENT]},
        {"traceparent": f"cc-{TRACE}-{SPAN}-01-what-comes-later"},
        {"traceparent": f"cc-{TRACE}-{SPAN}-01"},
        {1: 2, "x": None, "traceparent": PARENT, "baggage": "a=b"},
    ],
)
def test_headers_as_servers_have_them(headers: Any, memory: Memory) -> None:
    """Names in any case, bytes, lists, pairs, and versions that are still to come."""
    tracer = tracer_of(memory)
    with spanhook.attach(headers), tracer.span("work") as span:
        pass
    assert (span.trace_id, span.parent_id) == (TRACE, SPAN)
    assert not tracer.stats().errors


NONSENSE = [
    "",
    "nonsense",
    PARENT.upper(),
    PARENT[:-1],
    PARENT + "0",
    PARENT + "-",
    PARENT + "-more",
    f"ff-{TRACE}-{SPAN}-01",
    f"0-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"cc-{TRACE}-{SPAN}-01.later",
    f"{PARENT},{PARENT}",
    PARENT.replace("-", "_"),
    PARENT + "\r\nSet-Cookie: a=b",
    PARENT.replace("4b", "٤b"),
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

    for headers in ([("traceparent", PARENT), ("Traceparent", PARENT)], Hostile(a="b"), 17, {"traceparent": object()}):
        with spanhook.attach(headers), tracer.span("work") as span:  # type: ignore[arg-type]
            pass
        assert span.parent_id is None
    for baggage in ("x=y," * 100, "spanhook.user_id=" + "u" * 9_000, "spanhook.user_id=a%0Ab", "spanhook.user_id=%20"):
        with spanhook.attach({"traceparent": PARENT, "baggage": baggage}), tracer.span("work") as span:
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


def test_a_generator_closed_elsewhere_leaves_nothing_behind(memory: Memory) -> None:
    """An attach in a generator that another context closes: no error, and nothing stays attached there."""
    tracer = tracer_of(memory)

    def streaming() -> Iterator[int]:
        with spanhook.attach({"traceparent": PARENT}):
            yield 1

    stream = streaming()
    contextvars.copy_context().run(next, stream)
    stream.close()  # type: ignore[attr-defined]
    with tracer.span("after") as span:
        pass
    assert span.parent_id is None
    assert not tracer.stats().errors


@pytest.mark.parametrize("ids", [("x" * 32, SPAN), (TRACE.upper(), SPAN), (TRACE, "0" * 16), (None, SPAN), (TRACE, 7)])
def test_a_remote_parent_has_valid_ids(ids: Any) -> None:
    """A plugin that makes one from nonsense hears of it where it does so."""
    with pytest.raises(ValueError, match="hex digits in lower case"):
        RemoteParent(*ids)


class OtherTracing:
    """A plugin that knows what another tracing system has open."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    @spanhook.hookimpl
    def trace_parent(self) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @spanhook.hookimpl
    def span_end(self) -> None:
        return None


def test_a_trace_goes_on_under_another_systems_span(memory: Memory) -> None:
    """Asked once a trace, not once a span; what is no parent, or raises, is counted and a new trace begins."""
    here = RemoteParent(TRACE, SPAN, sampled=True)
    other = OtherTracing(here, None, "nonsense", ValueError("no"), here, RemoteParent(TRACE, "1" * 16, sampled=True))
    tracer = tracer_of(memory, other)
    for _ in range(4):
        with tracer.span("work"), tracer.span("below"):
            pass
    caller = {"traceparent": f"00-{'a' * 32}-{SPAN}-01"}
    with spanhook.attach(caller), tracer.span("another trace"):
        pass
    with spanhook.attach({"traceparent": PARENT, "baggage": "spanhook.event_id=e1"}), tracer.span("same trace"):
        pass
    tracer.flush()
    assert [(root.trace_id == TRACE, root.parent_id) for root in roots(memory)] == [
        (True, SPAN),
        (False, None),
        (False, None),
        (False, None),
        (False, SPAN),
        (True, "1" * 16),
    ]
    assert memory.spans[-1].event_id == "e1"
    assert other.answers == []
    assert tracer.stats().errors == {
        "extractor b: trace_parent: refused, returned str, not a spanhook.RemoteParent": 1,
        "extractor b: trace_parent: ValueError": 1,
    }
