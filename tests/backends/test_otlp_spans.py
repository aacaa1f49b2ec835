"""What a receiver gets of a program: the tree with its own ids, what kind each call was, its numbers and attributes."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import dspy
import pytest

from lm_server import LMServer, Reply
from programs import Answerer, FanOut

pytest.importorskip("opentelemetry.proto")

from otlp_server import OTLPServer, traced
from otlp_wire import OTLPSpan

from spanhook import Span, SpanError
from spanhook.testing import capture_spans


def _by_id(receiver: OTLPServer) -> dict[str, OTLPSpan]:
    found = {span.span_id: span for span in receiver.spans}
    assert len(found) == len(receiver.spans)
    return found


def _same(span: Span, arrived: OTLPSpan) -> None:
    assert (arrived.trace_id, arrived.span_id, arrived.parent_id) == (span.trace_id, span.span_id, span.parent_id)
    assert (arrived.name, arrived.start_ns, arrived.end_ns) == (span.name, span.start_ns, span.end_ns)
    assert arrived.attributes["spanhook.kind"] == span.kind
    assert arrived.attributes["spanhook.event_id"] == span.event_id
    assert arrived.span_kind == ("CLIENT" if span.kind == "lm" else "INTERNAL")
    assert arrived.scope == "spanhook"


def test_a_program_arrives_as_it_was_captured(receiver: Any) -> None:
    """The whole tree over threads, with its own ids, times, tokens and cost, over both protocols."""
    with (
        LMServer() as lm,
        traced(receiver, section={"service": "shop"}) as tracer,
        capture_spans(tracer) as made,
        dspy.context(lm=lm.lm(cache=False)),
    ):
        FanOut()(questions=[f"question {number}" for number in range(8)])
    got = _by_id(receiver)
    assert set(got) == {span.span_id for span in made}
    for span in made:
        arrived = got[span.span_id]
        _same(span, arrived)
        assert arrived.resource["service.name"] == "shop"
        usage = span.usage
        if span.kind == "lm":
            assert usage is not None
            assert arrived.attributes["gen_ai.usage.input_tokens"] == usage.input_tokens
            assert arrived.attributes["llm.token_count.completion"] == usage.output_tokens
            assert arrived.attributes.get("llm.cost.total") == span.cost_usd
        elif span.name == "Predict":
            assert arrived.attributes["llm.prompt_template.version"] == span.attributes["prompt_version"]
        if span.kind != "lm" and usage is not None:
            assert arrived.attributes["spanhook.usage.input_tokens"] == usage.input_tokens
    root = next(span for span in receiver.spans if span.parent_id is None)
    summed = sum(span.attributes.get("llm.token_count.total", 0) for span in receiver.spans)
    assert root.attributes["spanhook.usage.total_tokens"] == summed  # so nothing that adds spans up counts twice
    assert "gen_ai.usage.input_tokens" not in root.attributes


def test_an_agent_is_one_that_ran_a_tool_itself(receiver: Any) -> None:
    """ReAct is an agent by what it does; the modules in it and around it are workflows. The tool's error is told."""

    def find(order: str) -> str:
        raise LookupError(f"no order {order}")

    class Desk(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.agent = dspy.ReAct("question -> answer", tools=[find], max_iters=1)

        def forward(self, question: str) -> Any:
            return self.agent(question=question)

    step = Reply(fields={"next_thought": "…", "next_tool_name": "find", "next_tool_args": {"order": "17"}})
    with LMServer() as lm, traced(receiver), dspy.context(lm=lm.lm(cache=False)):
        lm.script([step])
        Desk()(question="Where?")
    named = {span.name: span for span in receiver.spans}
    assert named["ReAct"].attributes["openinference.span.kind"] == "AGENT"
    assert named["ReAct"].attributes["gen_ai.operation.name"] == "invoke_agent"
    assert named["ReAct"].attributes["gen_ai.agent.name"] == "ReAct"
    assert named["Desk"].attributes["openinference.span.kind"] == "CHAIN"
    assert named["Desk"].attributes["gen_ai.operation.name"] == "invoke_workflow"
    assert named["Desk"].attributes["gen_ai.workflow.name"] == "Desk"
    tool = named["find"]
    assert tool.parent_id == named["ReAct"].span_id
    assert (tool.is_error, tool.status_message) == (True, "no order 17")
    assert tool.attributes["error.type"] == "LookupError"
    (exception,) = tool.exceptions
    assert exception["exception.type"] == "LookupError"
    assert exception["exception.message"] == "no order 17"
    assert "in find" in exception["exception.stacktrace"]
    assert tool.events[0].time_ns == tool.end_ns
    assert json.loads(tool.attributes["gen_ai.tool.call.arguments"]) == {"order": "17"}


def test_a_cached_call_and_a_failed_one_have_no_tokens(receiver: Any) -> None:
    """What was not spent is not sent: not even a zero."""
    with LMServer() as lm, traced(receiver), dspy.context(lm=lm.lm(cache=True, num_retries=0)):
        question = f"a new one: {uuid.uuid4()}"
        Answerer()(question=question)
        Answerer()(question=question)
        lm.script([Reply(status=400)] * 2)  # DSPy 3.0 asks again, with another adapter
        with pytest.raises(Exception, match=""):  # noqa: PT011 - whatever the engine makes of it
            Answerer()(question="fails")
    calls = sorted((span for span in receiver.spans if span.name == "LM"), key=lambda span: span.start_ns)
    first, again, failed = calls[0], calls[1], calls[-1]
    assert first.attributes["spanhook.cache_hit"] is False
    assert again.attributes["spanhook.cache_hit"] is True
    assert again.attributes["llm.cost.total"] == 0
    assert failed.is_error
    for call in (again, failed):
        assert not [name for name in call.attributes if "usage" in name or "token_count" in name]


def test_a_stream_has_its_first_token(receiver: Any) -> None:
    """The time to the first chunk, and that it was a stream."""
    with LMServer() as lm, traced(receiver), dspy.context(lm=lm.lm(cache=False)):
        stream = dspy.streamify(Answerer(), is_async_program=False)

        async def read() -> None:
            async for _ in stream(question="Why?"):
                pass

        asyncio.run(read())
    (call,) = [span for span in receiver.spans if span.name == "LM"]
    assert call.attributes["gen_ai.request.stream"] is True
    assert 0 < call.attributes["gen_ai.response.time_to_first_chunk"] < (call.end_ns - call.start_ns) / 1e9


def test_content_stays_where_it_is_with_capture_metadata(receiver: Any) -> None:
    """No text of the program's leaves, in no attribute, event or status."""
    with (
        LMServer() as lm,
        traced(receiver, section={"capture": "metadata"}) as tracer,
        dspy.context(lm=lm.lm(cache=False)),
    ):
        lm.script([{"answer": "a secret answer"}])
        Answerer()(question="a secret question")
        with pytest.raises(ValueError, match="secret"), tracer.span("fails", text="secret"):
            raise ValueError("a secret message")
    assert [span.name for span in receiver.spans if span.is_error] == ["fails"]
    assert "secret" not in repr(receiver.spans)


def test_what_identify_said_is_on_the_spans_that_follow(receiver: Any) -> None:
    """Of that user, and of no other."""
    with traced(receiver) as tracer:
        with tracer.interaction(user_id="u1", event="before"):
            pass
        tracer.identify("u1", {"name": "Al", "plan": "free", "seats": 3})
        tracer.identify("u1", {"email": "al@example.com", "plan": "pro", "beta": True})
        for user in ("u1", "u2"):
            with tracer.interaction(user_id=user, event=f"after {user}"):
                pass
    named = {span.name: span.attributes for span in receiver.spans}
    assert named["after u1"]["user.name"] == "Al"
    assert named["after u1"]["user.email"] == "al@example.com"
    assert [named["after u1"][f"spanhook.user.{name}"] for name in ("plan", "seats", "beta")] == ["pro", 3, True]
    for name in ("before", "after u2"):
        assert not [key for key in named[name] if key.startswith("spanhook.user.") or key == "user.name"]


def test_attributes_of_any_value_arrive() -> None:
    """Dotted names as they are, others with our prefix; what no attribute can be, as JSON."""
    with OTLPServer() as receiver, traced(receiver) as tracer:
        with tracer.span("work") as span:
            span.attributes.update(
                {
                    "acme.score": 0.5,
                    "plain": "text",
                    "mixed": [1, "two", None],
                    "texts": ["a", "b"],
                    "empty": [],
                    "nothing": None,
                    "huge": 1 << 70,
                    "nan": float("nan"),
                    "lone": "\ud800",
                    "nested": {"a": {"b": 1}},
                }
            )
        assert tracer.flush()
        problems = list(receiver.problems)
        receiver.problems.clear()
    assert not [problem for problem in problems if "acme.score" not in problem]  # which is in no convention
    (arrived,) = receiver.spans
    ours = {
        name.removeprefix("spanhook."): value
        for name, value in arrived.attributes.items()
        if name.startswith("spanhook.") and name not in ("spanhook.kind", "spanhook.event_id")
    }
    assert arrived.attributes["acme.score"] == 0.5
    assert ours == {
        "plain": "text",
        "mixed": '[1,"two",null]',
        "texts": ["a", "b"],
        "empty": "[]",
        "huge": "<integer of 71 bits>",
        "nan": "nan",
        "lone": "?",
        "nested": '{"a":{"b":1}}',
    }


def test_a_span_whose_content_can_not_be_converted_goes_without_it() -> None:
    """And says so; the others of its batch are as they were."""
    from spanhook_backends.otlp import OTLPBackend

    odd = Span("a" * 32, "b" * 16, None, "e1", "custom", "odd", 1, 2, inputs={"a": object()})
    failed = Span("a" * 32, "c" * 16, None, "e1", "custom", "failed", 1, 2, error=SpanError("ValueError", None, None))
    with OTLPServer() as receiver:
        backend = OTLPBackend(OTLPBackend.Options(**receiver.options))
        backend.emit([odd, failed])
        backend.shutdown(1.0)
    assert receiver.problems == []
    assert [span.attributes.get("spanhook.content_lost") for span in receiver.spans] == [True, None]
    assert receiver.spans[1].status_message == "ValueError"


def test_a_parent_in_another_process_is_told_from_one_in_this() -> None:
    """The flag that OTLP has for it."""
    from spanhook_backends.otlp import OTLPBackend

    below = Span("a" * 32, "c" * 16, "b" * 16, "e1", "custom", "below", 1, 2, local_root_id="b" * 16)
    local_root = Span("a" * 32, "b" * 16, "d" * 16, "e1", "custom", "local root", 1, 2, local_root_id="b" * 16)
    with OTLPServer() as receiver:
        backend = OTLPBackend(OTLPBackend.Options(**receiver.options))
        backend.emit([below, local_root])
        backend.shutdown(1.0)
    assert [(span.name, span.has_remote_parent) for span in receiver.spans] == [("below", False), ("local root", True)]
