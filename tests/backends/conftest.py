"""Fixtures of several backends' tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest
from structlog_screen import Configure, Screen

import spanhook
from spanhook import Tracer
from spanhook_backends.structlog import StructlogBackend

if TYPE_CHECKING:
    from otlp_server import GRPCServer, OTLPServer
    from raindrop_server import RaindropServer


@pytest.fixture
def raindrop() -> Iterator[RaindropServer]:
    """A stand-in for Raindrop."""
    from raindrop_server import RaindropServer  # here: not everybody has installed what it needs

    with RaindropServer() as server:
        yield server


@pytest.fixture(params=["http", "grpc"])
def receiver(request: pytest.FixtureRequest) -> Iterator[OTLPServer | GRPCServer]:
    """A receiver of OTLP, by each of its protocols."""
    from otlp_server import GRPCServer, OTLPServer  # here: not everybody has installed what it needs

    with (OTLPServer if request.param == "http" else GRPCServer)() as server:
        yield server


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Screen:
    """A screen of 100 columns, without colours."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    return Screen(capsys)


@pytest.fixture
def backend(screen: Screen) -> StructlogBackend:
    """The backend alone, on the screen."""
    return StructlogBackend(StructlogBackend.Options(format="tree", stream="stdout"))


@pytest.fixture
def configure(screen: Screen) -> Iterator[Configure]:
    """`spanhook.configure` for the tree, with the backend's options as arguments."""
    tracers = []

    def configured(tracing: Mapping[str, Any] | None = None, **options: Any) -> Tracer:
        settings = {
            "tracing": tracing or {},
            "delivery": {"batch_spans": 2},  # a trace comes in several batches
            "backends": {"structlog": {"format": "tree", "stream": "stdout", **options}},
        }
        tracers.append(spanhook.configure(settings))
        return tracers[-1]

    yield configured
    for tracer in tracers:
        tracer.shutdown()
