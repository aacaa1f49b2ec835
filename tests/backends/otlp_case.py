"""What several tests of the OTLP backend send, and what they hear."""

from __future__ import annotations

import logging
from typing import Any

import grpc
import pytest
from otlp_server import Code, Reply

from doubles import messages
from spanhook import Span
from spanhook_backends.otlp import OTLPBackend
from spanhook_backends.otlp.conventions import Names
from spanhook_backends.otlp.convert import Converter

# By protocol: what is to be tried again.
UNAVAILABLE = {"http": Reply(503), "grpc": Code(grpc.StatusCode.UNAVAILABLE, "not now")}


def backend_of(receiver: Any, **options: Any) -> OTLPBackend:
    """The backend alone, to this receiver."""
    return OTLPBackend(OTLPBackend.Options(**{**receiver.options, **options}))


def spans_of(count: int, **more: Any) -> list[Span]:
    """So many finished spans, named `span 0` and so on."""
    return [Span("a" * 32, f"{i + 1:016x}", None, "e1", "custom", f"span {i}", 1, 2, **more) for i in range(count)]


def attributes_of(span: Span, chosen: Any = "both") -> dict[str, Any]:
    """What a span's attributes are by these conventions."""
    converter = Converter(Names(chosen))
    return {**converter.attributes(span, {}, is_agent=False), **converter.content(span)}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings that were logged."""
    return messages([record for record in caplog.records if record.levelno >= logging.WARNING])
