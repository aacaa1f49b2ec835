"""Sending LM and tool spans to Raindrop's `v1/traces` with OpenTelemetry's exporter: no global tracer provider."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from spanhook_backends.raindrop.otel_spans import Pipeline
from spanhook_backends.raindrop.retries import Attempt, NotDelivered, Retries

REQUEST_CHARS = 500_000  # of the texts in one request
REQUEST_SPANS = 100
TIMEOUT_S = 5.0  # of one attempt, with the exporter's own repetitions
_OF_ANY_REQUEST = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "content-type", "content-encoding", "host"}
)


class SpanSender:
    """Sends spans, from one thread at a time.

    Args:
        url: where to.
        headers: of each request. None of another service's headers that `OTEL_EXPORTER_OTLP_HEADERS` holds is sent.
        service: what the program is called.
        tools_by_otel: whether tool spans take the way through OpenTelemetry's SDK.
        retries: how what can't be delivered now is repeated.
    """

    def __init__(
        self, url: str, headers: dict[str, str], service: str | None, *, tools_by_otel: bool, retries: Retries
    ) -> None:
        self.resource = Resource({"service.name": service or "spanhook"})
        self._pipeline = Pipeline(self.resource) if tools_by_otel else None
        self._retries = retries
        self._lock = threading.Lock()
        session = requests.Session()
        self._watch = _Watch(session, headers)
        self._exporter = OTLPSpanExporter(endpoint=url, timeout=TIMEOUT_S, session=session)
        self._log = _ExporterLog()

    def send(self, spans: Sequence[ReadableSpan]) -> None:
        """Send spans. Blocks while Raindrop can't be reached.

        Raises:
            NotDelivered: some were refused, after all the others had been delivered, or nothing more can be.
        """
        lost: list[str] = []
        with self._lock, self._log.muted():
            for batch in _batches([made for span in spans for made in self._by_otel(span)]):
                lost += self._send_batch(batch)
        if lost:
            raise NotDelivered(f"{len(lost)} of {len(spans)} LM and tool spans: {lost[0]}")

    def release(self) -> None:
        """Let go of the connections."""
        with self._lock, self._log.muted():
            self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _send_batch(self, spans: Sequence[ReadableSpan]) -> list[str]:
        """Deliver what one request can hold; returns why a span was refused, for each that was."""
        made = self._retries.run(partial(self._export, spans))
        if made.outcome != "refused":
            return []
        if len(spans) == 1 or made.is_key_refused:
            return [made.reason] * len(spans)
        half = len(spans) // 2  # it may be for one of them only
        return self._send_batch(spans[:half]) + self._send_batch(spans[half:])

    def _by_otel(self, span: ReadableSpan) -> Sequence[ReadableSpan]:
        is_tool = (span.attributes or {}).get("traceloop.span.kind") == "tool"
        return [span] if self._pipeline is None or not is_tool else self._pipeline.run(span)

    def _export(self, batch: Sequence[ReadableSpan]) -> Attempt:
        self._watch.was_made = False
        if self._exporter.export(batch) is SpanExportResult.SUCCESS:
            return Attempt("delivered")
        status = self._watch.status
        if not self._watch.was_made:
            return Attempt("refused", self._log.last)  # by the exporter itself
        if status is None:
            return Attempt("unreachable", self._log.last)
        is_final = 300 <= status < 500 and status != 429
        return Attempt("refused" if is_final else "unreachable", f"HTTP {status} for spans", status)


def _batches(spans: Sequence[ReadableSpan]) -> Iterator[list[ReadableSpan]]:
    batch: list[ReadableSpan] = []
    chars = 0
    for span in spans:
        size = sum(len(value) for value in (span.attributes or {}).values() if isinstance(value, str))
        if batch and (chars + size > REQUEST_CHARS or len(batch) == REQUEST_SPANS):
            yield batch
            batch, chars = [], 0
        batch.append(span)
        chars += size
    if batch:
        yield batch


class _Watch:
    """Sees to it that a session sends our headers and no others, and how its last request ended."""

    def __init__(self, session: requests.Session, headers: dict[str, str]) -> None:
        self._headers = headers
        self.was_made = False
        self.status: int | None = None
        session.auth = self._before
        session.hooks["response"].append(self._after)

    def _before(self, request: Any) -> Any:
        for name in [name for name in request.headers if name.lower() not in _OF_ANY_REQUEST]:
            del request.headers[name]
        request.headers.update(self._headers)
        self.was_made, self.status = True, None
        return request

    def _after(self, response: Any, *args: Any, **kwargs: Any) -> None:
        self.status = response.status_code


class _ExporterLog(logging.Filter):
    """Keeps the exporter from logging on the thread that sends for us: what matters is ours to say, once."""

    def __init__(self) -> None:
        super().__init__()
        self._logger = logging.getLogger(OTLPSpanExporter.__module__)
        self._thread: int | None = None
        self.last = ""

    @contextmanager
    def muted(self) -> Iterator[None]:
        self._thread = threading.get_ident()
        self._logger.addFilter(self)
        try:
            yield
        finally:
            self._logger.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        if threading.get_ident() != self._thread:
            return True
        self.last = record.getMessage()[:500]
        return False
