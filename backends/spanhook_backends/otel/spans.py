"""A span in OpenTelemetry's form, with the ids that it has already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from spanhook import Span, __version__

SCOPE = InstrumentationScope("spanhook", __version__)

Value = str | int | float | bool | Sequence[str]
Attributes = dict[str, Value]


def readable(
    span: Span,
    attributes: Mapping[str, Value],
    resource: Resource,
    *,
    parent_id: str | None,
    fit: Callable[[str], str] = str,
) -> ReadableSpan:
    """A span that has ended. What ended it with an error is its status, `error.type` and an exception event.

    Args:
        span: whose.
        attributes: what is known of it, by the names that it has there.
        resource: the program.
        parent_id: the span above; None for a root.
        fit: cuts the error's texts.
    """
    status, events = Status(StatusCode.UNSET), []
    if span.error is not None:
        message = fit(span.error.message or "")
        status = Status(StatusCode.ERROR, message or span.error.type)
        details = {"exception.type": span.error.type, "exception.message": message}
        if span.error.traceback is not None:
            details["exception.stacktrace"] = fit(span.error.traceback)
        events = [Event("exception", details, span.end_ns)]
        attributes = {**attributes, "error.type": span.error.type}
    return ReadableSpan(
        name=span.name,
        context=context_of(span.trace_id, span.span_id),
        parent=None if parent_id is None else context_of(span.trace_id, parent_id, is_remote=span.is_local_root),
        resource=resource,
        attributes=attributes,
        events=events,
        kind=SpanKind.CLIENT if span.kind == "lm" else SpanKind.INTERNAL,
        status=status,
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=SCOPE,
    )


def context_of(trace_id: str, span_id: str, *, is_remote: bool = False) -> SpanContext:
    """Ids as OpenTelemetry holds them; `is_remote` for those of another process's span."""
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote, TraceFlags(TraceFlags.SAMPLED))
