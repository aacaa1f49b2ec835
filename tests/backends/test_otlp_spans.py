"""What a receiver gets of a DSPy program: the tree with its own ids, and each fact by the names of the conventions."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import replace
from typing import Any

import dspy
import pytest

from exact import RELEASE
from lm_server import LMServer, Reply, Tokens
from programs import Answerer, FanOut

pytest.importorskip("opentelemetry.proto")

from otlp_server import GRPCServer, OTLPServer, traced
from otlp_wire import OTLPSpan

from spanhook import Span, SpanError, Usage
from spanhook.testing import capture_spans
from spanhook_backends.otlp import conventions
from spanhook_backends.otlp.conventions import Names
from spanhook_backends.otlp.convert import Converter

LM_SPAN = Span(
    trace_id="0" * 31 + "1",
    span_id="0" * 15 + "2",
    parent_id=None,
    event_id="e1",
    kind="lm",
    name="LM",
    start_ns=1,
    end_ns=2,
    inputs={
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    },
    outputs=["Hello"],
    model="gemini/gemini-pro",
    response_model="gemini-pro-002",
    provider="gemini",
    usage=Usage(1, 2, 3, 4, 5, 6, 7, 8),
    finish_reason="stop",
    cache_hit=False,
    cost_usd=0.25,
    time_to_first_token_s=0.5,
    user_id="u1",
    convo_id="c1",
    attributes={
        "request.temperature": 0,
        "request.top_p": 0.5,
        "request.max_tokens": 9,
        "request.n": 1,
        "request.seed": 3,
    },
)
TOOL_SPAN = Span(
    trace_id="0" * 31 + "1",
    span_id="0" * 15 + "3",
    parent_id=None,
    event_id="e1",
    kind="tool",
    name="search",
    start_ns=1,
    end_ns=2,
    inputs={"query": "x"},
    outputs=["y"],
)
MESSAGE = '[{"role":"%s","parts":[{"type":"text","content":"%s"}]%s}]'
# fact · value by the GenAI conventions · value by OpenInference; "" where the convention has no name for it
LM_FACTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("kind", {"gen_ai.operation.name": "chat"}, {"openinference.span.kind": "LLM"}),
    ("provider", {"gen_ai.provider.name": "gcp.gemini"}, {"llm.provider": "google"}),
    (
        "models",
        {"gen_ai.request.model": "gemini/gemini-pro", "gen_ai.response.model": "gemini-pro-002"},
        {
            "llm.model_name": "gemini-pro-002",
            "llm.request.model_name": "gemini/gemini-pro",
            "llm.response.model_name": "gemini-pro-002",
        },
    ),
    ("input tokens", {"gen_ai.usage.input_tokens": 1}, {"llm.token_count.prompt": 1}),
    ("output tokens", {"gen_ai.usage.output_tokens": 2}, {"llm.token_count.completion": 2}),
    ("total tokens", {}, {"llm.token_count.total": 3}),
    ("cached", {"gen_ai.usage.cache_read.input_tokens": 4}, {"llm.token_count.prompt_details.cache_read": 4}),
    ("written", {"gen_ai.usage.cache_write.input_tokens": 5}, {"llm.token_count.prompt_details.cache_write": 5}),
    (
        "reasoning",
        {"gen_ai.usage.reasoning.output_tokens": 6},
        {"llm.token_count.completion_details.reasoning": 6},
    ),
    ("audio in", {"gen_ai.usage.audio.input_tokens": 7}, {"llm.token_count.prompt_details.audio": 7}),
    ("audio out", {"gen_ai.usage.audio.output_tokens": 8}, {"llm.token_count.completion_details.audio": 8}),
    ("finish", {"gen_ai.response.finish_reasons": ["stop"]}, {"llm.finish_reason": "stop"}),
    ("first token", {"gen_ai.response.time_to_first_chunk": 0.5, "gen_ai.request.stream": True}, {}),
    ("conversation", {"gen_ai.conversation.id": "c1"}, {"session.id": "c1"}),
    ("user", {"user.id": "u1"}, {"user.id": "u1"}),
    (
        "input",
        {"gen_ai.input.messages": MESSAGE % ("user", "Hi", "")},
        {
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.content": "Hi",
            "input.value": json.dumps(LM_SPAN.inputs, separators=(",", ":")),
            "input.mime_type": "application/json",
        },
    ),
    (
        "output",
        {"gen_ai.output.messages": MESSAGE % ("assistant", "Hello", ',"finish_reason":"stop"')},
        {
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.content": "Hello",
            "output.value": '["Hello"]',
            "output.mime_type": "application/json",
        },
    ),
    (
        "tools",
        {"gen_ai.tool.definitions": '[{"type":"function","name":"f"}]'},
        {"llm.tools.0.tool.json_schema": '{"type":"function","function":{"name":"f"}}'},
    ),
    (
        "parameters",
        {
            "gen_ai.request.temperature": 0.0,
            "gen_ai.request.top_p": 0.5,
            "gen_ai.request.max_tokens": 9,
            "gen_ai.request.choice.count": 1,
            "gen_ai.request.seed": 3,
        },
        {"llm.invocation_parameters": '{"temperature":0,"top_p":0.5,"max_tokens":9,"n":1,"seed":3}'},
    ),
    ("cost", {}, {"llm.cost.total": 0.25}),
]
TOOL_FACTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("kind", {"gen_ai.operation.name": "execute_tool"}, {"openinference.span.kind": "TOOL"}),
    ("tool", {"gen_ai.tool.name": "search"}, {"tool.name": "search"}),
    ("arguments", {"gen_ai.tool.call.arguments": '{"query":"x"}'}, {"tool.parameters": '{"query":"x"}'}),
    ("result", {"gen_ai.tool.call.result": '["y"]'}, {"output.value": '["y"]', "output.mime_type": "application/json"}),
    ("input", {}, {"input.value": '{"query":"x"}', "input.mime_type": "application/json"}),
]


def _made(span: Span, chosen: Any) -> dict[str, Any]:
    converter = Converter(Names(chosen))
    return {**converter.attributes(span, {}, is_agent=False), **converter.content(span)}


@pytest.mark.parametrize("chosen", ["genai", "openinference", "both"])
@pytest.mark.parametrize(("span", "facts"), [(LM_SPAN, LM_FACTS), (TOOL_SPAN, TOOL_FACTS)], ids=["lm", "tool"])
def test_each_fact_has_its_names(span: Span, facts: Any, chosen: str) -> None:
    """Every name and value of the chosen conventions, and beside them nothing but what is named as ours."""
    expected = {}
    for _, genai, openinference in facts:
        expected.update(genai if chosen != "openinference" else {})
        expected.update(openinference if chosen != "genai" else {})
    made = _made(span, chosen)
    assert {name: value for name, value in made.items() if not name.startswith("spanhook.")} == expected


def test_every_name_of_the_table_is_put_to_use() -> None:
    """A name that no span can have would be a lie in the table."""
    used = {name for span in (LM_SPAN, TOOL_SPAN) for name in _made(span, "both")}
    used |= {"llm.input_messages", "llm.output_messages", "llm.tools"}  # numbered
    used |= {"gen_ai.workflow.name", "gen_ai.agent.name", "agent.name", "llm.prompt_template.version"}
    in_table = {
        name
        for fact in conventions.FACTS
        for name in (fact.genai, fact.openinference)
        if name is not None and not fact.name.startswith("signal")
    }
    assert in_table <= used


@pytest.fixture(params=[OTLPServer, GRPCServer], ids=["http", "grpc"])
def receiver(request: pytest.FixtureRequest) -> Any:
    with request.param() as server:
        yield server


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
        receiver.problems.clear()  # acme.score is in no convention
        assert tracer.flush()
        receiver.problems.clear()
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


def test_messages_of_every_kind(receiver: Any) -> None:
    """Images, tool calls and their results, in each convention's form."""
    messages = [
        {"role": "system", "content": "Be kind."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "a cat"},
    ]
    with LMServer() as lm, traced(receiver):
        lm.script([Reply(content="A cat.", reasoning_content="It has ears.", tokens=Tokens(1, 2))])
        lm.lm(cache=False, engine="litellm")(messages=messages)
    (call,) = receiver.spans
    parts = [part for message in json.loads(call.attributes["gen_ai.input.messages"]) for part in message["parts"]]
    assert parts == [
        {"type": "text", "content": "Be kind."},
        {"type": "text", "content": "What is this?"},
        {"type": "uri", "modality": "image", "uri": "https://example.com/a.png"},
        {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "aGk="},
        {"type": "tool_call", "id": "t1", "name": "look", "arguments": {"at": 1}},
        {"type": "tool_call_response", "id": "t1", "response": "a cat"},
    ]
    at = "llm.input_messages."
    flat = {name.removeprefix(at): value for name, value in call.attributes.items() if name.startswith(at)}
    assert flat == {
        "0.message.role": "system",
        "0.message.content": "Be kind.",
        "1.message.role": "user",
        "1.message.contents.0.message_content.type": "text",
        "1.message.contents.0.message_content.text": "What is this?",
        "1.message.contents.1.message_content.type": "image",
        "1.message.contents.1.message_content.image.image.url": "https://example.com/a.png",
        "1.message.contents.2.message_content.type": "image",
        "1.message.contents.2.message_content.image.image.url": "data:image/png;base64,aGk=",
        "2.message.role": "assistant",
        "2.message.tool_calls.0.tool_call.id": "t1",
        "2.message.tool_calls.0.tool_call.function.name": "look",
        "2.message.tool_calls.0.tool_call.function.arguments": '{"at":1}',
        "3.message.role": "tool",
        "3.message.tool_call_id": "t1",
        "3.message.content": "a cat",
    }
    (answer,) = json.loads(call.attributes["gen_ai.output.messages"])
    thought = [{"type": "reasoning", "content": "It has ears."}] if RELEASE >= (3, 1) else []  # 3.0 drops it
    assert answer["parts"] == [*thought, {"type": "text", "content": "A cat."}]


