"""A trace as Raindrop's AI event, and a signal as one that Raindrop takes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from spanhook import Signal, Span
from spanhook_backends.raindrop.options import RaindropOptions
from spanhook_backends.raindrop.texts import (
    MAX_ID_BYTES,
    fit,
    fit_both,
    id_text,
    text_of,
    texts_of,
    wire_bytes,
)
from spanhook_backends.raindrop.traces import Gathered

# Of the 1 MiB of an event; the rest is for ids, for what the SDK adds and for the JSON around it.
TEXT_BYTES = 700_000
PROPERTIES_BYTES = 200_000
PROPERTY_BYTES = 50_000

NO_TEXT = "[no text captured]"
UNKNOWN_USER = "unknown"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_PROPERTY = "properties."
_UNNAMED = "interaction"  # the name of an interaction without `event`


def event_name(root: Span | None, options: RaindropOptions) -> str:
    """What the event of a trace is called: what the interaction is, else what the options say."""
    named = root is not None and root.kind == "interaction" and root.name.strip() and root.name != _UNNAMED
    return id_text(root.name) if root is not None and named else options.event_name


def event_of(trace: Gathered, options: RaindropOptions, event_id: str) -> dict[str, Any] | None:
    """The arguments of `track_ai`; None if nothing has ended that an event could be made of."""
    first, last = trace.root or trace.outermost, trace.root or trace.latest
    if first is None or last is None:
        return None
    given, answered = fit_both(_given(first, trace.first_lm), _answered(last), TEXT_BYTES)
    return {
        "user_id": id_text(first.user_id or options.user_id or UNKNOWN_USER),
        "event": event_name(trace.root, options),
        "event_id": id_text(event_id),
        "model": None if trace.last_lm is None or trace.last_lm.model is None else id_text(trace.last_lm.model),
        # Raindrop takes no event without text, and there is none with capture = "metadata".
        "input": given if given or answered else NO_TEXT,
        "output": answered,
        "convo_id": id_text(convo) if (convo := first.convo_id or options.convo_id) else None,
        "properties": _properties(trace, first),
        "timestamp": iso(first.start_ns),
    }


def _given(span: Span, first_lm: Span | None) -> str | None:
    """The input as text: of an LM's call, also where an interaction shows it as its own, the prompt or the last message
    of a person.
    """
    inputs = span.inputs
    if isinstance(inputs, Mapping) and first_lm is not None and first_lm.inputs == inputs:
        if isinstance(inputs.get("prompt"), str):
            return text_of(inputs["prompt"]) or None
        messages = inputs.get("messages")
        if isinstance(messages, list):
            asked = [
                m["content"]
                for m in messages
                if isinstance(m, Mapping) and m.get("role") == "user" and m.get("content") is not None
            ]
            return text_of(asked[-1] if asked else messages) or None
    return texts_of(inputs)


def _answered(span: Span) -> str | None:
    """The output as text: the fields of a prediction, without those that were not filled."""
    outputs = span.outputs
    if isinstance(outputs, Mapping):
        outputs = {name: value for name, value in outputs.items() if value is not None}
    return texts_of(outputs)


def _properties(trace: Gathered, span: Span) -> dict[str, Any]:
    found: dict[str, Any] = {}
    usage, last_lm = trace.usage(), trace.last_lm
    if usage is not None and usage.input_tokens is not None:
        found["ai.usage.prompt_tokens"] = usage.input_tokens
    if usage is not None and usage.output_tokens is not None:
        found["ai.usage.completion_tokens"] = usage.output_tokens
    if last_lm is not None and last_lm.finish_reason is not None:
        found["dspy.finish_reason"] = last_lm.finish_reason
    if span.error is not None:
        found["error.type"] = span.error.type.rpartition(".")[2]
        if span.error.message is not None:
            found["error.message"] = fit(span.error.message, PROPERTY_BYTES)
    found["spanhook.trace_id"] = span.trace_id
    if trace.root is None:
        found["spanhook.incomplete"] = True
    elif trace.root.duration_s is not None:
        found["spanhook.duration_s"] = round(trace.root.duration_s, 6)
    if trace.root is not None and trace.root.cost_usd is not None:
        found["spanhook.cost_usd"] = trace.root.cost_usd
    for name in ("score", "over_budget", "budget_usd", "prompt_version"):
        if isinstance(value := span.attributes.get(name), (bool, int, float, str)):
            found[f"spanhook.{name}"] = fit(value, PROPERTY_BYTES) if isinstance(value, str) else value
    if trace.lm_calls:
        found["spanhook.lm_calls"] = trace.lm_calls
        found["spanhook.cache_hits"] = trace.cache_hits
    if len(trace.models) > 1:
        found["spanhook.models"] = fit(", ".join(trace.models), PROPERTY_BYTES)
    own = {name.removeprefix(_PROPERTY): value for name, value in span.attributes.items() if name.startswith(_PROPERTY)}
    return {**_fitting(own), **found}


def _fitting(values: Mapping[str, Any], *, nested: bool = False) -> dict[str, Any]:
    """Properties as strings, numbers and booleans, and all else as JSON in a string; what has no room is counted.

    With `nested`, lists and dicts stay what they are as long as they are small.
    """
    found: dict[str, Any] = {}
    room = PROPERTIES_BYTES
    for name, value in values.items():
        if value is None:
            continue
        text = text_of(value)
        fitting: Any = value if isinstance(value, (bool, int, float)) else fit(text, PROPERTY_BYTES)
        room -= wire_bytes(name[:MAX_ID_BYTES]) + wire_bytes(str(fitting))
        if nested and fitting == text and isinstance(value, (dict, list)):
            fitting = value
        if room < 0:
            found["spanhook.properties_left_out"] = len(values) - len(found)
            break
        found[id_text(name)] = fitting
    return found


def signal_of(signal: Signal, event_id: str) -> dict[str, Any]:
    """The arguments of `track_signal`: what Raindrop would refuse, or the SDK leave out, goes into the properties.

    Raindrop wants a comment with feedback and `after` with an edit; without, the signal is a default one, and its
    property `spanhook.signal_type` says what it was.
    """
    properties = _fitting(signal.properties, nested=True)
    arguments: dict[str, Any] = {
        "event_id": id_text(event_id),
        "name": id_text(signal.name),
        "signal_type": signal.type,
        "timestamp": iso(signal.time_ns),
        "properties": properties,
        "attachment_id": None if signal.attachment_id is None else id_text(signal.attachment_id),
        "sentiment": signal.sentiment,
    }
    for needed, of_type, text in (("comment", "feedback", signal.comment), ("after", "edit", signal.after)):
        text = None if text is None else fit(text, TEXT_BYTES // 2)
        if text is not None and text.strip():
            properties[needed] = text
        if signal.type == of_type and not _has_text(properties.get(needed)):
            arguments["signal_type"] = "default"
            properties["spanhook.signal_type"] = of_type
    return arguments


def _has_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def traits_of(traits: Mapping[str, Any]) -> dict[str, Any]:
    """Traits that fit into JSON."""
    return _fitting(traits)


def iso(time_ns: int) -> str:
    """Unix time as ISO 8601 in UTC."""
    return (_EPOCH + timedelta(microseconds=time_ns // 1_000)).isoformat()
