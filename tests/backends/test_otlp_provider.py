"""A tracer provider of the program's own: its processors get the spans, and the global one is left alone."""

from __future__ import annotations

import dspy
import pytest
from dspy.utils import DummyLM

from programs import Answerer

pytest.importorskip("opentelemetry.proto")

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import spanhook
from spanhook.testing import capture_spans
from spanhook_backends.otlp import OTLPBackend


def test_a_given_provider_gets_the_spans_with_their_own_ids() -> None:
    """Ids, parents, times and the provider's resource; the provider stays usable after the tracer's shutdown."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "mine"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    before = trace.get_tracer_provider()
    backend = OTLPBackend(tracer_provider=provider)
    tracer = spanhook.configure({"tracing": {"backends": []}}, plugins={"otlp": backend})
    with capture_spans(tracer) as made, dspy.context(lm=DummyLM([{"answer": "Yes."}])):
        Answerer()(question="Why?")
    tracer.shutdown()
    got = {f"{span.context.span_id:016x}": span for span in exporter.get_finished_spans()}
    assert set(got) == {span.span_id for span in made}
    for span in made:
        arrived = got[span.span_id]
        assert f"{arrived.context.trace_id:032x}" == span.trace_id
        assert (arrived.parent and f"{arrived.parent.span_id:016x}") == span.parent_id
        assert (arrived.name, arrived.start_time, arrived.end_time) == (span.name, span.start_ns, span.end_ns)
        assert arrived.resource.attributes["service.name"] == "mine"
    assert trace.get_tracer_provider() is before
    provider.get_tracer("mine").start_span("after").end()
    assert len(exporter.get_finished_spans()) == len(made) + 1


def test_something_else_than_the_sdks_provider_is_refused() -> None:
    """The API's own has no processors: what was sent to it would be lost."""
    with pytest.raises(spanhook.ConfigError, match="tracer_provider: must be the SDK's TracerProvider, not str"):
        OTLPBackend(tracer_provider="provider")  # type: ignore[arg-type]
