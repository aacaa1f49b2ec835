"""Spans as the messages of OpenTelemetry's protocol.

OpenTelemetry's own encoder makes the same of them, and takes three times as long: it makes an object for each attribute
and another for its value before it puts them into a message, and a Predict's four spans have sixty attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags, Status
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

_KINDS = {
    SpanKind.INTERNAL: Message.SPAN_KIND_INTERNAL,
    SpanKind.SERVER: Message.SPAN_KIND_SERVER,
    SpanKind.CLIENT: Message.SPAN_KIND_CLIENT,
    SpanKind.PRODUCER: Message.SPAN_KIND_PRODUCER,
    SpanKind.CONSUMER: Message.SPAN_KIND_CONSUMER,
}
_CODES = {
    StatusCode.UNSET: Status.STATUS_CODE_UNSET,
    StatusCode.OK: Status.STATUS_CODE_OK,
    StatusCode.ERROR: Status.STATUS_CODE_ERROR,
}


def request_of(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    """One request with these spans, all of the same program and scope, in their order."""
    request = ExportTraceServiceRequest()
    if not spans:
        return request
    resource, scope = spans[0].resource, spans[0].instrumentation_scope
    of_program = request.resource_spans.add(schema_url=resource.schema_url)
    _add(of_program.resource.attributes, resource.attributes)
    of_scope = of_program.scope_spans.add()
    if scope is not None:
        of_scope.scope.name, of_scope.scope.version = scope.name, scope.version or ""
        of_scope.schema_url = scope.schema_url or ""
        _add(of_scope.scope.attributes, scope.attributes or {})
    for span in spans:
        _fill(of_scope.spans.add(), span)
    return request


def _fill(message: Message, span: ReadableSpan) -> None:
    context, parent = span.get_span_context(), span.parent
    if context is not None:
        message.trace_id, message.span_id = context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")
    message.flags = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
    if parent is not None:
        message.parent_span_id = parent.span_id.to_bytes(8, "big")
        if parent.is_remote:
            message.flags |= SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
    message.name = span.name
    message.kind = _KINDS[span.kind]
    message.start_time_unix_nano, message.end_time_unix_nano = span.start_time or 0, span.end_time or 0
    _add(message.attributes, span.attributes or {})
    for event in span.events:
        made = message.events.add(name=event.name, time_unix_nano=event.timestamp)
        _add(made.attributes, event.attributes or {})
    message.status.code = _CODES[span.status.status_code]
    if span.status.description:
        message.status.message = span.status.description


def _add(attributes: Any, values: Mapping[str, Any]) -> None:
    add = attributes.add
    for key, value in values.items():
        message = add(key=key).value
        if type(value) is str:  # as most are
            message.string_value = value
        else:
            _set(message, value)


def _set(message: AnyValue, value: Any) -> None:
    if isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, int):
        message.int_value = value
    elif isinstance(value, float):
        message.double_value = value
    elif isinstance(value, str):
        message.string_value = value
    else:
        message.array_value.SetInParent()  # an empty list is one, too
        for item in value:
            _set(message.array_value.values.add(), item)
