"""What is too large for a receiver: in parts, without its content, or failed; the rest arrives, once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("grpc")

import grpc
from otlp_case import UNAVAILABLE, backend_of, spans_of
from otlp_server import Code, Reply

import spanhook
from spanhook import SpanError
from spanhook_backends.otlp import OTLPBackend

TOO_LARGE = {"http": Reply(413), "grpc": Code(grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max (9 vs. 1)")}


@pytest.fixture
def backend(receiver: Any) -> Iterator[OTLPBackend]:
    made = backend_of(receiver)
    yield made
    made.shutdown(1.0)


def test_large_batches_go_in_requests_that_fit(receiver: Any, backend: OTLPBackend) -> None:
    """Below the 4 MiB that a receiver for gRPC takes unless it is told otherwise."""
    backend.emit(spans_of(40, inputs={"text": "x" * 100_000}))
    assert len(receiver.spans) == 40
    assert 2 < len(receiver.requests) < 20


def test_what_is_too_large_is_sent_in_parts(receiver: Any, backend: OTLPBackend) -> None:
    """In halves until it fits; a span that is refused whatever is left of it counts as failed, and only that one."""
    refusal = TOO_LARGE[receiver.protocol]
    receiver.on_request = lambda spans: (
        refusal if len(spans) > 3 or any(span.name == "span 5" for span in spans) else None
    )
    with pytest.raises(spanhook.PartlyFailed, match="1 of 9 spans not delivered") as raised:
        backend.emit(spans_of(9))
    assert raised.value.failed == 1
    assert sorted(span.name for span in receiver.spans) == [f"span {i}" for i in range(9) if i != 5]


def test_a_span_that_is_too_large_alone_goes_without_its_content(receiver: Any, backend: OTLPBackend) -> None:
    """And says so; what is short stays, ids and counts and the error's type among it."""
    refusal = TOO_LARGE[receiver.protocol]
    receiver.on_request = lambda spans: refusal if len(repr(spans)) > 100_000 else None
    long = "x" * 200_000
    error = SpanError("ValueError", long, long)
    backend.emit(spans_of(3, inputs={"text": long}, user_id="u1", error=error, attributes={"tier": "gold"}))
    assert len(receiver.spans) == 3
    assert receiver.problems == []
    for span in receiver.spans:
        assert span.attributes["spanhook.content_lost"] is True
        assert (span.attributes["user.id"], span.attributes["spanhook.tier"]) == ("u1", "gold")
        assert span.attributes["error.type"] == "ValueError"
        assert span.exceptions == [{"exception.type": "ValueError"}]
        assert "input.value" not in span.attributes


def test_a_batch_that_comes_again_leaves_out_what_has_arrived(receiver: Any, backend: OTLPBackend) -> None:
    """An outage in the middle of a batch that goes in parts: no span twice, and those that failed stay counted."""
    spans = spans_of(8)
    calls = iter([None, Reply(rejected=1, message="bad"), UNAVAILABLE[receiver.protocol]])
    receiver.on_request = lambda given: TOO_LARGE[receiver.protocol] if len(given) > 2 else next(calls, None)
    with pytest.raises(spanhook.RetryLater):
        backend.emit(spans)
    assert len(receiver.spans) == 3
    with pytest.raises(spanhook.PartlyFailed) as raised:
        backend.emit(spans)
    assert raised.value.failed == 1
    assert len({span.span_id for span in receiver.spans}) == len(receiver.spans) == 7
    backend.emit(spans)  # a batch of its own again
    assert len(receiver.spans) == 15
