"""Answers that are odd: slow, in pieces, absurd, or with their reasons in other places."""

from __future__ import annotations

import threading
from typing import Any

import pytest

pytest.importorskip("grpc")

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from otlp_case import backend_of, spans_of
from otlp_server import Code, GRPCServer, OTLPServer, Reply, _partial

import spanhook
from doubles import WAIT_S
from http_server import Exchange, HTTPServer
from spanhook import Span
from spanhook_backends.otel.http import Answer
from spanhook_backends.otlp import OTLPBackend
from spanhook_backends.otlp.delivery import NotDelivered
from spanhook_backends.otlp.outcomes import of_answer
from spanhook_backends.otlp.target import target_of

JSON = {"Content-Type": "application/json"}


class _Chunked(HTTPServer):
    """Answers that one of the spans is not taken, in chunks of two bytes."""

    def serve(self, exchange: Exchange) -> None:
        exchange.stream(200, {"Content-Type": "application/x-protobuf"})
        body = _partial(1, "too old").SerializeToString()
        for start in range(0, len(body), 2):
            exchange.write(body[start : start + 2])
        exchange.write(b"")


def test_an_answer_in_chunks_is_read_to_its_end() -> None:
    """What was rejected is counted, wherever the answer is cut."""
    with _Chunked() as server:
        backend = OTLPBackend(OTLPBackend.Options(endpoint=f"http://127.0.0.1:{server.port}"))
        with pytest.raises(spanhook.PartlyFailed, match="rejected spans: too old"):
            backend.emit(spans_of(3))
        backend.shutdown(1.0)


class _Drip(OTLPServer):
    """Answers with a byte now and then, until the client has gone or the server ends."""

    def __init__(self) -> None:
        super().__init__()
        self.client_is_gone = threading.Event()

    def serve(self, exchange: Exchange) -> None:
        exchange.stream(200, {"Content-Type": "application/x-protobuf"})
        while not self._released.wait(0.05):
            try:
                exchange.write(b"\0")
            except OSError:
                self.client_is_gone.set()
                raise


def test_an_answer_that_drips_ends_with_the_attempt() -> None:
    """`timeout_s` holds for the answer as a whole, not for each of its bytes."""
    with _Drip() as server:
        backend = OTLPBackend(OTLPBackend.Options(endpoint=server.endpoint, timeout_s=0.5))
        with pytest.raises(spanhook.RetryLater, match=r"the answer did not end within 0\.5 s"):
            backend.emit(spans_of(1))
        assert server.client_is_gone.wait(WAIT_S)
        backend.shutdown(1.0)


@pytest.mark.parametrize(
    "body",
    [b'{"partialSuccess": {"rejectedSpans": 1e400}}', b"[" * 10_000, b"null", b"[]", b'{"partialSuccess": [1]}'],
    ids=lambda body: body[:40].decode(),
)
def test_a_success_that_makes_no_sense_is_none(body: bytes) -> None:
    """It is said what was answered and where, as for any other answer that is none of OTLP's."""
    with OTLPServer() as receiver:
        receiver.answer_with(Reply(200, JSON, body))
        backend = backend_of(receiver)
        with pytest.raises(NotDelivered, match="an answer of type application/json that is none of OTLP's"):
            backend.emit(spans_of(1))
        backend.shutdown(1.0)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 +99999999999999999999"}),
        Reply(503, {**JSON}, b'{"message": ' + b"[" * 10_000),
        Reply(503, {"Retry-After": "Mon, 01 Jan 0001 00:00:00 -0000"}),
    ],
    ids=["date", "message", "year 1"],
)
def test_an_error_that_makes_no_sense_is_still_that_error(reply: Reply) -> None:
    """What its status says is done."""
    with OTLPServer() as receiver:
        receiver.answer_with(reply)
        backend = backend_of(receiver)
        with pytest.raises(spanhook.RetryLater, match="answered 503"):
            backend.emit(spans_of(1))
        backend.emit(spans_of(1))
        backend.shutdown(1.0)


