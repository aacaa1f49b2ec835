"""LM and tool spans that reach Raindrop's v1/traces: what is in them, and to which event they belong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

from lm_server import LMServer, Reply
from programs import Answerer

pytest.importorskip("raindrop")

from opentelemetry import trace
from raindrop_server import RaindropServer
from raindrop_tracing import WAIT_S, traced, tracing

EVENT = "traceloop.association.properties"


@pytest.fixture
def server() -> Iterator[LMServer]:
    with LMServer() as server:
        yield server


def look_up(word: str) -> str:
    """Looks a word up."""
    return f"{word} means something"


def break_down(word: str) -> str:
    """Fails."""
    raise LookupError(f"no {word} here")


def react(server: LMServer, *tools: Any, word: str = "tree") -> Any:
    """A ReAct program that calls each tool once and is done."""
    steps = [
        {"next_thought": "Think.", "next_tool_name": tool.__name__, "next_tool_args": {"word": word}} for tool in tools
    ]
    server.script([*steps, {"next_thought": "Done.", "next_tool_name": "finish", "next_tool_args": {}}])
    return dspy.ReAct("question -> answer", tools=list(tools))


def test_lm_and_tool_spans_belong_to_the_event(raindrop: RaindropServer, server: LMServer) -> None:
    """ReAct: a span for each LM call and each tool call and no other, all with the ids of their interaction."""
    with dspy.context(lm=server.lm()), traced(raindrop) as tracer, tracer.interaction("u1", "c1", "chat") as own:
        react(server, look_up)(question="Why?")
    kinds = [span.kind for span in sorted(raindrop.spans, key=lambda span: span.start_ns)]
    assert kinds == ["llm", "tool", "llm", "tool", "llm"]
    for span in raindrop.spans:
        assert span.trace_id == own.trace_id
        named = {name: span.attributes[f"{EVENT}.{name}"] for name in ("event_id", "user_id", "convo_id", "event")}
        assert named == {"event_id": own.event_id, "user_id": "u1", "convo_id": "c1", "event": "chat"}


def test_an_lm_span_says_what_was_asked_and_answered(raindrop: RaindropServer, server: LMServer) -> None:
    """Model, tokens, finish reason, the messages and the answer, in the attributes that Raindrop reads."""
    with dspy.context(lm=server.lm()), traced(raindrop):
        Answerer()(question="Why is the sky blue?")
    (span,), (answered,) = raindrop.spans, server.answered.values()
    attributes = span.attributes
    assert attributes["gen_ai.request.model"] == "openai/test-model"
    assert attributes["gen_ai.response.model"] == answered.response_model
    assert attributes["gen_ai.provider.name"] == "openai"
    assert attributes["gen_ai.usage.input_tokens"] == answered.tokens.prompt
    assert attributes["gen_ai.usage.output_tokens"] == answered.tokens.completion
    assert attributes["gen_ai.response.finish_reasons"] == [answered.finish_reason]
    asked = json.loads(attributes["gen_ai.prompt.0.content"])
    assert "Why is the sky blue?" in asked[-1]["content"]
    assert answered.text in attributes["gen_ai.completion.0.content"]
    assert attributes["ai.prompt.tools"] == []
    assert span.resource["service.name"] == "spanhook"


def test_a_tool_span_says_what_went_in_and_out(raindrop: RaindropServer, server: LMServer) -> None:
    """Name, arguments and result; a tool that fails has its error, and the program goes on."""
    with dspy.context(lm=server.lm()), traced(raindrop):
        react(server, look_up, break_down)(question="Why?")
    tools = {span.name: span for span in raindrop.spans if span.kind == "tool"}
    good, bad = tools["look_up"], tools["break_down"]
    assert json.loads(good.attributes["traceloop.entity.input"]) == {"word": "tree"}
    assert good.attributes["traceloop.entity.output"] == '"tree means something"'
    assert not good.is_error
    assert bad.is_error
    assert bad.exceptions[0]["exception.type"] == "LookupError"
    assert bad.exceptions[0]["exception.message"] == "no tree here"
    assert "break_down" in bad.exceptions[0]["exception.stacktrace"]


def test_a_failed_lm_call_has_its_error_and_no_tokens(raindrop: RaindropServer, server: LMServer) -> None:
    """What the provider refused counted nothing."""
    server.script([Reply(status=500)])
    with traced(raindrop), pytest.raises(Exception, match="scripted error"):
        server.lm()("Why?")
    (span,) = raindrop.spans
    assert span.is_error
    assert "scripted error" in span.exceptions[0]["exception.message"]
    assert not [name for name in span.attributes if "usage" in name]


def test_a_call_in_a_tool_hangs_under_it(raindrop: RaindropServer, server: LMServer) -> None:
    """A tool that runs a program of its own: the LM span is the tool span's child, though a module is between them."""

    def ask(word: str) -> str:
        """Asks a colleague."""
        return str(Answerer()(question=word).answer)

    with dspy.context(lm=server.lm()), traced(raindrop):
        dspy.Tool(ask)(word="tree")
    tool, call = sorted(raindrop.spans, key=lambda span: span.start_ns)
    assert (tool.parent_id, call.parent_id) == (None, tool.span_id)


