"""`[backends.otlp]` and OpenTelemetry's variables: what each does, which wins, and what is refused at the start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doubles import WAIT_S, one_span

pytest.importorskip("grpc")

from otlp_server import GRPCServer, OTLPServer, Reply, traced, tracing

import spanhook
from spanhook_backends.otlp import OTLPBackend

SECRET = "sk-not-to-be-seen"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def receiver() -> Iterator[OTLPServer]:
    with OTLPServer() as server:
        yield server


def _configure(**options: Any) -> spanhook.Tracer:
    return spanhook.configure({"tracing": {"backends": ["otlp"]}, "backends": {"otlp": options}})


def _send_one(**sections: Any) -> None:
    tracer = spanhook.configure({**sections, "tracing": {"backends": ["otlp"], **sections.get("tracing", {})}})
    one_span(tracer)
    assert tracer.flush(WAIT_S)
    tracer.shutdown()


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("", "/v1/traces"),
        ("/", "/v1/traces"),
        ("/v1/traces", "/v1/traces"),
        ("/api/public/otel", "/api/public/otel/v1/traces"),
        ("/api/public/otel/", "/api/public/otel/v1/traces"),
        ("/v1/traces/", "/v1/traces"),
        ("/x/v1/traces?a=b", "/x/v1/traces?a=b"),
    ],
)
def test_the_endpoint_gets_the_path_of_traces_unless_it_has_it(given: str, path: str) -> None:
    """A base address, and a whole one: both mean what one expects."""
    with OTLPServer(path=path) as receiver, traced(receiver, endpoint=receiver.endpoint + given) as tracer:
        one_span(tracer)
    assert len(receiver.spans) == 1


@pytest.mark.parametrize(
    ("variable", "given", "path"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "", "/v1/traces"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "/base/", "/base/v1/traces"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/exactly/here", "/exactly/here"),
    ],
)
def test_the_endpoint_from_the_variables(monkeypatch: pytest.MonkeyPatch, variable: str, given: str, path: str) -> None:
    """As OpenTelemetry has them: the one for traces alone is taken as it is."""
    with OTLPServer(path=path) as receiver:
        monkeypatch.setenv(variable, receiver.endpoint + given)
        _send_one()
    assert len(receiver.spans) == 1


def test_what_is_set_wins_over_the_variables(receiver: OTLPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is about this backend alone, the variables about the whole program; headers are put together."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0.001")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-one=env,X-Two=a%20b")
    with traced(receiver, headers={"X-One": "file"}, compression="none", protocol="http/protobuf") as tracer:
        one_span(tracer)
    (headers, _), *_ = receiver.requests
    assert (headers["x-one"], headers["x-two"]) == ("file", "a b")
    assert "content-encoding" not in headers


def test_the_variables_for_traces_win_over_those_for_everything(
    receiver: OTLPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenTelemetry has it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{receiver.endpoint}/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-for=all")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-for=traces")
    _send_one()
    assert receiver.requests[0][0]["x-for"] == "traces"


@pytest.mark.parametrize("compression", ["gzip", "deflate", "none"])
@pytest.mark.parametrize("by_variable", [False, True])
def test_compression(
    receiver: OTLPServer, monkeypatch: pytest.MonkeyPatch, compression: str, by_variable: bool
) -> None:
    """The body arrives compressed, and whole."""
    options = {} if by_variable else {"compression": compression}
    if by_variable:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    with traced(receiver, **options) as tracer:
        one_span(tracer)
    assert receiver.requests[0][0].get("content-encoding", "none") == compression


def test_headers_and_compression_over_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    """As metadata of the call; names in lower case, as gRPC wants them."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "X-Two=2")
    with GRPCServer() as receiver, traced(receiver, headers={"Api-Key": "k"}, compression="gzip") as tracer:
        one_span(tracer)
    metadata = receiver.requests[0][0]
    assert (metadata["api-key"], metadata["x-two"]) == ("k", "2")


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"])
def test_grpc_from_the_variables(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """With gRPC's own form of an address, host:port, and without TLS."""
    with GRPCServer() as receiver:
        monkeypatch.setenv(variable, "grpc")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"localhost:{receiver.port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_INSECURE", "true")
        _send_one()
    assert len(receiver.spans) == 1


