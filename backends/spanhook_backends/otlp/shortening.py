"""What is left of a span that a receiver finds too large."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Status

from spanhook_backends.otlp.conventions import NUMBERED

LONG_CHARS = 500  # a text that is longer is content, and not a name or an id


def without_content(span: ReadableSpan) -> ReadableSpan:
    """The span without its long texts, which says so: for a receiver that finds it too large."""
    return ReadableSpan(
        name=span.name[:LONG_CHARS],
        context=span.get_span_context(),
        parent=span.parent,
        resource=span.resource,
        attributes={**_short(span.attributes or {}), "spanhook.content_lost": True},
        events=[Event(event.name, _short(event.attributes or {}), event.timestamp) for event in span.events],
        kind=span.kind,
        status=Status(span.status.status_code, (span.status.description or "")[:LONG_CHARS] or None),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _short(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in attributes.items()
        if isinstance(value, (bool, int, float))
        or (sum(map(len, value)) <= LONG_CHARS and not name.startswith(NUMBERED))
    }