def test_without_tracing_there_are_events_only(raindrop: RaindropServer, server: LMServer) -> None:
    """`tracing_enabled = false`: nothing reaches v1/traces."""
    with dspy.context(lm=server.lm()), traced(raindrop, tracing_enabled=False):
        Answerer()(question="Why?")
    assert len(raindrop.events) == 1
    assert {request.path for request in raindrop.requests} == {"/v1/events/track"}


def test_no_global_tracer_provider_is_set(raindrop: RaindropServer, server: LMServer) -> None:
    """The program's own OpenTelemetry stays the program's own: neither provider nor current span is ours."""
    before = trace.get_tracer_provider()
    with dspy.context(lm=server.lm()), traced(raindrop, bypass_otel_for_tools=False):
        react(server, look_up)(question="Why?")
    assert trace.get_tracer_provider() is before
    assert len(raindrop.spans) == 5


@pytest.mark.parametrize("bypass", [True, False])
def test_tool_spans_by_way_of_opentelemetry(
    raindrop: RaindropServer, server: LMServer, monkeypatch: pytest.MonkeyPatch, bypass: bool
) -> None:
    """`bypass_otel_for_tools = false`: OpenTelemetry's limits hold for tool spans, which are otherwise the same."""
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "40")
    with dspy.context(lm=server.lm()), traced(raindrop, bypass_otel_for_tools=bypass) as tracer:
        interaction = tracer.interaction("u1")
        with interaction:
            react(server, break_down, word="tree" * 25)(question="Why?")
    assert [span.kind for span in raindrop.spans].count("llm") == 3
    tool = next(span for span in raindrop.spans if span.name == "break_down")
    assert len(tool.attributes["traceloop.entity.input"]) == (112 if bypass else 40)
    assert tool.event_id == interaction.event_id
    assert tool.trace_id == interaction.trace_id
    assert tool.is_error
    assert tool.exceptions[0]["exception.type"] == "LookupError"
    assert 0 < tool.end_ns - tool.start_ns < 60e9


