"""TLS: certificates that are trusted, that are not, and our own."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from doubles import WAIT_S, messages, one_span

pytest.importorskip("grpc")

import grpc
import trustme
from cryptography.hazmat.primitives import serialization
from otlp_case import spans_of
from otlp_server import GRPCServer, OTLPServer, traced, tracing

import spanhook
from spanhook_backends.otlp import OTLPBackend, tls
from threads import in_thread

PROTOCOLS = {"http": "http/protobuf", "grpc": "grpc"}


class Files(NamedTuple):
    """PEM files: of the authority, and of the client."""

    authority: str
    certificate: str
    key: str


class Kit(NamedTuple):
    """What both servers need."""

    tls: ssl.SSLContext
    credentials: Any
    files: Files


def _kit(folder: Path, *, wants_client: bool) -> Kit:
    authority = trustme.CA()
    server, client = authority.issue_cert("127.0.0.1", "localhost"), authority.issue_cert("client@example.com")
    files = Files(*(str(folder / name) for name in ("ca.pem", "client.pem", "client.key")))
    authority.cert_pem.write_to_path(files.authority)
    client.cert_chain_pems[0].write_to_path(files.certificate)
    client.private_key_pem.write_to_path(files.key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.configure_cert(tls)
    if wants_client:
        authority.configure_trust(tls)
        tls.verify_mode = ssl.CERT_REQUIRED
    credentials = grpc.ssl_server_credentials(
        [(server.private_key_pem.bytes(), server.cert_chain_pems[0].bytes())],
        authority.cert_pem.bytes() if wants_client else None,
        wants_client,
    )
    return Kit(tls, credentials, files)


@pytest.fixture(params=["http", "grpc"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _server(protocol: str, kit: Kit) -> Any:
    return OTLPServer(tls=kit.tls) if protocol == "http" else GRPCServer(credentials=kit.credentials)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return _kit(tmp_path, wants_client=False)


def test_a_certificate_that_is_not_trusted_is_said_and_counted(
    protocol: str, kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    """What is wrong, where, and which option to set; the loss is counted and nothing waits."""
    with _server(protocol, kit) as receiver, tracing(receiver) as tracer:
        one_span(tracer)
        assert not tracer.flush(WAIT_S)
        assert tracer.stats().backends["otlp"].failed == 1
        assert receiver.spans == []
    warning, summary = messages(caplog.records)
    assert summary == "not delivered: backend otlp: 1 failed"
    assert "its certificate is not trusted" in warning
    assert f":{receiver.port}" in warning
    assert "set certificate under [backends.otlp] to a file" in warning


def test_certificate_names_whom_to_trust(protocol: str, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option `certificate`, whatever else in the program looks for certificates elsewhere."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", kit.files.certificate)
    with _server(protocol, kit) as receiver, traced(receiver, certificate=kit.files.authority) as tracer:
        one_span(tracer)
    assert len(receiver.spans) == 1


def test_certificate_from_the_variable(protocol: str, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_EXPORTER_OTLP_CERTIFICATE."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", kit.files.authority)
    with _server(protocol, kit) as receiver, traced(receiver) as tracer:
        one_span(tracer)
    assert len(receiver.spans) == 1


def test_a_client_certificate_is_shown_to_a_receiver_that_wants_one(protocol: str, tmp_path: Path) -> None:
    """The options `client_certificate` and `client_key`."""
    kit = _kit(tmp_path, wants_client=True)
    options = {
        "certificate": kit.files.authority,
        "client_certificate": kit.files.certificate,
        "client_key": kit.files.key,
    }
    with _server(protocol, kit) as receiver, traced(receiver, **options) as tracer:
        one_span(tracer)
    assert len(receiver.spans) == 1


@pytest.mark.parametrize("by_variable", [False, True])
def test_certificate_and_key_in_one_file(
    protocol: str, tmp_path: Path, by_variable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many tools write them; gRPC ended the process for want of a key."""
    kit = _kit(tmp_path, wants_client=True)
    both = tmp_path / "both.pem"
    both.write_text(Path(kit.files.key).read_text() + Path(kit.files.certificate).read_text(), encoding="ascii")
    options = {"certificate": kit.files.authority}
    if by_variable:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", str(both))
    else:
        options["client_certificate"] = str(both)
    with _server(protocol, kit) as receiver, traced(receiver, **options) as tracer:
        one_span(tracer)
    assert len(receiver.spans) == 1


