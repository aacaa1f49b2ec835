"""`[backends.otlp]`: what can be set, and what OpenTelemetry's own variables say where it is not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.util.re import parse_env_headers
from pydantic import AfterValidator, Field, SecretStr

from spanhook import ConfigError, PluginOptions
from spanhook_backends.web import web_address

Protocol = Literal["http/protobuf", "grpc"]
Conventions = Literal["genai", "openinference", "both"]
Compression = Literal["none", "gzip", "deflate"]

DEFAULT_ENDPOINTS: Mapping[str, str] = {"http/protobuf": "http://localhost:4318", "grpc": "http://localhost:4317"}
DEFAULT_TIMEOUT_S = 10.0
_PATH = "/v1/traces"


def _url(value: str) -> str:
    if web_address(value, "http://localhost:4318").username is not None:
        raise ValueError("must be a URL without a user; a key goes into headers")
    return value


def _file(value: str) -> str:
    if not Path(value).is_file():
        raise ValueError(f"no such file: {value}")
    return value


def _headers(value: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, text in value.items():
        if not name or not name.isascii() or any(c in " :" or not c.isprintable() for c in name):
            raise ValueError("the name of a header must be ASCII without spaces and colons")
        if not text.get_secret_value().isascii() or not text.get_secret_value().isprintable():
            raise ValueError(f"the value of {name} must be printable ASCII")
    return value


File = Annotated[str, AfterValidator(_file)]


class OTLPOptions(PluginOptions):
    """`[backends.otlp]`. What is None is what the variable says, and else what OpenTelemetry's default is."""

    endpoint: Annotated[str, AfterValidator(_url)] | None = None
    """The receiver. Over HTTP, `/v1/traces` is added to its path unless it ends in that."""

    protocol: Protocol | None = None
    """"http/protobuf" or "grpc"."""

    headers: Annotated[dict[str, SecretStr], AfterValidator(_headers)] = Field(default_factory=dict)
    """Headers of every request, beside those that the variable has. Their values are never shown."""

    compression: Compression | None = None
    """"none", "gzip", or, over HTTP, "deflate"."""

    timeout_s: float | None = Field(default=None, gt=0, le=600)
    """How long one attempt may wait for the receiver, in seconds."""

    certificate: File | None = None
    """A file with the certificates, in PEM, that the receiver's is checked with."""

    client_certificate: File | None = None
    """A file with our own certificate, for a receiver that wants one."""

    client_key: File | None = None
    """A file with its key."""

    conventions: Conventions = "both"
    """The names of attributes: OpenTelemetry's for generative AI, OpenInference's, or both."""

    join: bool = True
    """Whether calls hang under the span that OpenTelemetry has open, and its spans under the calls they are made in."""

    resource: dict[str, str] = Field(default_factory=dict)
    """More attributes of the resource, beside the service's name and `OTEL_RESOURCE_ATTRIBUTES`."""


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
    client_key: str | None

    @property
    def is_secure(self) -> bool:
        """Whether the connection is TLS."""
        return self.endpoint.startswith("https:")

    @property
    def place(self) -> str:
        """The endpoint as messages may show it."""
        return urlsplit(self.endpoint)._replace(query="", fragment="").geturl()


def target_of(options: OTLPOptions) -> Target:
    """What the options say, then OpenTelemetry's variables, then its defaults.

    Raises:
        ConfigError: with what is wrong in a variable.
    """
    problems: list[str] = []
    protocol: Any = options.protocol or _one_of("PROTOCOL", ("http/protobuf", "grpc"), problems) or "http/protobuf"
    allowed = ("none", "gzip") if protocol == "grpc" else ("none", "gzip", "deflate")
    compression: Any = options.compression or _one_of("COMPRESSION", allowed, problems) or "none"
    if compression not in allowed:
        problems.append(f"compression: over gRPC it must be one of {', '.join(allowed)}")
    files = [
        getattr(options, name) or _checked(name.upper(), _file, problems)
        for name in ("certificate", "client_certificate", "client_key")
    ]
    if files[2] is not None and files[1] is None:
        problems.append("client_key: set client_certificate too")
    target = Target(
        protocol,
        _endpoint(options, protocol, problems),
        {
            **parse_env_headers(_variable("HEADERS")[1], liberal=True),
            **{name.lower(): value.get_secret_value() for name, value in options.headers.items()},
        },
        compression,
        options.timeout_s or _timeout_s(problems),
        *files,
    )
    if problems:
        raise ConfigError(problems)
    return target


def resource_of(options: OTLPOptions, service: str | None) -> Resource:
    """The program that is traced: `[tracing] service`, else `OTEL_SERVICE_NAME`; then `OTEL_RESOURCE_ATTRIBUTES`."""
    named = {} if service is None else {"service.name": service}
    return Resource.create({**named, **options.resource})


def _endpoint(options: OTLPOptions, protocol: str, problems: list[str]) -> str:
    name, value = _variable("ENDPOINT")
    if options.endpoint is not None:
        name, value = "", options.endpoint
    elif value and "://" not in value and protocol == "grpc":  # gRPC's own form, host:port
        insecure = _variable("INSECURE")[1].lower() == "true"
        value = f"{'http' if insecure else 'https'}://{value}"
    value = value or DEFAULT_ENDPOINTS[protocol]
    try:
        parts = urlsplit(_url(value))
    except ValueError as error:
        problems.append(f"{name}: {error}")
        return value
    if protocol == "grpc" or parts.path.endswith(_PATH) or "_TRACES_" in name:
        return value
    return parts._replace(path=parts.path.rstrip("/") + _PATH).geturl()


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


def _checked(name: str, check: Any, problems: list[str]) -> str | None:
    variable, value = _variable(name)
    try:
        return check(value) if value else None
    except ValueError as error:
        problems.append(f"{variable}: {error}")
        return None


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
