"""Spans and signals as rows of the tables, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from spanhook import Signal, Span, SpanError, Usage
from spanhook_backends.local.schema import SPAN_COLUMNS, TOKENS
from spanhook_backends.plain_json import as_json

_SAME = [name for name in SPAN_COLUMNS if name in Span.__dataclass_fields__]
_JSON = ("inputs", "outputs", "attributes", "sources")

Row = Mapping[str, Any]
"""Values by column."""


def span_row(span: Span) -> dict[str, Any]:
    """What `spans` has of a span."""
    row: dict[str, Any] = dict.fromkeys(SPAN_COLUMNS)
    row.update({name: getattr(span, name) for name in _SAME})
    row["duration_s"] = span.duration_s
    if span.usage is not None:
        row.update(span.usage.to_dict())
    if span.error is not None:
        row["error_type"], row["error_message"] = span.error.type, span.error.message
        row["error_traceback"] = span.error.traceback
    for name in _JSON:
        row[name] = json_text(row[name])
    return row


def span_of(row: Row) -> Span:
    """The span of a row of `spans`."""
    values = {name: row[name] for name in _SAME}
    for name in _JSON:
        values[name] = value_of(row[name])
    for name in ("cache_hit", "event_is_remote"):
        values[name] = None if row[name] is None else bool(row[name])
    counts = {name: row[name] for name in TOKENS if row[name] is not None}
    values["usage"] = Usage(**counts) if counts else None
    if row["error_type"] is not None:
        values["error"] = SpanError(row["error_type"], row["error_message"], row["error_traceback"])
    return Span(**values)


def signal_row(signal: Signal) -> dict[str, Any]:
    """What `signals` has of a signal."""
    row = {name: getattr(signal, name) for name in Signal.__dataclass_fields__}
    return {**row, "properties": json_text(dict(signal.properties))}


def signal_of(row: Row) -> Signal:
    """The signal of a row of `signals`."""
    return Signal(**{**dict(row), "properties": value_of(row["properties"])})


def json_text(value: Any) -> str | None:
    """Plain data as JSON, None as nothing."""
    if value is None:
        return None
    try:
        return as_json(value)
    except ValueError:  # a number of more than 64 bits, which the standard library can write down
        return json.dumps(value)


def value_of(text: str | None) -> Any:
    """What `json_text` was given."""
    return None if text is None else json.loads(text)
