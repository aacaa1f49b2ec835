"""A span in OpenTelemetry's form, with the attributes by which Raindrop reads it and ties it to its event."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from spanhook import Span
from spanhook_backends.otel.replay import Replay
from spanhook_backends.otel.spans import Attributes, readable
from spanhook_backends.raindrop.options import RaindropOptions
from spanhook_backends.raindrop.texts import fit, id_text, text_of
from spanhook_backends.raindrop.traces import TracedCall

CONTENT_BYTES = 200_000  # of one attribute
MAX_TOOLS = 128
# Raindrop's own switch for the content of spans.
CONTENT_VARIABLE = "TRACELOOP_TRACE_CONTENT"


def as_readable(call: TracedCall, event_id: str, options: RaindropOptions, resource: Resource) -> ReadableSpan:
    """The span of an LM or tool call, ended."""
    span = call.span
    attributes = _association(call, event_id, options)
    content = os.environ.get(CONTENT_VARIABLE, "true").lower() == "true"
    attributes.update(_tool(span, content) if span.kind == "tool" else _llm(span, content, options))
    return readable(span, attributes, resource, parent_id=call.parent_id, fit=partial(fit, max_bytes=CONTENT_BYTES))


def _association(call: TracedCall, event_id: str, options: RaindropOptions) -> Attributes:
    span = call.span
    tied = {
        "event_id": event_id,
        "user_id": span.user_id or options.user_id or "unknown",
        "convo_id": span.convo_id or options.convo_id,
        "event": call.event,
    }
    attributes: Attributes = {
        f"traceloop.association.properties.{name}": id_text(value) for name, value in tied.items() if value is not None
    }
    attributes["traceloop.span.kind"] = "llm" if span.kind == "lm" else "tool"
    attributes["traceloop.entity.name"] = span.name
    if options.project is not None:
        attributes["raindrop.project_id"] = options.project
    return attributes


def _llm(span: Span, content: bool, options: RaindropOptions) -> Attributes:
    usage = span.usage
    known: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": span.provider,
        "gen_ai.request.model": span.model,
        "gen_ai.response.model": span.response_model,
        "gen_ai.usage.input_tokens": usage and usage.input_tokens,
        "gen_ai.usage.output_tokens": usage and usage.output_tokens,
        "gen_ai.usage.total_tokens": usage and usage.total_tokens,
        "gen_ai.usage.cache_read_input_tokens": usage and usage.cached_input_tokens,
        "gen_ai.usage.cache_write_input_tokens": usage and usage.cache_write_input_tokens,
        "gen_ai.usage.reasoning_tokens": usage and usage.reasoning_output_tokens,
        "gen_ai.response.time_to_first_chunk": span.time_to_first_token_s,
        "spanhook.cache_hit": span.cache_hit,
        "spanhook.cost_usd": span.cost_usd,
    }
    attributes: Attributes = {name: value for name, value in known.items() if value is not None}
    if span.finish_reason is not None:
        attributes["gen_ai.response.finish_reasons"] = [span.finish_reason]
    inputs = span.inputs if isinstance(span.inputs, Mapping) else {}
    if not content or (span.inputs is None and span.outputs is None):
        return attributes
    asked = inputs.get("messages") or inputs.get("prompt") or {k: v for k, v in inputs.items() if k != "tools"}
    attributes["gen_ai.prompt.0.role"] = "user"
    attributes["gen_ai.prompt.0.content"] = fit(text_of(asked), CONTENT_BYTES)
    if span.outputs is not None:
        attributes["gen_ai.completion.0.role"] = "assistant"
        attributes["gen_ai.completion.0.content"] = fit(_answer(span.outputs), CONTENT_BYTES)
    tools = options.tools if options.tools is not None else inputs.get("tools") or []
    if isinstance(tools, list):
        attributes["ai.prompt.tools"] = [fit(text_of(tool_of(tool)), CONTENT_BYTES) for tool in tools[:MAX_TOOLS]]
    return attributes


def _answer(outputs: Any) -> str:
    return text_of(outputs[0] if isinstance(outputs, list) and len(outputs) == 1 else outputs)


def tool_of(tool: Any) -> Any:
    """A tool's definition in Raindrop's form, from OpenAI's or Anthropic's; anything else as it is."""
    if not isinstance(tool, Mapping):
        return tool
    function = tool.get("function")
    source = function if isinstance(function, Mapping) else tool
    schema = next((s for key in ("inputSchema", "input_schema", "parameters") if (s := source.get(key))), None)
    if "name" not in source or (schema is None and function is None):
        return tool
    known = {
        "type": "function",
        "name": source["name"],
        "description": source.get("description"),
        "inputSchema": schema,
    }
    return {key: value for key, value in known.items() if value is not None}


def _tool(span: Span, content: bool) -> Attributes:
    attributes: Attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": span.name}
    if content and span.inputs is not None:
        attributes["traceloop.entity.input"] = fit(json_text(span.inputs), CONTENT_BYTES)
    if content and span.outputs is not None:
        attributes["traceloop.entity.output"] = fit(json_text(span.outputs), CONTENT_BYTES)
    return attributes


def json_text(value: Any) -> str:
    """As JSON, strings in quotes too."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else text_of(value)


class OtelVariables:
    """What OpenTelemetry's variables say of sampling and limits, done to spans by an SDK of our own."""

    def __init__(self, resource: Resource) -> None:
        self._collector = _Collector()
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(self._collector)
        self._replay = Replay(provider)

    def obey(self, span: ReadableSpan) -> Sequence[ReadableSpan]:
        """The span as OpenTelemetry would have made it; nothing if it would have made none."""
        self._replay.run(span)
        return self._collector.take()


class _Collector(SpanProcessor):
    def __init__(self) -> None:
        self._ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._ended.append(span)

    def take(self) -> Sequence[ReadableSpan]:
        taken, self._ended = self._ended, []
        return taken
