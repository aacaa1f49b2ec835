"""Spanhook's spans as the current ones in Opik's own context, so that `@opik.track` inside a DSPy call hangs under it.

The backend puts a span there when it starts and takes it out when it ends, both on the call's thread.
"""

from __future__ import annotations

from typing import Any

import dspy

from spanhook import Call, Span
from spanhook_backends.opik import sdk
from spanhook_backends.opik.ids import span_uuid
from spanhook_backends.opik.places import MARK, Place, needs_span

SPAN_UPDATE = "opik.span"  # attributes: what the program has told Opik of its current span and trace
TRACE_UPDATE = "opik.trace"


def is_passed_over(span: Span, call: Call) -> bool:
    """Whether no code of the program runs in it that could look at Opik's context."""
    return span.kind in ("adapter_format", "adapter_parse") or type(call.instance) is dspy.LM


def enter(span: Span, place: Place, project_name: str) -> None:
    """Make a span that starts the current one of Opik's context."""
    mark = {MARK: span.span_id}
    project_name = place.project or project_name
    if sdk.get_trace_data() is None:  # a root, or a thread of dspy.Parallel
        sdk.set_trace_data(
            sdk.TraceData(
                id=place.trace_id, name=span.name, metadata=dict(mark), project_name=project_name, start_time=None
            )
        )
    if needs_span(span) or not place.is_trace:
        sdk.add_span_data(
            sdk.SpanData(
                id=span_uuid(span.span_id, span.start_ns),
                trace_id=place.trace_id,
                parent_span_id=place.parent_id,
                name=span.name,
                metadata=mark,
                project_name=project_name,
                start_time=None,
            )
        )


def leave(span: Span, call: Call) -> dict[str, Any]:
    """Take a span that ends out of Opik's context.

    What the program has told Opik meanwhile, with `opik_context.update_current_span` and `update_current_trace`, is
    returned as attributes that the backend puts in their place: tags and metadata, and of the trace its thread and
    scores.
    """
    if is_passed_over(span, call):
        return {}
    attributes: dict[str, Any] = {}
    own_id = span_uuid(span.span_id, span.start_ns)
    sdk.trim_span_data_stack_to_certain_span(own_id)
    ended = sdk.pop_span_data(ensure_id=own_id)
    if ended is not None and (told := _told(ended)):
        attributes[SPAN_UPDATE] = told
    trace = sdk.get_trace_data()
    if trace is not None and (trace.metadata or {}).get(MARK) == span.span_id:
        sdk.pop_trace_data(ensure_id=trace.id)
        told = _told(trace)
        if trace.thread_id is not None:
            told["thread_id"] = str(trace.thread_id)
        if trace.feedback_scores:
            told["feedback_scores"] = trace.feedback_scores
        if told:
            attributes[TRACE_UPDATE] = told
    return attributes


def _told(data: sdk.SpanData | sdk.TraceData) -> dict[str, Any]:
    metadata = {name: value for name, value in (data.metadata or {}).items() if name != MARK}
    told: dict[str, Any] = {"metadata": metadata} if metadata else {}
    if data.tags:
        told["tags"] = [str(tag) for tag in data.tags]
    return told