def test_tool_spans_that_opentelemetry_switches_off(
    raindrop: RaindropServer, server: LMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`OTEL_SDK_DISABLED` is for what goes through OpenTelemetry's SDK: tool spans without the bypass, no LM span."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with dspy.context(lm=server.lm()), traced(raindrop, bypass_otel_for_tools=False):
        react(server, look_up)(question="Why?")
    assert {span.kind for span in raindrop.spans} == {"llm"}


def test_the_tools_of_each_call(raindrop: RaindropServer, server: LMServer) -> None:
    """With native function calling an LM span has the tools that this very call was given, in Raindrop's form."""
    given = {
        "type": "function",
        "function": {"name": "look_up", "description": "Looks up.", "parameters": {"type": "object"}},
    }
    with traced(raindrop):
        server.lm()("With", tools=[given])
    (span,) = raindrop.spans
    assert [json.loads(tool) for tool in span.attributes["ai.prompt.tools"]] == [
        {"type": "function", "name": "look_up", "description": "Looks up.", "inputSchema": {"type": "object"}}
    ]


def test_tools_that_the_options_name(raindrop: RaindropServer, server: LMServer) -> None:
    """`tools` is what every LM span says, whatever the call was given."""
    named = [{"name": "search", "input_schema": {"type": "object"}}]
    with dspy.context(lm=server.lm()), traced(raindrop, tools=named):
        Answerer()(question="Why?")
    (tool,) = raindrop.spans[0].attributes["ai.prompt.tools"]
    assert json.loads(tool) == {"type": "function", "name": "search", "inputSchema": {"type": "object"}}


def test_raindrops_own_switch_for_content(
    raindrop: RaindropServer, server: LMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`TRACELOOP_TRACE_CONTENT=false`, which Raindrop's SDK knows: spans without texts, and still with tokens."""
    monkeypatch.setenv("TRACELOOP_TRACE_CONTENT", "false")
    with dspy.context(lm=server.lm()), traced(raindrop):
        react(server, look_up)(question="Why?")
    names = {name for span in raindrop.spans for name in span.attributes}
    assert "gen_ai.usage.input_tokens" in names
    assert not [name for name in names if "prompt" in name or "completion" in name or "entity.in" in name]


def test_headers_of_another_service_stay_at_home(
    raindrop: RaindropServer, server: LMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_EXPORTER_OTLP_HEADERS holds another service's key: Raindrop doesn't get it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-other-key=opensesame,authorization=Basic%20opensesame")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/elsewhere")
    with dspy.context(lm=server.lm()), traced(raindrop):
        Answerer()(question="Why?")
    assert raindrop.spans
    assert not [request for request in raindrop.requests if "opensesame" in str(request.headers)]


def test_a_flush_sends_the_calls_of_what_still_runs(raindrop: RaindropServer, server: LMServer) -> None:
    """In the middle of an interaction: its spans are there after a flush, its one event after its end."""
    with dspy.context(lm=server.lm()), traced(raindrop) as tracer:
        with tracer.interaction():
            Answerer()(question="First?")
            assert tracer.flush(WAIT_S)
            assert (len(raindrop.spans), raindrop.events) == (1, [])
            Answerer()(question="Second?")
        assert tracer.flush(WAIT_S)
    assert (len(raindrop.spans), len(raindrop.events)) == (2, 1)


def test_what_still_runs_at_the_end_is_sent_as_it_is(raindrop: RaindropServer, server: LMServer) -> None:
    """Shut down in the middle of an interaction: an event that says that it is not complete."""
    with dspy.context(lm=server.lm()), tracing(raindrop) as tracer, tracer.interaction("u1") as interaction:
        prediction = Answerer()(question="Why?")
        assert tracer.shutdown(WAIT_S)
    (event,) = raindrop.events
    assert (event["event_id"], event["user_id"]) == (interaction.event_id, "u1")
    assert event["properties"]["spanhook.incomplete"] is True
    assert event["ai_data"]["input"] == "Why?"
    assert event["ai_data"]["output"] == prediction.answer
    assert [span.kind for span in raindrop.spans] == ["llm"]
    assert raindrop.problems == []


def test_a_call_that_outlives_its_interaction(raindrop: RaindropServer, server: LMServer) -> None:
    """A span that ends after its root belongs to the event that is sent already, and makes no second one."""
    with traced(raindrop) as tracer:
        with tracer.interaction("u1") as interaction:
            scope = tracer.span("late", kind="tool")
            scope.__enter__()
        assert tracer.flush(WAIT_S)
        scope.__exit__(None, None, None)
        assert tracer.flush(WAIT_S)
    (event,) = raindrop.events
    (span,) = raindrop.spans
    assert event["event_id"] == span.event_id == interaction.event_id
