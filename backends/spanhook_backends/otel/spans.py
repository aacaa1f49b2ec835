"""A span in OpenTelemetry's form, with the ids that it has already; and the way through a tracer provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, Tracer, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from spanhook import Span, __version__

LONG_CHARS = 500  # a text that is longer is content, and not a name or an id
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
    numbered = ("llm.input_messages.", "llm.output_messages.", "llm.tools.")
    return {
        name: value
        for name, value in attributes.items()
        if isinstance(value, (bool, int, float))
        or (sum(map(len, value)) <= LONG_CHARS and not name.startswith(numbered))
    }


class Replay:
    """Makes spans again in a tracer provider: its sampler, limits, resource and processors are done to them.

    For one thread at a time.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._ids = _GivenIds()
        tracer = provider.get_tracer(SCOPE.name, SCOPE.version)
        if isinstance(tracer, Tracer):  # else OTEL_SDK_DISABLED is set, and it makes no spans
            tracer.id_generator = self._ids
        self._tracer = tracer

    def run(self, span: ReadableSpan) -> None:
        """Start and end a span of the provider's with the ids, times and contents of this one."""
        self._ids.given = span.get_span_context()
        parent = INVALID_SPAN if span.parent is None else NonRecordingSpan(span.parent)
        started = self._tracer.start_span(
            span.name,
            context=set_span_in_context(parent),
            kind=span.kind,
            attributes=span.attributes,
            start_time=span.start_time,
        )
        for event in span.events:
            started.add_event(event.name, event.attributes, event.timestamp)
        started.set_status(span.status)
        started.end(span.end_time)


class _GivenIds(IdGenerator):
    """The ids that the span has already."""

    given: SpanContext | None = None

    def generate_span_id(self) -> int:
        return 0 if self.given is None else self.given.span_id

    def generate_trace_id(self) -> int:
        return 0 if self.given is None else self.given.trace_id
