"""The span that runs here, for the program's own code and log lines."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from spanhook import dspy_compat
from spanhook.active import innermost
from spanhook.dspy_source import DSPySource
from spanhook.span import Span


def current_span() -> Span | None:
    """The innermost span that is open on this thread or task; None outside of any. Read it, don't change it."""
    opened = next((c.innermost() for c in dspy_compat.callbacks() if isinstance(c, DSPySource)), None) or innermost({})
    return opened.span if opened is not None else None


def add_trace_ids(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: puts `trace_id`, `span_id` and `event_id` of the running call into a log line.

    Add it to `structlog.configure(processors=[…])`, before the renderer. Keys that are there already stay.
    """
    span = current_span()
    if span is not None:
        event.setdefault("trace_id", span.trace_id)
        event.setdefault("span_id", span.span_id)
        event.setdefault("event_id", span.event_id)
    return event