@pytest.mark.parametrize("server", [OTLPServer, GRPCServer], ids=["http", "grpc"])
def test_timeout_ends_an_attempt(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the option and by the variable: the server hangs, and the backend asks for another attempt."""
    for options in ({"timeout_s": 0.2}, {"timeout_s": None}):
        if options["timeout_s"] is None:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
        with server() as receiver:
            receiver.answer_with(always=Reply(hang=True))
            backend = OTLPBackend(OTLPBackend.Options(**{**receiver.options, **options}))
            with pytest.raises(spanhook.RetryLater):
                backend.emit([spanhook.Span("a" * 32, "b" * 16, None, "e", "custom", "x", 1, 2)])
            backend.shutdown(1.0)


def test_the_service_and_the_resource(receiver: OTLPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """`[tracing] service` before OTEL_SERVICE_NAME before OTEL_RESOURCE_ATTRIBUTES; `resource` before the last."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=by-attributes,deployment.environment.name=test,team=a")
    options = {"otlp": {**receiver.options, "resource": {"team": "b", "openinference.project.name": "shop"}}}
    _send_one(backends=options)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "by-variable")
    _send_one(backends=options)
    _send_one(backends=options, tracing={"service": "by-file"})
    resources = [span.resource for span in receiver.spans]
    assert [resource["service.name"] for resource in resources] == ["by-attributes", "by-variable", "by-file"]
    for resource in resources:
        assert resource["deployment.environment.name"] == "test"
        assert (resource["team"], resource["openinference.project.name"]) == ("b", "shop")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"endpoint": "receiver:1"},
            "backends.otlp.endpoint: must be a URL like http://localhost:4318",
        ),
        ({"endpoint": "ftp://localhost"}, "backends.otlp.endpoint"),
        ({"endpoint": "http://"}, "backends.otlp.endpoint"),
        ({"endpoint": "http://host:port"}, "backends.otlp.endpoint"),
        ({"endpoint": "http://a b"}, "backends.otlp.endpoint"),
        ({"endpoint": f"http://me:{SECRET}@host"}, "backends.otlp.endpoint: must be a URL without a user"),
        ({"protocol": "http"}, "backends.otlp.protocol: must be 'http/protobuf' or 'grpc'"),
        ({"compression": "zstd"}, "backends.otlp.compression"),
        (
            {"protocol": "grpc", "compression": "deflate"},
            "backends.otlp.compression: over gRPC it must be one of none",
        ),
        ({"timeout_s": 0}, "backends.otlp.timeout_s"),
        ({"timeout_s": 1e9}, "backends.otlp.timeout_s"),
        (
            {"endpoint": "http://a..b:4318"},
            "backends.otlp.endpoint: must be a URL with the name of a host",
        ),
        ({"endpoint": f"http://{'a' * 70}.com"}, "backends.otlp.endpoint"),
        ({"endpoint": "http://*.example.com"}, "backends.otlp.endpoint"),
        ({"certificate": "/not/there.pem"}, "backends.otlp.certificate: can't be read: No such file or directory"),
        ({"client_key": __file__}, "backends.otlp.client_key: set client_certificate too"),
        ({"headers": {"a b": "x"}}, "backends.otlp.headers: the name of a header must be ASCII letters"),
        (
            {"headers": {"a": f"{SECRET}\r\nb: c"}},
            "backends.otlp.headers: the value of a must be printable",
        ),
        ({"headers": {"a": 1}}, "backends.otlp.headers.a"),
        ({"conventions": "all"}, "backends.otlp.conventions"),
        ({"resource": {"a": 1}}, "backends.otlp.resource.a"),
        ({"endpont": "http://localhost"}, "backends.otlp.endpont: unknown option (did you mean"),
    ],
    ids=str,
)
def test_what_is_wrong_is_refused_at_the_start(options: dict[str, Any], problem: str) -> None:
    """With the option and what to do, and without a secret."""
    with pytest.raises(spanhook.ConfigError) as raised:
        _configure(**options)
    assert problem in str(raised.value)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "OTEL_EXPORTER_OTLP_TIMEOUT: must be a number of seconds"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "-1", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT: must be a number of seconds"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "OTEL_EXPORTER_OTLP_PROTOCOL: must be one of http/protobuf, grpc"),
        (
            "OTEL_EXPORTER_OTLP_COMPRESSION",
            "zstd",
            "OTEL_EXPORTER_OTLP_COMPRESSION: must be one of none, gzip, deflate",
        ),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost", "OTEL_EXPORTER_OTLP_ENDPOINT: must be a URL like"),
        (
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
            "/not/there",
            "OTEL_EXPORTER_OTLP_CERTIFICATE: can't be read: No such file or directory",
        ),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, problem: str
) -> None:
    """Not an option that the user never set."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(spanhook.ConfigError) as raised:
        _configure()
    assert str(raised.value).startswith(problem)


def test_a_service_that_is_no_utf8_costs_no_span(receiver: OTLPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable from a shell with another encoding: one character is lost, and not everything."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", os.fsdecode(b"caf\xe9"))
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", os.fsdecode(b"team=\xe9t\xe9"))
    _send_one(backends={"otlp": receiver.options})
    (span,) = receiver.spans
    assert (span.resource["service.name"], span.resource["team"]) == ("caf?", "?t?")


def test_no_secret_is_shown(receiver: OTLPServer, caplog: pytest.LogCaptureFixture) -> None:
    """Not by the options, not by the backend, not by the log."""
    options = OTLPBackend.Options(endpoint=receiver.endpoint, headers={"Authorization": SECRET})
    backend = OTLPBackend(options)
    assert SECRET not in repr(options) + str(options) + repr(backend) + repr(vars(backend))
    caplog.set_level("DEBUG")
    receiver.answer_with(always=Reply(401))
    with tracing(receiver, headers={"Authorization": SECRET}) as tracer:
        one_span(tracer)
        tracer.flush(WAIT_S)
    assert receiver.requests[0][0]["authorization"] == SECRET
    assert SECRET not in caplog.text


def test_http_does_without_grpc(tmp_path: Path) -> None:
    """What is not chosen is not imported."""
    import subprocess
    import sys

    program = "import sys; from spanhook_backends.otlp import OTLPBackend; OTLPBackend(); print('grpc' in sys.modules)"
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert made.stdout.strip() == "False"


def test_the_default_is_a_receiver_on_this_machine() -> None:
    """OpenTelemetry's own defaults, for both protocols."""
    from spanhook_backends.otlp.target import target_of

    assert target_of(OTLPBackend.Options()).place == "http://localhost:4318/v1/traces"
    assert target_of(OTLPBackend.Options(protocol="grpc")).place == "http://localhost:4317"
    assert target_of(OTLPBackend.Options()).timeout_s == 10
