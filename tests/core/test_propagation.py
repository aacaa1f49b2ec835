"""One trace in several processes: what `inject` writes, `attach` continues, and how far that reaches."""

from __future__ import annotations

import asyncio
import contextvars
import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator

import dspy
import pytest

import spanhook
from doubles import Memory, tracer_of
from programs import Answerer
from remote_trace import SPAN, TRACE, TRACEPARENT, local_roots

pytestmark = pytest.mark.usefixtures("dummy_lm")


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
    front_root, root = local_roots(memory)
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
    with spanhook.attach({"traceparent": TRACEPARENT}):
        with tracer.interaction() as first:
            Answerer()(question="1")
        with tracer.interaction(event_id="order-17", user_id="u2") as second:
            pass
    tracer.flush()
    assert first.trace_id == second.trace_id == TRACE
    assert uuid.UUID(first.event_id).version == 7
    assert second.event_id == "order-17"
    assert [(root.parent_id, root.event_is_remote) for root in local_roots(memory)] == [(SPAN, False)] * 2
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
    with spanhook.attach({"traceparent": TRACEPARENT}):
        dspy.Parallel(num_threads=2, disable_progress_bar=True)([(Answerer(), {"question": "p"})] * 3)
        carried = contextvars.copy_context()
        for run in (lambda: None, lambda: carried.run(Answerer(), question="carried")):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
    Answerer()(question="after")
    tracer.flush()
    found = [(span.inputs["question"], span.trace_id, span.parent_id) for span in local_roots(memory)]
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
        with spanhook.attach({"traceparent": TRACEPARENT}), tracer.span("in a tool"):
            pass
        return question

    with tracer.span("loop") as loop:
        with spanhook.attach({"traceparent": TRACEPARENT}):
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
    with spanhook.attach({"traceparent": TRACEPARENT}), tracer.span("kept"):
        assert spanhook.inject({})["traceparent"].endswith("-01")
    with tracer.span("left out"):
        assert spanhook.inject({})["traceparent"].endswith("-00")
    tracer = tracer_of(memory)
    with spanhook.attach({"traceparent": f"00-{TRACE}-{SPAN}-00"}), tracer.span("left out"):
        pass
    tracer.flush()
    assert [span.name for span in memory.spans] == ["kept"]
    assert tracer.stats().sampled_out == 1


def test_nothing_is_injected_where_nothing_runs(memory: Memory) -> None:
    """Nor after the tracer was shut down."""
    tracer = tracer_of(memory)
    assert spanhook.inject({}) == {}
    tracer.shutdown()
    with tracer.span("work"):
        assert spanhook.inject({"a": "b"}) == {"a": "b"}


def test_a_generator_closed_elsewhere_leaves_nothing_behind(memory: Memory) -> None:
    """An attach in a generator that another context closes: no error, and nothing stays attached there."""
    tracer = tracer_of(memory)

    def streaming() -> Iterator[int]:
        with spanhook.attach({"traceparent": TRACEPARENT}):
            yield 1

    stream = streaming()
    contextvars.copy_context().run(next, stream)
    stream.close()  # type: ignore[attr-defined]
    with tracer.span("after") as span:
        pass
    assert span.parent_id is None
    assert not tracer.stats().errors