@pytest.mark.parametrize(
    ("wrong", "option", "problem"),
    [
        ({"certificate": "text"}, "certificate", tls.NO_CERTIFICATE),
        ({"certificate": "empty"}, "certificate", tls.NO_CERTIFICATE),
        ({"client_certificate": "text"}, "client_certificate", tls.NO_CERTIFICATE),
        ({"client_key": None}, "client_key", tls.NO_KEY),
        ({"client_key": "empty"}, "client_key", tls.NO_KEY),
        ({"client_key": "text"}, "client_key", tls.NO_KEY),
        ({"client_key": "other"}, "client_key", tls.NO_KEY),
        ({"client_key": "locked"}, "client_key", tls.NO_KEY),
    ],
    ids=str,
)
@pytest.mark.parametrize("by_variable", [False, True])
def test_a_file_that_can_not_be_used_is_refused_at_the_start(
    protocol: str,
    tmp_path: Path,
    wrong: dict[str, str | None],
    option: str,
    problem: str,
    by_variable: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the option's name: later it would look like an outage, and end the process where gRPC meets it."""
    files = _kit(tmp_path, wants_client=True).files
    key: Any = serialization.load_pem_private_key(Path(files.key).read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    other = trustme.CA().issue_cert("other@example.com").private_key_pem.bytes()
    for name, content in {"text": b"no certificate", "empty": b"", "other": other, "locked": locked}.items():
        (tmp_path / name).write_bytes(content)
    options: dict[str, str | None] = {
        "certificate": files.authority,
        "client_certificate": files.certificate,
        "client_key": files.key,
        **{name: None if file is None else str(tmp_path / file) for name, file in wrong.items()},
    }
    place = f"configure(): backends.otlp.{option}"
    if by_variable and (value := options.pop(option)) is not None:
        place = f"OTEL_EXPORTER_OTLP_{option.upper()}"
        monkeypatch.setenv(place, value)
    given = {name: value for name, value in options.items() if value is not None}
    with pytest.raises(spanhook.ConfigError) as raised:
        spanhook.configure(
            {
                "tracing": {"backends": ["otlp"]},
                "backends": {"otlp": {"endpoint": "https://localhost:9", "protocol": PROTOCOLS[protocol], **given}},
            }
        )
    assert raised.value.problems == (f"{place}: {problem}",)


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_scheme_in_capitals_is_no_plain_text(
    protocol: str, kit: Kit, by_variable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that was meant for TLS must not go out without it."""
    with _server(protocol, kit) as receiver:
        endpoint = receiver.options["endpoint"].replace("https:", "HTTPS:")
        options = {**receiver.options, "certificate": kit.files.authority, "endpoint": endpoint}
        if by_variable:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", options.pop("endpoint"))
        tracer = spanhook.configure({"tracing": {"backends": ["otlp"]}, "backends": {"otlp": options}})
        one_span(tracer)
        assert tracer.flush(WAIT_S)
        tracer.shutdown()
    assert len(receiver.spans) == 1


def test_a_handshake_that_is_broken_off_is_an_outage(kit: Kit) -> None:
    """So ends it at a proxy whose server is away: it passes, and the same is to be offered again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def break_off() -> None:
            connection, _ = listener.accept()
            with connection, suppress(ConnectionResetError):
                connection.recv(1)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass

        endpoint = f"https://127.0.0.1:{listener.getsockname()[1]}"
        backend = OTLPBackend(OTLPBackend.Options(endpoint=endpoint, certificate=kit.files.authority))
        with in_thread(break_off), pytest.raises(spanhook.RetryLater, match="SSLEOFError"):
            backend.emit(spans_of(1))
        backend.shutdown(1.0)


def test_a_receiver_without_tls_behind_an_https_endpoint(caplog: pytest.LogCaptureFixture) -> None:
    """A wrong scheme is no outage: it is said, and nothing waits for it to pass."""
    with OTLPServer() as receiver:
        endpoint = receiver.endpoint.replace("http:", "https:")
        with tracing(receiver, endpoint=endpoint) as tracer:
            one_span(tracer)
            assert not tracer.flush(WAIT_S)
            assert tracer.stats().backends["otlp"].failed == 1
    assert "no TLS connection can be made; check endpoint under [backends.otlp]" in caplog.text
