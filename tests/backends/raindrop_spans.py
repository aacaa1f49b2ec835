"""OpenTelemetry's wire format, read: the spans that reach Raindrop's stand-in."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True)
class OTLPSpan:
    """A span as it arrived."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    is_error: bool
    exceptions: list[Mapping[str, Any]]

    @property
    def kind(self) -> str:
        """task, tool or llm."""
        return str(self.attributes["traceloop.span.kind"])

    @property
    def event_id(self) -> str:
        """The event that it belongs to."""
        return str(self.attributes["traceloop.association.properties.event_id"])


def spans_of(headers: Mapping[str, str], body: bytes) -> list[OTLPSpan]:
    """The spans of a `POST traces`. Raises ValueError if the body has none."""
    if headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    request = ExportTraceServiceRequest()
    if headers.get("content-type") == "application/x-protobuf":
        request.ParseFromString(body)
    else:
        json_format.Parse(body, request)
    return [
        OTLPSpan(
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex() or None,
            name=span.name,
            start_ns=span.start_time_unix_nano,
            end_ns=span.end_time_unix_nano,
            attributes=_values(span.attributes),
            resource=_values(resource.resource.attributes),
            is_error=span.status.code == 2,
            exceptions=[_values(event.attributes) for event in span.events if event.name == "exception"],
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(item) for item in value.array_value.values] if kind == "array_value" else getattr(value, kind)
