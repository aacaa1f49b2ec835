"""OpenTelemetry's wire format, read: the spans of a request to a stand-in."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SPAN_KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")


@dataclass(frozen=True, slots=True)
class OTLPEvent:
    """An event of a span, as it arrived."""

    name: str
    time_ns: int
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OTLPSpan:
    """A span as it arrived."""

    trace_id: str
    span_id: str
    parent_id: str | None
    has_remote_parent: bool
    name: str
    start_ns: int
    end_ns: int
    span_kind: str
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    scope: str
    is_error: bool
    status_message: str
    events: list[OTLPEvent]

    @property
    def exceptions(self) -> list[Mapping[str, Any]]:
        """The attributes of its exception events."""
        return [event.attributes for event in self.events if event.name == "exception"]


AnySpan = TypeVar("AnySpan", bound=OTLPSpan)


def request_of(headers: Mapping[str, str], body: bytes) -> ExportTraceServiceRequest:
    """The request in an HTTP body. Raises if there is none in it."""
    encoding = headers.get("content-encoding", "identity")
    body = {"gzip": gzip.decompress, "deflate": zlib.decompress, "identity": bytes}[encoding](body)
    request = ExportTraceServiceRequest()
    if headers.get("content-type") == "application/x-protobuf":
        request.ParseFromString(body)
    else:
        json_format.Parse(body, request)
    return request


def spans_of(request: ExportTraceServiceRequest, kind: type[AnySpan] = OTLPSpan) -> list[AnySpan]:  # type: ignore[assignment]
    """The spans of a request, in its order, as objects of a kind."""
    return [
        kind(
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex() or None,
            has_remote_parent=bool(span.flags & 0x200),
            name=span.name,
            start_ns=span.start_time_unix_nano,
            end_ns=span.end_time_unix_nano,
            span_kind=SPAN_KINDS[span.kind],
            attributes=_values(span.attributes),
            resource=_values(resource.resource.attributes),
            scope=scope.scope.name,
            is_error=span.status.code == 2,
            status_message=span.status.message,
            events=[OTLPEvent(event.name, event.time_unix_nano, _values(event.attributes)) for event in span.events],
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _values(attributes: Iterable[Any]) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(item) for item in value.array_value.values] if kind == "array_value" else getattr(value, kind)
