"""Headers of requests: how OpenTelemetry's variable writes them, and what each protocol can carry.

No message here has a value in it, nor what was taken for a name but can be none: either may be a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # of HTTP
_GRPC_NAME = re.compile(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)")  # gRPC has the others for itself, and for binary values


def parsed(text: str) -> dict[str, str]:
    """The headers of `OTEL_EXPORTER_OTLP_HEADERS`: `name=value` pairs with commas between, percent-encoded.

    Raises:
        ValueError: it is something else. OpenTelemetry's own parser would log what it finds, a key perhaps.
    """
    headers: dict[str, str] = {}
    for pair in filter(str.strip, text.split(",")):
        name, equals, value = pair.partition("=")
        name = unquote(name).strip()
        if not equals or not _NAME.fullmatch(name):
            raise ValueError("must be name=value pairs with commas between")
        headers[name.lower()] = unquote(value).strip()
    check(headers)
    return headers


def check(headers: Mapping[str, str]) -> None:
    """Check names and values.

    Raises:
        ValueError: no request can have them.
    """
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            raise ValueError("the name of a header must be ASCII letters, digits and hyphens")
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"the value of {name} must be printable ASCII")


def check_for_grpc(headers: Mapping[str, str]) -> None:
    """Check names that are right over HTTP.

    Raises:
        ValueError: gRPC has no such names.
    """
    for name in headers:
        if not _GRPC_NAME.fullmatch(name.lower()):
            raise ValueError(
                f"gRPC can't send {name}: letters, digits, - _ . only, no -bin at the end, and some names are its own"
            )
