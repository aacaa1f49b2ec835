"""OTLP over gRPC, one attempt at a time, with OpenTelemetry's generated client.

OpenTelemetry's gRPC exporter keeps the server's answer to itself, partial successes included, so it is not used here.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk.trace import ReadableSpan

from spanhook import __version__
from spanhook_backends.otel.encoding import request_of
from spanhook_backends.otel.http import without_instrumentation
from spanhook_backends.otlp import outcomes
from spanhook_backends.otlp.outcomes import Outcome
from spanhook_backends.otlp.target import Target

_OPTIONS = (
    ("grpc.primary_user_agent", f"spanhook/{__version__}"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),  # when to try again is decided elsewhere
)
_LATER = frozenset(  # by OTLP's specification
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


class GRPCSender:
    """Sends spans, from one thread at a time."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._compression = grpc.Compression.Gzip if target.compression == "gzip" else grpc.Compression.NoCompression
        address = urlsplit(target.endpoint).netloc
        if target.is_secure:
            credentials = grpc.ssl_channel_credentials(
                *(None if file is None else Path(file).read_bytes() for file in _files(target))
            )
            self._channel = grpc.secure_channel(address, credentials, _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address, _OPTIONS)
        self._client = TraceServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def send(self, spans: Sequence[ReadableSpan]) -> Outcome:
        """One request."""
        try:
            with without_instrumentation():
                answer = self._client.Export(
                    request_of(spans),
                    timeout=self._target.timeout_s,
                    metadata=tuple(self._target.headers.items()),
                    compression=self._compression,
                )
        except grpc.RpcError as error:
            return self._of_error(error)
        return outcomes.taken(answer.partial_success.rejected_spans, answer.partial_success.error_message, self._target)

    def close(self) -> None:
        """Let go of the connection."""
        self._channel.close()

    def _of_error(self, error: grpc.RpcError) -> Outcome:
        code, details = error.code(), error.details() or ""
        said = outcomes.without_secrets(details, self._target.headers.values())
        reason = f"{self._target.place} answered {code.name}" + (f": {said}" if said else "")
        after_s = _retry_after_s(error)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Outcome("too_large", reason) if after_s is None else Outcome("later", reason, after_s)
        if "CERTIFICATE_VERIFY_FAILED" in details:
            return Outcome(
                "refused", f"{self._target.place}: its certificate is not trusted; {outcomes.CHECK_CERTIFICATE}"
            )
        if code is grpc.StatusCode.UNIMPLEMENTED or "http1" in details or "WRONG_VERSION_NUMBER" in details:
            where = f"there is no OTLP receiver for gRPC at this address; {outcomes.CHECK_ENDPOINT}, and protocol"
            return Outcome("refused", f"{reason}: {where}")
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return Outcome("refused", f"{reason}; {outcomes.CHECK_HEADERS}")
        return Outcome("later", reason, after_s) if code in _LATER else Outcome("refused", reason)


def _files(target: Target) -> tuple[str | None, str | None, str | None]:
    return target.certificate, target.client_key, target.client_certificate


def _retry_after_s(error: grpc.RpcError) -> float | None:
    """When the receiver wants to be asked again: in gRPC's richer status, or alone as some send it."""
    metadata: Any = error.trailing_metadata() or ()
    info = RetryInfo()
    for key, value in metadata:
        with suppress(DecodeError):
            if key == "grpc-status-details-bin":
                is_there = any(detail.Unpack(info) for detail in Status.FromString(value).details)
            else:
                is_there = key == "google.rpc.retryinfo-bin" and bool(info.MergeFromString(value))
            if is_there:
                return max(0.0, float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9))
    return None
