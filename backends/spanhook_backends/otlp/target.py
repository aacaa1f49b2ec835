"""Where to send, and as what program: the options, then OpenTelemetry's own variables, then its defaults."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource

from spanhook import ConfigError
from spanhook_backends.otlp import headers as header_rules
from spanhook_backends.otlp import tls
from spanhook_backends.otlp.options import Compression, OTLPOptions, Protocol, checked_url

DEFAULT_ENDPOINTS: Mapping[str, str] = {"http/protobuf": "http://localhost:4318", "grpc": "http://localhost:4317"}
DEFAULT_TIMEOUT_S = 10.0
_PATH = "/v1/traces"


@dataclass(frozen=True)
class Target:
    """Where to send, with everything looked up."""

    protocol: Protocol
    endpoint: str  # with its path over HTTP
    headers: Mapping[str, str] = field(repr=False)  # they may hold a key
    compression: Compression
    timeout_s: float
    certificate: str | None
    client_certificate: str | None
    client_key: str | None  # there is one if there is a client_certificate

    @property
    def is_secure(self) -> bool:
        """Whether the connection is TLS."""
        return urlsplit(self.endpoint).scheme == "https"

    @property
    def place(self) -> str:
        """The endpoint as messages may show it."""
        return urlsplit(self.endpoint)._replace(query="", fragment="").geturl()


def target_of(options: OTLPOptions) -> Target:
    """What the options say, then OpenTelemetry's variables, then its defaults.

    Raises:
        ConfigError: with what is wrong, each by the name of the option or of the variable.
    """
    problems: list[str] = []
    protocol: Any = options.protocol or _one_of("PROTOCOL", ("http/protobuf", "grpc"), problems) or "http/protobuf"
    allowed = ("none", "gzip") if protocol == "grpc" else ("none", "gzip", "deflate")
    compression: Any = options.compression or _one_of("COMPRESSION", allowed, problems) or "none"
    if compression not in allowed:
        problems.append(f"compression: over gRPC it must be one of {', '.join(allowed)}")
    target = Target(
        protocol,
        _endpoint(options, protocol, problems),
        _headers(options, protocol, problems),
        compression,
        options.timeout_s or _timeout_s(problems),
        *_files(options, problems),
    )
    if problems:
        raise ConfigError(problems)
    return target


def resource_of(options: OTLPOptions, service: str | None) -> Resource:
    """The program that is traced: `[tracing] service`, else `OTEL_SERVICE_NAME`; then `OTEL_RESOURCE_ATTRIBUTES`."""
    named = {} if service is None else {"service.name": service}
    made = Resource.create({**named, **options.resource})
    # A variable that is no UTF-8 comes with half characters in it, which no message can hold.
    return Resource({_valid(name): _valid(value) for name, value in made.attributes.items()}, made.schema_url)


def _valid(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _endpoint(options: OTLPOptions, protocol: str, problems: list[str]) -> str:
    name, value = _variable("ENDPOINT")
    if options.endpoint is not None:
        name, value = "endpoint", options.endpoint
    elif value and "://" not in value and protocol == "grpc":  # gRPC's own form, host:port
        insecure = _variable("INSECURE")[1].lower() == "true"
        value = f"{'http' if insecure else 'https'}://{value}"
    value = value or DEFAULT_ENDPOINTS[protocol]
    if not _passes(name, problems, checked_url, value):
        return value
    parts = urlsplit(value)  # which has the scheme in lower case
    path = parts.path.rstrip("/")
    if protocol == "grpc" or "_TRACES_" in name:
        path = parts.path
    elif not path.endswith(_PATH):
        path += _PATH
    return parts._replace(path=path).geturl()


def _headers(options: OTLPOptions, protocol: str, problems: list[str]) -> Mapping[str, str]:
    ours = {name.lower(): value.get_secret_value() for name, value in options.headers.items()}
    variable, text = _variable("HEADERS")
    theirs: dict[str, str] = {}
    if _passes(variable, problems, header_rules.parsed, text):
        theirs = header_rules.parsed(text)
    if protocol == "grpc":
        _passes("headers", problems, header_rules.check_for_grpc, ours)
        _passes(variable, problems, header_rules.check_for_grpc, theirs)
    return {**theirs, **ours}


def _files(options: OTLPOptions, problems: list[str]) -> tuple[str | None, str | None, str | None]:
    """Of the authorities, of our own certificate, and of its key: the same file, if no other is named."""
    authorities = _given("certificate", options.certificate)
    certificate = _given("client_certificate", options.client_certificate)
    key = _given("client_key", options.client_key)
    if authorities[1] is not None:
        _passes(authorities[0], problems, tls.check_certificates, authorities[1])
    if certificate[1] is None:
        if key[1] is not None:
            problems.append(f"{key[0]}: set client_certificate too")
        return authorities[1], None, None
    file = key[1] or certificate[1]
    if _passes(certificate[0], problems, tls.check_certificates, certificate[1]):
        _passes(key[0], problems, tls.check_key, certificate[1], file)
    return authorities[1], certificate[1], file


def _given(name: str, option: str | None) -> tuple[str, str | None]:
    """What is set, and by what name: the option's or the variable's. Where neither is, the option's."""
    variable, value = _variable(name.upper())
    return (variable, value) if option is None and value else (name, option)


def _passes(name: str, problems: list[str], check: Callable[..., object], *values: Any) -> bool:
    """Whether a value passes a check; what is wrong with it is a problem of that name."""
    try:
        check(*values)
    except ValueError as error:
        problems.append(f"{name}: {error}")
        return False
    return True


def _variable(name: str) -> tuple[str, str]:
    """OpenTelemetry's variable for traces or, where that is not set, for everything; and what it says."""
    names = (f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}")
    return next(((n, value) for n in names if (value := os.environ.get(n, "").strip())), (names[1], ""))


def _one_of(name: str, allowed: tuple[str, ...], problems: list[str]) -> str | None:
    variable, value = _variable(name)
    if value and value.lower() not in allowed:
        problems.append(f"{variable}: must be one of {', '.join(allowed)}")
        return None
    return value.lower() or None


def _timeout_s(problems: list[str]) -> float:
    variable, value = _variable("TIMEOUT")
    try:
        seconds = float(value or DEFAULT_TIMEOUT_S)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 600:
        problems.append(f"{variable}: must be a number of seconds from 0 to 600")
        return DEFAULT_TIMEOUT_S
    return seconds
