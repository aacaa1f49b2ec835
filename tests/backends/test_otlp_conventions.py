"""Each fact of a span by the names of the GenAI conventions and of OpenInference, with the types that they want."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import dspy
import pytest

from lm_server import LMServer
from programs import Answerer

pytest.importorskip("opentelemetry.proto")

from otlp_case import attributes_of
from otlp_server import OTLPServer, traced

from spanhook import Span, Usage
from spanhook_backends.otlp import conventions

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


@pytest.mark.parametrize("chosen", ["genai", "openinference", "both"])
@pytest.mark.parametrize(("span", "facts"), [(LM_SPAN, LM_FACTS), (TOOL_SPAN, TOOL_FACTS)], ids=["lm", "tool"])
def test_each_fact_has_its_names(span: Span, facts: Any, chosen: str) -> None:
    """Every name and value of the chosen conventions, and beside them nothing but what is named as ours."""
    expected = {}
    for _, genai, openinference in facts:
        expected.update(genai if chosen != "openinference" else {})
        expected.update(openinference if chosen != "genai" else {})
    made = attributes_of(span, chosen)
    assert {name: value for name, value in made.items() if not name.startswith("spanhook.")} == expected


def test_every_name_of_the_table_is_put_to_use() -> None:
    """A name that no span can have would be a lie in the table."""
    used = {name for span in (LM_SPAN, TOOL_SPAN) for name in attributes_of(span)}
    used |= {"llm.input_messages", "llm.output_messages", "llm.tools"}  # numbered
    used |= {"gen_ai.workflow.name", "gen_ai.agent.name", "agent.name", "llm.prompt_template.version"}
    in_table = {
        name
        for fact in conventions.FACTS
        for name in (fact.genai, fact.openinference)
        if name is not None and not fact.name.startswith("signal")
    }
    assert in_table <= used


def test_numbers_have_the_type_that_the_conventions_want() -> None:
    """Whatever type the program gave them; a value that is no number is left out."""
    given = {"max_tokens": "100", "seed": 7.0, "n": 1 << 63, "top_p": True, "temperature": 1}
    span = replace(
        LM_SPAN,
        cost_usd=1,
        time_to_first_token_s=2,
        attributes={f"request.{name}": value for name, value in given.items()},
    )
    made = attributes_of(span)
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


def test_one_convention_alone() -> None:
    """Only its names are sent; with the GenAI names alone, what they have no place for is under our prefix."""
    with LMServer() as lm, OTLPServer(openinference=False) as genai, OTLPServer(genai=False) as openinference:
        for server, chosen in ((genai, "genai"), (openinference, "openinference")):
            with traced(server, conventions=chosen), dspy.context(lm=lm.lm(cache=False)):
                Answerer()(question="Why?")
            module = next(span for span in server.spans if span.name == "Answerer")
            named = "spanhook.inputs" if chosen == "genai" else "input.value"
            assert module.attributes[named] == '{"question":"Why?"}'
