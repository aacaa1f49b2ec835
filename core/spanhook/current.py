"""The span that runs here, for the program's own code and log lines."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from spanhook import dspy_compat, dspy_overrides
from spanhook.active import SETTING, OpenSpan, still_around
from spanhook.dspy_source import DSPySource
from spanhook.guard import attempt
from spanhook.span import Span


def running_sources() -> Iterator[DSPySource]:
    """The callbacks of tracers that are at work in this context; one, as a rule."""
    return (c for c in dspy_compat.callbacks() if isinstance(c, DSPySource) and not c.is_closed)


def current_open() -> OpenSpan | None:
    """The innermost span that is open on this thread or task, with what belongs to it."""
    here: list[OpenSpan | None] = [source.innermost() for source in running_sources()]
    here += map(still_around, dspy_overrides.overrides_named(SETTING))  # of a tracer for wrapped programs alone
    # A context may outlive the span that was open when it was copied.
    return next((opened for opened in here if opened and opened.ended_ns is None), None)


def current_span() -> Span | None:
    """The innermost span that is open on this thread or task; None outside of any. Read it, don't change it."""
    opened = current_open()
    # To put a call into words may run code of its LM's class.
    return attempt(lambda: opened.span)[0] if opened is not None else None


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