def test_a_bundle_that_is_not_there_is_said_with_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is that of requests, which raises no exception of its own for it."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/not/there.pem")
    backend = OTLPBackend(OTLPBackend.Options(endpoint="https://127.0.0.1:9"))
    with pytest.raises(NotDelivered, match=r"^https://127.0.0.1:9/v1/traces: OSError: .*/not/there.pem$"):
        backend.emit(spans_of(1))
    backend.shutdown(1.0)


def test_an_address_that_urllib3_refuses_is_said_with_the_endpoint() -> None:
    """A proxy's, for one, which is not the endpoint's and is not checked before."""
    from urllib3.exceptions import LocationParseError

    made = of_answer(Answer(error=LocationParseError("a..b")), target_of(OTLPBackend.Options()))
    assert made.kind == "refused"
    assert made.reason.startswith("http://localhost:4318/v1/traces: LocationParseError: Failed to parse: a..b; check")


def _details(*messages: Any) -> tuple[tuple[str, bytes], ...]:
    """Trailing metadata as gRPC's richer errors have it."""
    status = Status(code=14, message="busy")
    for message in messages:
        packed = AnyMessage()
        packed.Pack(message)
        status.details.append(packed)
    return (("grpc-status-details-bin", status.SerializeToString()),)


IN_3_S = RetryInfo(retry_delay=Duration(seconds=3))


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
@pytest.mark.parametrize(
    "trailing",
    [
        _details(IN_3_S),
        _details(ErrorInfo(reason="quota"), IN_3_S),
        (("google.rpc.retryinfo-bin", IN_3_S.SerializeToString()),),
        (("grpc-status-details-bin", b"\xff"), ("google.rpc.retryinfo-bin", IN_3_S.SerializeToString())),
    ],
)
def test_when_grpc_wants_to_be_asked_again(code: str, trailing: Any) -> None:
    """In the status of an error: a receiver that is exhausted for a while has not found spans too large."""
    with GRPCServer() as receiver:
        receiver.answer_with(Code(grpc.StatusCode[code], "busy", trailing))
        backend = backend_of(receiver)
        with pytest.raises(spanhook.RetryLater, match=f"answered {code}: busy") as raised:
            backend.emit(spans_of(2))
        assert raised.value.after_s == 3.0
        backend.emit(spans_of(2))
        backend.shutdown(1.0)
    assert [len(spans) for _, spans in receiver.requests] == [2, 2]


@pytest.mark.parametrize("trailing", [_details(), _details(ErrorInfo(reason="quota")), (("x-other", b"1"),)])
def test_grpc_without_a_time(trailing: Any) -> None:
    """Then it is as without details: Spanhook's own pauses."""
    with GRPCServer() as receiver:
        receiver.answer_with(Code(grpc.StatusCode.UNAVAILABLE, "busy", trailing))
        backend = backend_of(receiver)
        with pytest.raises(spanhook.RetryLater) as raised:
            backend.emit(spans_of(1))
        assert raised.value.after_s is None
        backend.shutdown(1.0)


def test_a_batch_that_ends_in_an_error_leaves_nothing_to_the_next() -> None:
    """What was rejected of it is not counted again."""
    large = spans_of(2, inputs={"text": "x" * 1_500_000})  # each is a request
    large[1] = Span("a" * 32, "f" * 16, None, "e1", "custom", "before 1970", -1, 2, inputs=large[1].inputs)
    with OTLPServer() as receiver:
        receiver.answer_with(Reply(rejected=1, message="too old"))
        backend = backend_of(receiver)
        with pytest.raises(ValueError, match="out of range"):
            backend.emit(large)
        backend.emit(spans_of(1))
        backend.shutdown(1.0)
    assert len(receiver.spans) == 1


class _Trickle(HTTPServer):
    """Answers with a body without end."""

    def serve(self, exchange: Exchange) -> None:
        exchange.stream(500, {"Content-Type": "text/plain"})
        for _ in range(10_000):
            exchange.write(b"x" * 100_000)


def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    """A gigabyte from a broken server costs neither time nor memory."""
    with _Trickle() as server:
        backend = OTLPBackend(OTLPBackend.Options(endpoint=f"http://127.0.0.1:{server.port}"))
        with pytest.raises(NotDelivered, match="answered 500") as raised:
            backend.emit(spans_of(1))
        backend.shutdown(1.0)
    assert len(str(raised.value)) < 500
