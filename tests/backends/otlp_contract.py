"""What the two conventions say of a span's attributes: their names, their types, and which must be there.

Written from the conventions and not from our own table, so that a name that is wrong in that table is found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from otlp_wire import OTLPSpan

OPERATIONS = {"chat", "execute_tool", "invoke_agent", "invoke_workflow"}  # of those that there are
KINDS = {"LLM", "CHAIN", "TOOL", "AGENT", "EVALUATOR"}

GENAI: Mapping[str, type] = {
    "gen_ai.agent.name": str,
    "gen_ai.conversation.id": str,
    "gen_ai.evaluation.explanation": str,
    "gen_ai.evaluation.name": str,
    "gen_ai.evaluation.score.label": str,
    "gen_ai.evaluation.score.value": float,
    "gen_ai.input.messages": json,  # type: ignore[dict-item]
    "gen_ai.operation.name": str,
    "gen_ai.output.messages": json,  # type: ignore[dict-item]
    "gen_ai.provider.name": str,
    "gen_ai.request.choice.count": int,
    "gen_ai.request.max_tokens": int,
    "gen_ai.request.model": str,
    "gen_ai.request.seed": int,
    "gen_ai.request.stream": bool,
    "gen_ai.request.temperature": float,
    "gen_ai.request.top_p": float,
    "gen_ai.response.finish_reasons": list,
    "gen_ai.response.model": str,
    "gen_ai.response.time_to_first_chunk": float,
    "gen_ai.tool.call.arguments": json,  # type: ignore[dict-item]
    "gen_ai.tool.call.result": str,
    "gen_ai.tool.definitions": json,  # type: ignore[dict-item]
    "gen_ai.tool.name": str,
    "gen_ai.usage.audio.input_tokens": int,
    "gen_ai.usage.audio.output_tokens": int,
    "gen_ai.usage.cache_read.input_tokens": int,
    "gen_ai.usage.cache_write.input_tokens": int,
    "gen_ai.usage.input_tokens": int,
    "gen_ai.usage.output_tokens": int,
    "gen_ai.usage.reasoning.output_tokens": int,
    "gen_ai.workflow.name": str,
}
OPENINFERENCE: Mapping[str, type] = {
    "agent.name": str,
    "input.mime_type": str,
    "input.value": str,
    "llm.cost.total": float,
    "llm.finish_reason": str,
    "llm.invocation_parameters": json,  # type: ignore[dict-item]
    "llm.model_name": str,
    "llm.prompt_template.version": str,
    "llm.provider": str,
    "llm.request.model_name": str,
    "llm.response.model_name": str,
    "llm.token_count.completion": int,
    "llm.token_count.completion_details.audio": int,
    "llm.token_count.completion_details.reasoning": int,
    "llm.token_count.prompt": int,
    "llm.token_count.prompt_details.audio": int,
    "llm.token_count.prompt_details.cache_read": int,
    "llm.token_count.prompt_details.cache_write": int,
    "llm.token_count.total": int,
    "openinference.span.kind": str,
    "output.mime_type": str,
    "output.value": str,
    "session.id": str,
    "tool.name": str,
    "tool.parameters": json,  # type: ignore[dict-item]
    "trace.annotations.0.annotation.annotator_kind": str,
    "trace.annotations.0.annotation.explanation": str,
    "trace.annotations.0.annotation.label": str,
    "trace.annotations.0.annotation.name": str,
    "trace.annotations.0.annotation.score": float,
}
_FLATTENED = re.compile(  # attributes that OpenInference numbers
    r"llm\.(input|output)_messages\.\d+\.message\.(role|content|tool_call_id"
    r"|contents\.\d+\.message_content\.(type|text|image\.image\.url)"
    r"|tool_calls\.\d+\.tool_call\.(id|function\.name|function\.arguments))"
    r"|llm\.tools\.\d+\.tool\.json_schema"
)
OTHERS = {"user.id", "user.name", "user.email", "user.full_name", "error.type"}
OURS = ("spanhook.", "dspy.")


def problems(span: OTLPSpan, genai: bool = True, openinference: bool = True) -> Iterator[str]:
    """What is wrong with a span, by the conventions that it is sent in."""
    if not (re.fullmatch("[0-9a-f]{32}", span.trace_id) and int(span.trace_id, 16)):
        yield "its trace id is none"
    if not (re.fullmatch("[0-9a-f]{16}", span.span_id) and int(span.span_id, 16)):
        yield "its span id is none"
    if span.parent_id is not None and not re.fullmatch("[0-9a-f]{16}", span.parent_id):
        yield "its parent's id is none"
    if not span.name:
        yield "it has no name"
    if not 0 < span.start_ns <= span.end_ns:
        yield "it ends before it starts"
    if not span.resource.get("service.name"):
        yield "its resource has no service.name"
    known = {**(GENAI if genai else {}), **(OPENINFERENCE if openinference else {}), **dict.fromkeys(OTHERS, str)}
    for name, value in span.attributes.items():
        yield from _attribute(name, value, known, openinference)
    if genai:
        yield from _genai(span.attributes)
    if openinference and span.attributes.get("openinference.span.kind") not in KINDS:
        yield "openinference.span.kind is none"
    if span.is_error and ("error.type" not in span.attributes or not span.exceptions):
        yield "it failed without error.type or without an exception event"
    for exception in span.exceptions:
        if not exception.get("exception.type"):
            yield "an exception event has no exception.type"


def _attribute(name: str, value: Any, known: Mapping[str, type], openinference: bool) -> Iterator[str]:
    if name.startswith(OURS):
        return
    if openinference and _FLATTENED.fullmatch(name):
        wanted: Any = str
    elif name in known:
        wanted = known[name]
    else:
        yield f"{name} is in none of the conventions"
        return
    if wanted is json:
        try:
            json.loads(value)
        except (TypeError, ValueError):
            yield f"{name} is no JSON"
    elif wanted is list:
        if not (isinstance(value, list) and value and all(isinstance(item, str) for item in value)):
            yield f"{name} is no list of strings"
    elif type(value) is not wanted:
        yield f"{name} is {type(value).__name__}, not {wanted.__name__}"


def _genai(attributes: Mapping[str, Any]) -> Iterator[str]:
    operation = attributes.get("gen_ai.operation.name")
    if operation is not None and operation not in OPERATIONS:
        yield "gen_ai.operation.name is none"
    if operation == "execute_tool" and "gen_ai.tool.name" not in attributes:
        yield "a tool has no gen_ai.tool.name"
    for name in ("gen_ai.input.messages", "gen_ai.output.messages"):
        for message in json.loads(attributes.get(name, "[]")):
            if not (isinstance(message.get("role"), str) and isinstance(message.get("parts"), list)):
                yield f"{name}: a message has no role or no parts"
            elif not all(_is_part(part) for part in message["parts"]):
                yield f"{name}: a part lacks what its type has"


_PARTS: Mapping[str, tuple[str, ...]] = {
    "text": ("content",),
    "reasoning": ("content",),
    "tool_call": ("name",),
    "tool_call_response": ("response",),
    "uri": ("modality", "uri"),
    "blob": ("modality", "content"),
}


def _is_part(part: Any) -> bool:
    return isinstance(part.get("type"), str) and all(name in part for name in _PARTS.get(part["type"], ()))
