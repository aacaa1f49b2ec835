"""From a span to OpenTelemetry's attributes, by the names of the conventions that were chosen."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from spanhook import Span
from spanhook_backends.otel.spans import Attributes, Value
from spanhook_backends.otlp import messages
from spanhook_backends.otlp.conventions import GENAI_PROVIDERS, OPENINFERENCE_PROVIDERS, Names
from spanhook_backends.otlp.messages import as_text
from spanhook_backends.plain_json import as_json

PREFIX = "spanhook."
_KINDS = {"lm": "LLM", "tool": "TOOL", "evaluate": "EVALUATOR"}  # the others are CHAIN
_OPERATIONS = {"lm": "chat", "tool": "execute_tool", "module": "invoke_workflow", "interaction": "invoke_workflow"}


class Converter:
    """Makes attributes; does nothing else, and keeps nothing."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def attributes(self, span: Span, traits: Mapping[str, Value], *, is_agent: bool) -> Attributes:
        """All that is known of a span but its ids, times, name and error.

        Args:
            span: whose.
            traits: what is known of its user.
            is_agent: whether it ran a tool itself.
        """
        made: Attributes = {**_own(span.attributes), **traits}
        made[f"{PREFIX}kind"] = span.kind
        made[f"{PREFIX}event_id"] = span.event_id
        self._put(made, "operation", "invoke_agent" if is_agent else _OPERATIONS.get(span.kind))
        self._put(made, "kind", "AGENT" if is_agent else _KINDS.get(span.kind, "CHAIN"))
        self._put(made, "user", span.user_id)
        self._put(made, "conversation", span.convo_id)
        if span.kind == "tool":
            self._put(made, "tool", span.name)
        elif span.kind in ("module", "interaction"):
            self._put(made, "agent" if is_agent else "workflow", span.name)
        self._put(made, "prompt_version", span.attributes.get("prompt_version"))
        if span.cache_hit is not None:
            made[f"{PREFIX}cache_hit"] = span.cache_hit
        if span.cost_usd is not None:
            made[f"{PREFIX}cost_usd"] = float(span.cost_usd)
        if span.kind == "lm":
            self._lm(made, span)
        elif span.usage is not None:  # a sum: receivers add up the tokens of a trace themselves
            made.update({f"{PREFIX}usage.{name}": value_of(count) for name, count in span.usage.to_dict().items()})
        return made

    def content(self, span: Span) -> Attributes:
        """Its inputs and outputs, and what the conventions make of them."""
        made: Attributes = {}
        for fact, value in (("inputs", span.inputs), ("outputs", span.outputs)):
            if value is None or (fact == "inputs" and value == {}):
                continue
            text = as_text(value)
            self._put(made, fact, text)
            self._put(made, f"{fact}_type", "text/plain" if isinstance(value, str) else "application/json")
            if not self._names.openinference and span.kind not in ("lm", "tool"):
                made[f"{PREFIX}{fact}"] = text
        if span.kind == "lm":
            self._messages(made, span)
        elif span.kind == "tool":
            self._put(made, "tool_arguments", None if span.inputs is None else as_json(span.inputs))
            self._put(made, "tool_result", None if span.outputs is None else as_text(span.outputs))
        return made

    def _put(self, made: Attributes, fact: str, value: Value | None) -> None:
        if value is not None:
            for name in self._names.of(fact):
                made[name] = value

    def _lm(self, made: Attributes, span: Span) -> None:
        if span.provider is not None:
            genai, openinference = self._names.pair("provider")
            if genai is not None:
                made[genai] = GENAI_PROVIDERS.get(span.provider, span.provider)
            if openinference is not None:
                made[openinference] = OPENINFERENCE_PROVIDERS.get(span.provider, span.provider)
        self._put(made, "request_model", span.model)
        self._put(made, "response_model", span.response_model)
        self._put(made, "model", span.response_model or span.model)
        if span.usage is not None:
            for name, count in span.usage.to_dict().items():
                self._put(made, name, _int(count))
        reasons = finish_reasons(span)
        self._put(made, "finish_reasons", reasons or None)
        self._put(made, "finish_reason", span.finish_reason)
        self._put(made, "first_token_s", _float(span.time_to_first_token_s))
        self._put(made, "streamed", True if span.time_to_first_token_s is not None else None)
        self._put(made, "cost_usd", _float(span.cost_usd))
        parameters = {
            name.removeprefix("request."): value
            for name, value in span.attributes.items()
            if name.startswith("request.")
        }
        if parameters:
            self._put(made, "parameters", as_json(parameters))
            for name in ("temperature", "top_p"):
                self._put(made, name, _float(parameters.get(name)))
            for name in ("max_tokens", "max_completion_tokens", "n", "seed"):
                self._put(made, name, _int(parameters.get(name)))

    def _messages(self, made: Attributes, span: Span) -> None:
        asked, answered = messages.asked(span.inputs), messages.answered(span.outputs)
        for fact, said, reasons in (
            ("input_messages", asked, None),
            ("output_messages", answered, finish_reasons(span)),
        ):
            genai, openinference = self._names.pair(fact)
            if said and genai is not None:
                made[genai] = messages.genai_messages(said, reasons)
            if said and openinference is not None:
                made.update(messages.flattened(openinference, said))
        tools = span.inputs.get("tools") if isinstance(span.inputs, Mapping) else None
        if isinstance(tools, list) and tools:
            genai, openinference = self._names.pair("tool_definitions")
            if genai is not None:
                made[genai] = as_json([messages.tool_definition(tool) for tool in tools])
            if openinference is not None:
                made.update(
                    {f"{openinference}.{index}.tool.json_schema": as_text(tool) for index, tool in enumerate(tools)}
                )


def finish_reasons(span: Span) -> list[str]:
    """Those of all answers, where there are several."""
    several = span.attributes.get("finish_reasons")
    if isinstance(several, list) and several and all(isinstance(reason, str) for reason in several):
        return several
    return [] if span.finish_reason is None else [span.finish_reason]


def _own(attributes: Mapping[str, Any]) -> Attributes:
    """A span's attributes; a name without a dot, and ours of other spaces, get our prefix."""
    made: Attributes = {}
    for name, value in attributes.items():
        if value is not None:
            is_ours = "." not in name or name.startswith(("request.", "properties."))
            made[f"{PREFIX}{name}" if is_ours else name] = value_of(value)
    return made


def value_of(value: Any) -> Value:
    """A value as an attribute can have it: what is no string, number, flag or list of strings becomes JSON."""
    if isinstance(value, (str, bool, float)):
        return value
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 63 else str(value)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return value
    return as_json(value)


def _int(value: Any) -> int | None:
    """A whole number as conventions that have a type for it want it; None if it is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if -(1 << 63) <= value < 1 << 63 else None


def _float(value: Any) -> float | None:
    """A number, likewise."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if abs(value) <= sys.float_info.max else None


def traits_of(traits: Mapping[str, Any]) -> Attributes:
    """What `identify` said of a user, as attributes of the user's spans."""
    standard = {"name": "user.name", "full_name": "user.full_name", "email": "user.email"}
    return {standard.get(name, f"{PREFIX}user.{name}"): value_of(value) for name, value in traits.items()}
