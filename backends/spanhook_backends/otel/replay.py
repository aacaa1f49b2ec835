"""The way of spans that have ended through a tracer provider, with the ids that they have already."""

from __future__ import annotations

from opentelemetry.sdk.trace import ReadableSpan, Tracer, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, SpanContext, set_span_in_context

from spanhook_backends.otel.spans import SCOPE


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
