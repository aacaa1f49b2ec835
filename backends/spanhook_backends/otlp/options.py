"""`[backends.otlp]`: what can be set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from spanhook import PluginOptions
from spanhook_backends.otlp.headers import check
from spanhook_backends.web import web_address

Protocol = Literal["http/protobuf", "grpc"]
Conventions = Literal["genai", "openinference", "both"]
Compression = Literal["none", "gzip", "deflate"]


def checked_url(value: str) -> str:
    """`value` if a receiver can be there.

    Raises:
        ValueError: it is no URL, it has a user in it, or its host can be none.
    """
    parts = web_address(value, "http://localhost:4318")
    if parts.username is not None:
        raise ValueError("must be a URL without a user; a key goes into headers")
    host = parts.hostname or ""
    try:
        host.encode("idna")  # which no part of it may be empty or too long for
    except UnicodeError:
        host = "."
    if host.startswith((".", "*")):
        raise ValueError("must be a URL with the name of a host")
    return value


def _headers(value: dict[str, SecretStr]) -> dict[str, SecretStr]:
    check({name: text.get_secret_value() for name, text in value.items()})
    return value


class OTLPOptions(PluginOptions):
    """`[backends.otlp]`. What is None is what the variable says, and else what OpenTelemetry's default is."""

    endpoint: Annotated[str, AfterValidator(checked_url)] | None = None
    """The receiver. Over HTTP, `/v1/traces` is added to its path unless it ends in that."""

    protocol: Protocol | None = None
    """"http/protobuf" or "grpc"."""

    headers: Annotated[dict[str, SecretStr], AfterValidator(_headers)] = Field(default_factory=dict)
    """Headers of every request, beside those that the variable has. Their values are never shown."""

    compression: Compression | None = None
    """"none", "gzip", or, over HTTP, "deflate"."""

    timeout_s: float | None = Field(default=None, gt=0, le=600)
    """How long one attempt may wait for the receiver, in seconds."""

    certificate: str | None = None
    """A file with the certificates, in PEM, that the receiver's is checked with."""

    client_certificate: str | None = None
    """A file with our own certificate, for a receiver that wants one."""

    client_key: str | None = None
    """A file with its key; unset, the key is in the same file."""

    conventions: Conventions = "both"
    """The names of attributes: OpenTelemetry's for generative AI, OpenInference's, or both."""

    join: bool = True
    """Whether calls hang under the span that OpenTelemetry has open, and its spans under the calls they are made in."""

    resource: dict[str, str] = Field(default_factory=dict)
    """More attributes of the resource, beside the service's name and `OTEL_RESOURCE_ATTRIBUTES`."""
