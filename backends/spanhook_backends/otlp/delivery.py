"""Sending until the receiver has it: in requests that it can take, no span twice, each loss counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from opentelemetry.sdk.trace import ReadableSpan

from spanhook import PartlyFailed, RetryLater
from spanhook_backends.otel.batches import requests_of
from spanhook_backends.otel.http import HTTPSender
from spanhook_backends.otlp.outcomes import Outcome, of_answer
from spanhook_backends.otlp.shortening import without_content
from spanhook_backends.otlp.target import Target

REQUEST_CHARS = 2_000_000  # of the texts in one request: receivers for gRPC take 4 MiB unless told otherwise
REQUEST_SPANS = 512


class NotDelivered(RuntimeError):  # noqa: N818 - it reads as what happened
    """The receiver has nothing of it, and will not take it. The message says why."""


@dataclass
class _Progress:
    """What has been settled of a batch: the ids of spans, how many of those failed, and why."""

    settled: set[int] = field(default_factory=set)
    failed: int = 0
    reason: str = ""


class Delivery:
    """Sends on the thread that calls, one at a time, and returns when the receiver has it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._send, self._close = _sender(target)
        self._offered_again: _Progress | None = None

    def send(self, spans: Sequence[ReadableSpan]) -> None:
        """Send a batch.

        Raises:
            RetryLater: the receiver can't take it now. Send the same batch again: what it has already is left out.
            PartlyFailed: some of it was refused, and the rest is delivered.
            NotDelivered: all of it was refused.
        """
        progress, self._offered_again = self._offered_again or _Progress(), None
        waiting = [span for span in spans if _id(span) not in progress.settled]
        try:
            for request in requests_of(waiting, REQUEST_SPANS, REQUEST_CHARS):
                self._settle(request, progress)
        except RetryLater:  # anything else ends the batch, and the next one is not this one's
            self._offered_again = progress
            raise
        if progress.failed and progress.failed >= len(spans):
            raise NotDelivered(progress.reason)
        if progress.failed:
            told = f"{progress.failed} of {len(spans)} spans not delivered: {progress.reason}"
            raise PartlyFailed(progress.failed, told)

    def close(self) -> None:
        """Let go of the connections."""
        self._close()

    def _settle(self, spans: Sequence[ReadableSpan], progress: _Progress) -> None:
        made = self._send(spans)
        if made.kind == "later":
            raise RetryLater(made.reason, made.after_s)
        if made.kind == "too_large" and len(spans) > 1:
            half = len(spans) // 2
            self._settle(spans[:half], progress)
            self._settle(spans[half:], progress)
            return
        if made.kind == "too_large" and "spanhook.content_lost" not in (spans[0].attributes or {}):
            self._settle([without_content(spans[0])], progress)
            return
        failed = min(made.rejected, len(spans)) if made.kind == "taken" else len(spans)
        if failed:
            progress.failed += failed
            progress.reason = progress.reason or made.reason
        progress.settled.update(_id(span) for span in spans)


def _sender(target: Target) -> tuple[Callable[[Sequence[ReadableSpan]], Outcome], Callable[[], None]]:
    if target.protocol == "grpc":
        from spanhook_backends.otlp.grpc import GRPCSender  # 20 MB that HTTP does without

        grpc = GRPCSender(target)
        return grpc.send, grpc.close
    http = HTTPSender(
        target.endpoint,
        target.headers,
        target.timeout_s,
        compression=target.compression,
        certificate=target.certificate,
        client_certificate=target.client_certificate,
        client_key=target.client_key,
    )
    return (lambda spans: of_answer(http.send(spans), target)), http.close


def _id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    return 0 if context is None else context.span_id
