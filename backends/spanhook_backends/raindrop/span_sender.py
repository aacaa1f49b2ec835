"""Sending LM and tool spans to Raindrop's `v1/traces` by OTLP: no global tracer provider."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from spanhook_backends.otel.batches import requests_of
from spanhook_backends.otel.http import HTTPSender
from spanhook_backends.raindrop.otel_spans import OtelVariables
from spanhook_backends.raindrop.retries import Attempt, Holds, NotDelivered, Retries

REQUEST_CHARS = 500_000  # of the texts in one request
REQUEST_SPANS = 100
TIMEOUT_S = 5.0  # of one attempt


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
        self._variables = OtelVariables(self.resource) if tools_by_otel else None
        self._retries = retries
        self._lock = threading.Lock()
        self._http = HTTPSender(url, headers, TIMEOUT_S)

    def send(self, spans: Sequence[ReadableSpan]) -> None:
        """Send spans. Blocks while Raindrop can't be reached.

        Raises:
            NotDelivered: some were refused, after all the others had been delivered, or nothing more can be.
        """
        refused: list[tuple[ReadableSpan, str]] = []
        with self._lock:
            for batch in requests_of(
                [made for span in spans for made in self._by_otel(span)], REQUEST_SPANS, REQUEST_CHARS
            ):
                refused += self._send_batch(batch)
        if refused:
            said = f"{len(refused)} of {len(spans)} LM and tool spans: {refused[0][1]}"
            raise NotDelivered(said, lost=[_is_made_of(span) for span, _ in refused])

    def release(self) -> None:
        """Let go of the connections."""
        with self._lock:
            self._http.close()

    def _send_batch(self, spans: Sequence[ReadableSpan]) -> list[tuple[ReadableSpan, str]]:
        """Deliver what one request can hold; returns the spans that were refused, and why."""
        made = self._retries.run(partial(self._export, spans))
        if made.outcome != "refused":
            return []
        if len(spans) == 1 or made.advice:
            return [(span, f"{made.reason}: {made.advice}" if made.advice else made.reason) for span in spans]
        half = len(spans) // 2  # it may be for one of them only
        return self._send_batch(spans[:half]) + self._send_batch(spans[half:])

    def _by_otel(self, span: ReadableSpan) -> Sequence[ReadableSpan]:
        is_tool = (span.attributes or {}).get("traceloop.span.kind") == "tool"
        return [span] if self._variables is None or not is_tool else self._variables.obey(span)

    def _export(self, batch: Sequence[ReadableSpan]) -> Attempt:
        answer = self._http.send(batch)
        if answer.is_success:
            return Attempt("delivered")
        if answer.error is not None:
            return Attempt("unreachable", str(answer.error))
        is_final = 300 <= answer.status < 500 and answer.status != 429
        return Attempt("refused" if is_final else "unreachable", f"HTTP {answer.status} for spans", answer.status)


def _is_made_of(made: ReadableSpan) -> Holds:
    context = made.get_span_context()
    span_id = "" if context is None else f"{context.span_id:016x}"
    return lambda span: span.span_id == span_id
