"""Headers of OTLP's requests: from OpenTelemetry's variable too, and none is shown that may be a key."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest

from doubles import one_span

pytest.importorskip("grpc")

from otlp_server import GRPCServer, OTLPServer, traced

import spanhook
from spanhook_backends.otel.http import Answer
from spanhook_backends.otlp import OTLPBackend
from spanhook_backends.otlp.outcomes import of_answer
from spanhook_backends.otlp.target import target_of

SECRET = "sk-not-to-be-seen"
VARIABLE = "OTEL_EXPORTER_OTLP_HEADERS"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("server", [OTLPServer, GRPCServer], ids=["http", "grpc"])
@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("authorization=Bearer%20k", {"authorization": "Bearer k"}),
        (" A = 1 , ,b=2,", {"a": "1", "b": "2"}),
        ("authorization=Basic dXNlcg==", {"authorization": "Basic dXNlcg=="}),
        ("a=1;b=2", {"a": "1;b=2"}),
        ("a=", {"a": ""}),
        ("a=k%0A", {"a": "k"}),
    ],
)
def test_the_variable(server: Any, text: str, sent: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs with commas between, percent-encoded, as OpenTelemetry's specification has them."""
    monkeypatch.setenv(VARIABLE, text)
    with server() as receiver, traced(receiver) as tracer:
        one_span(tracer)
    headers = receiver.requests[0][0]
    assert {name: headers.get(name) for name in sent} == sent


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"Authorization: Bearer {SECRET}", "must be name=value pairs with commas between"),
        (f"Authorization: Basic {SECRET}==", "must be name=value pairs with commas between"),
        (f"a=1,{SECRET}", "must be name=value pairs with commas between"),
        (f"={SECRET}", "must be name=value pairs with commas between"),
        (f"a={SECRET}%0Ax: y", "the value of a must be printable ASCII"),
        (f"a={SECRET}%E2%82%AC", "the value of a must be printable ASCII"),
        (f"a={SECRET}\udce9", "the value of a must be printable ASCII"),
    ],
)
def test_a_variable_that_is_wrong_is_refused_without_its_value(
    protocol: str, text: str, problem: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenTelemetry's own parser logs the key and goes on without it."""
    monkeypatch.setenv(VARIABLE, text)
    with caplog.at_level(logging.DEBUG), pytest.raises(spanhook.ConfigError) as raised:
        spanhook.configure({"tracing": {"backends": ["otlp"]}, "backends": {"otlp": {"protocol": protocol}}})
    assert raised.value.problems == (f"{VARIABLE}: {problem}",)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("name", ["x-key-bin", "grpc-timeout", "a!b", "a|b"])
def test_names_that_grpc_has_for_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are right over HTTP; over gRPC each request would fail."""
    options = {"headers": {name: SECRET}}
    target_of(OTLPBackend.Options(**options))
    with pytest.raises(spanhook.ConfigError, match=r"^headers: gRPC can't send") as raised:
        target_of(OTLPBackend.Options(protocol="grpc", **options))
    assert SECRET not in str(raised.value)
    monkeypatch.setenv(VARIABLE, f"{name}=1")
    with pytest.raises(spanhook.ConfigError, match=rf"^{VARIABLE}: gRPC can't send"):
        target_of(OTLPBackend.Options(protocol="grpc"))


def test_what_requests_says_of_a_header_is_shown_without_its_value() -> None:
    """As nothing else in a message may be one."""
    target = target_of(OTLPBackend.Options(headers={"authorization": f"Bearer {SECRET}"}))
    error = ValueError(f"invalid header value: 'Bearer {SECRET}'")
    reason = of_answer(Answer(error=error), target).reason
    assert reason.startswith("http://localhost:4318/v1/traces: ValueError: invalid header value: '***'")
