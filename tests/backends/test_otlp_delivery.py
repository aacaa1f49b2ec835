"""Delivery by OTLP through outages and forks: nothing lost, nothing twice, and nobody else logs or traces it."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

import pytest

from doubles import WAIT_S, one_span

pytest.importorskip("grpc")

from otlp_case import UNAVAILABLE, warnings
from otlp_server import OTLPServer, traced

import spanhook


def test_an_outage_loses_nothing_and_doubles_nothing(receiver: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What the receiver could not take arrives once it can; it is said when that begins and when it ends."""
    with traced(receiver) as tracer:
        receiver.answer_with(UNAVAILABLE[receiver.protocol], UNAVAILABLE[receiver.protocol])
        for _ in range(50):
            one_span(tracer)
        receiver.wait_for(lambda: len(receiver.spans) == 50)
    assert len({span.span_id for span in receiver.spans}) == 50
    began, ended = warnings(caplog)
    assert "backend otlp: not reachable, will try again: http://" in began
    assert ended == "backend otlp: reachable again"


def test_nobody_listens_at_first(caplog: pytest.LogCaptureFixture) -> None:
    """A receiver that starts after the program gets everything."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    tracer = spanhook.configure(
        {"tracing": {"backends": ["otlp"]}, "backends": {"otlp": {"endpoint": f"http://127.0.0.1:{port}"}}}
    )
    one_span(tracer)
    assert not tracer.flush(0.3)
    with OTLPServer(port) as receiver:
        receiver.wait_for(lambda: len(receiver.spans) == 1)
        tracer.shutdown(WAIT_S)
    assert "Connection refused" in warnings(caplog)[0]


def test_nobody_else_logs(receiver: Any, caplog: pytest.LogCaptureFixture) -> None:
    """One voice speaks of delivery: Spanhook's."""
    caplog.set_level(logging.INFO, "opentelemetry")
    receiver.answer_with(UNAVAILABLE[receiver.protocol])
    with traced(receiver) as tracer:
        one_span(tracer)
        receiver.wait_for(lambda: bool(receiver.spans))
    assert {record.name for record in caplog.records} == {"spanhook"}


def test_an_instrumented_http_client_makes_no_spans_of_ours() -> None:
    """Else every request would make spans that make requests."""
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.requests")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    seen = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(seen))
    instrumentor = instrumentation.RequestsInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        with OTLPServer() as receiver, traced(receiver) as tracer:
            one_span(tracer)
    finally:
        instrumentor.uninstrument()
    assert seen.get_finished_spans() == ()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_worker_has_a_connection_of_its_own() -> None:
    """Parent and child send at the same time, and each span arrives once."""
    with OTLPServer() as receiver:
        with traced(receiver) as tracer:
            one_span(tracer, "before")
            assert tracer.flush(WAIT_S)
            pid = os.fork()
            if pid == 0:
                one_span(tracer, "child")
                os._exit(0 if tracer.flush(WAIT_S) else 1)
            one_span(tracer, "parent")
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert sorted(span.name for span in receiver.spans) == ["before", "child", "parent"]
