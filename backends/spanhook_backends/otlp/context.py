"""Spanhook's spans in OpenTelemetry's own context, both ways (`join = true`).

A DSPy call inside a traced request hangs under the request's span, and what OpenTelemetry traces inside a DSPy call, an
HTTP client's request for example, hangs under that call's span.
"""

from __future__ import annotations

from opentelemetry import context as otel
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    TraceState,
    get_current_span,
    set_span_in_context,
)

from spanhook import RemoteParent, SpanIds, hookimpl
from spanhook_backends.bounded import Bounded

# No code of the program, and no client of anything, runs in the others.
KINDS = ("interaction", "module", "lm", "tool", "evaluate", "compile", "interpreter", "custom")

MAX_LEFT_BEHIND = 1_000
# Spans that ended in another context than they began in, and stand there still; calls on any thread add to them.
_left_behind: Bounded[None] = Bounded(MAX_LEFT_BEHIND)


class _Ours(NonRecordingSpan):
    """Stands in OpenTelemetry's context for a span of ours, with what was there before."""

    def __init__(self, span: SpanIds, outside: Context) -> None:
        self.span = span
        self.outside = outside
        self._made: SpanContext | None = None  # when someone asks for it: inside of most calls nobody does

    def get_span_context(self) -> SpanContext:
        """Its ids as OpenTelemetry has them."""
        if self._made is None:
            around = get_current_span(self.outside).get_span_context()
            trace_id = int(self.span.trace_id, 16)
            state = around.trace_state if around.trace_id == trace_id else TraceState()
            flags = TraceFlags(TraceFlags.SAMPLED)  # a span that is left out comes to no hook
            self._made = SpanContext(trace_id, int(self.span.span_id, 16), False, flags, state)
        return self._made

    def __repr__(self) -> str:
        return f"<a span of Spanhook: {self.get_span_context()!r}>"


@hookimpl
def enter(span: SpanIds) -> None:
    """Make a span that starts the current one: the backend's `span_start`."""
    outside = otel.get_current()
    otel.attach(set_span_in_context(_Ours(span, outside), outside))


@hookimpl
def leave(span: SpanIds) -> None:
    """Put back what was there before: the backend's `span_end`.

    Not by OpenTelemetry's token, which is good in one context alone: a generator or a task may end a call in another.
    There nothing of ours is current, and nothing is to be put back.
    """
    current = get_current_span()
    if isinstance(current, _Ours) and current.span is span:
        otel.attach(current.outside)
    else:
        _left_behind.put(span.span_id, None)


@hookimpl
def trace_parent() -> RemoteParent | None:
    """What OpenTelemetry has open here, for a trace that begins: the backend's hook of this name."""
    current = get_current_span()
    while isinstance(current, _Ours) and current.span.span_id in _left_behind:
        current = get_current_span(current.outside)
    known = current.get_span_context()
    if not known.is_valid:
        return None
    trace_id, span_id = f"{known.trace_id:032x}", f"{known.span_id:016x}"
    if isinstance(current, _Ours):  # on a thread that OpenTelemetry's context was carried to, and ours was not
        span = current.span
        return RemoteParent(trace_id, span_id, user_id=span.user_id, convo_id=span.convo_id, event_id=span.event_id)
    state = known.trace_state.to_header() or None
    return RemoteParent(trace_id, span_id, known.trace_flags.sampled, tracestate=state)