@pytest.mark.parametrize(
    ("part", "made"),
    [
        ({"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "reasoning", "content": "Hm."}),
        ({"type": "refusal", "refusal": "No."}, {"type": "refusal", "refusal": "No."}),
        (
            {"type": "image_url", "image_url": "data:text/plain,hello"},
            {"type": "uri", "modality": "image", "uri": "data:text/plain,hello"},
        ),
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,aGk="}},
            {"type": "blob", "modality": "document", "mime_type": "application/pdf", "content": "aGk="},
        ),
    ],
)
def test_a_part_is_what_its_type_says(part: dict[str, Any], made: dict[str, Any]) -> None:
    """Not every text that stands under the name of its type is an address."""
    span = replace(LM_SPAN, inputs={"messages": [{"role": "user", "content": [part]}]})
    (message,) = json.loads(_made(span, "both")["gen_ai.input.messages"])
    assert message["parts"] == [made]


def test_numbers_have_the_type_that_the_conventions_want() -> None:
    """Whatever type the program gave them; a value that is no number is left out."""
    given = {"max_tokens": "100", "seed": 7.0, "n": 1 << 63, "top_p": True, "temperature": 1}
    span = replace(
        LM_SPAN,
        cost_usd=1,
        time_to_first_token_s=2,
        attributes={f"request.{name}": value for name, value in given.items()},
    )
    made = _made(span, "both")
    expected = {
        "gen_ai.request.seed": 7,
        "gen_ai.request.temperature": 1.0,
        "llm.cost.total": 1.0,
        "spanhook.cost_usd": 1.0,
        "gen_ai.response.time_to_first_chunk": 2.0,
    }
    assert {name: (type(made[name]), made[name]) for name in expected} == {
        name: (type(value), value) for name, value in expected.items()
    }
    for name in ("max_tokens", "choice.count", "top_p"):
        assert f"gen_ai.request.{name}" not in made


def test_one_convention_alone(receiver: Any) -> None:
    """Only its names are sent; with the GenAI names alone, what they have no place for is under our prefix."""
    with LMServer() as lm, OTLPServer(openinference=False) as genai, OTLPServer(genai=False) as openinference:
        for server, chosen in ((genai, "genai"), (openinference, "openinference")):
            with traced(server, conventions=chosen), dspy.context(lm=lm.lm(cache=False)):
                Answerer()(question="Why?")
            module = next(span for span in server.spans if span.name == "Answerer")
            named = "spanhook.inputs" if chosen == "genai" else "input.value"
            assert module.attributes[named] == '{"question":"Why?"}'


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
