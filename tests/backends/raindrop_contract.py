"""What Raindrop takes: each function returns what is wrong with a request's body, nothing if it may stay."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

PROJECT_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
MAX_EVENT_BYTES = 1024 * 1024
MAX_TEXT_CHARS = 1_000_000
MAX_EVENTS = 10

_EVENT = {"event_id", "user_id", "event", "properties", "timestamp", "attachments"}
_SIGNAL = {"event_id", "signal_name", "timestamp", "properties", "attachment_id", "sentiment", "signal_type"}
_KNOWN_PROPERTIES: dict[str, type] = {
    "ai.usage.prompt_tokens": int,
    "ai.usage.completion_tokens": int,
    "dspy.finish_reason": str,
    "error.type": str,
    "error.message": str,
}
Problems = Iterator[str]


def track(body: Any) -> Problems:
    """`POST events/track`."""
    yield from _array(body, _event)


def identify(body: Any) -> Problems:
    """`POST users/identify`."""
    yield from _array(body, _identity)


def signals(body: Any) -> Problems:
    """`POST signals/track`."""
    yield from _array(body, _signal)


def track_partial(body: Any) -> Problems:
    """`POST events/track_partial`."""
    if not isinstance(body, dict):
        yield "the body is no object"
        return
    yield from _text(body, "event_id")
    yield from _unknown(body, _EVENT | {"ai_data", "is_pending"})
    if not isinstance(body.get("is_pending"), bool):
        yield "is_pending is no boolean"


def _array(body: Any, check: Callable[[dict[str, Any]], Problems]) -> Problems:
    if not isinstance(body, list) or not 1 <= len(body) <= MAX_EVENTS:
        yield f"the body is no array of 1 to {MAX_EVENTS}"
        return
    for item in body:
        if not isinstance(item, dict):
            yield "an item is no object"
            continue
        if len(json.dumps(item)) > MAX_EVENT_BYTES:
            yield f"an item is larger than {MAX_EVENT_BYTES} bytes"
        yield from check(item)


def _event(event: dict[str, Any]) -> Problems:
    yield from _keys(event, _EVENT, optional={"ai_data"})
    for name in ("event_id", "user_id", "event"):
        yield from _text(event, name)
    yield from _time(event)
    if event.get("attachments") is not None and not isinstance(event["attachments"], list):
        yield "attachments is no array"
    properties = event.get("properties")
    if not isinstance(properties, dict):
        yield "properties is no object"
        properties = {}
    for name, value in properties.items():
        wanted = _KNOWN_PROPERTIES.get(name)
        if wanted is not None and type(value) is not wanted:
            yield f"property {name} is no {wanted.__name__}"
        if name != "$context" and not isinstance(value, (str, int, float, bool)):
            yield f"property {name} is no string, number or boolean"
    if "ai_data" in event:
        yield from _ai_data(event["ai_data"])


def _ai_data(data: Any) -> Problems:
    if not isinstance(data, dict):
        yield "ai_data is no object"
        return
    yield from _unknown(data, {"model", "input", "output", "convo_id"})
    for name, value in data.items():
        if not isinstance(value, str):
            yield f"ai_data.{name} is no string"
        elif len(value) > MAX_TEXT_CHARS:
            yield f"ai_data.{name} is longer than {MAX_TEXT_CHARS} characters"
    if not (data.get("input") or data.get("output")):
        yield "ai_data has neither input nor output"


def _identity(identity: dict[str, Any]) -> Problems:
    yield from _keys(identity, {"user_id", "traits"})
    yield from _text(identity, "user_id")
    traits = identity.get("traits")
    if not isinstance(traits, dict) or not all(isinstance(value, (str, int, float, bool)) for value in traits.values()):
        yield "traits is no object of strings, numbers and booleans"


def _signal(signal: dict[str, Any]) -> Problems:
    yield from _keys(signal, _SIGNAL)
    yield from _text(signal, "event_id")
    yield from _text(signal, "signal_name")
    yield from _time(signal)
    kind, properties = signal.get("signal_type"), signal.get("properties")
    if kind not in ("default", "feedback", "edit"):
        yield f"signal_type can't be {kind!r}"
    if signal.get("sentiment") not in (None, "POSITIVE", "NEGATIVE"):
        yield f"sentiment can't be {signal['sentiment']!r}"
    if not isinstance(properties, dict):
        yield "properties is no object"
        return
    for needed, of_kind in (("comment", "feedback"), ("after", "edit")):
        if kind == of_kind:
            yield from _text(properties, needed)


def _keys(item: Mapping[str, Any], wanted: set[str], optional: set[str] | frozenset[str] = frozenset()) -> Problems:
    yield from (f"{name} is missing" for name in sorted(wanted - item.keys()))
    yield from _unknown(item, wanted | optional)


def _unknown(item: Mapping[str, Any], known: set[str]) -> Problems:
    yield from (f"{name} is not known" for name in sorted(item.keys() - known))


def _text(item: Mapping[str, Any], name: str) -> Problems:
    if not isinstance(item.get(name), str) or not item[name].strip():
        yield f"{name} is no text"


def _time(item: Mapping[str, Any]) -> Problems:
    try:
        if datetime.fromisoformat(item["timestamp"].replace("Z", "+00:00")).tzinfo is None:
            yield "timestamp has no zone"
    except (KeyError, AttributeError, ValueError):
        yield "timestamp is no time"


def spans(span: Any, project_id: str | None) -> Problems:
    """One span of `POST traces`, as `raindrop_server.RaindropSpan`."""
    if len(span.trace_id) != 32 or len(span.span_id) != 16:
        yield "a span's ids have the wrong length"
    if not 0 < span.start_ns <= span.end_ns:
        yield "a span ends before it starts"
    if span.attributes.get("traceloop.span.kind") not in ("task", "tool", "llm"):
        yield "traceloop.span.kind is no task, tool or llm"
    if not span.attributes.get("traceloop.association.properties.event_id"):
        yield "a span belongs to no event"
    if span.attributes.get("raindrop.project_id") != project_id:
        yield "a span is of another project than its request"
