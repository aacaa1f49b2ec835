"""What is compared. Each function starts one tracer that exports to the sink, and says how to use it and to stop it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import dspy
from dspy.utils.callback import BaseCallback

P = TypeVar("P", bound=dspy.Module)


def _nothing() -> None:
    return None


@dataclass
class Mode:
    """One way to run a program."""

    callbacks: tuple[Any, ...] = ()
    wrap: Callable[[Any], Any] = lambda program: program  # for tracers that change the program
    on: Callable[[], AbstractContextManager[Any]] = nullcontext  # for those that change DSPy, around each block
    flush: Callable[[], object] = _nothing
    close: Callable[[], object] = _nothing


class Empty(BaseCallback):
    """The floor: what DSPy itself takes to call one callback. It has every handler, as a tracer has."""


def _ignore(self: Any, **event: Any) -> None:
    return None


for _name in dir(BaseCallback):
    if _name.startswith("on_"):
        setattr(Empty, _name, _ignore)


def off(sink: str) -> Mode:
    """DSPy alone."""
    return Mode()


def floor(sink: str) -> Mode:
    """One empty callback."""
    return Mode((Empty(),))


def spanhook_with(*backends: str, **tracing: object) -> Callable[[str], Mode]:
    """Spanhook with its four default extractors, full content, and these backends; `tracing` may say otherwise."""

    def start(sink: str) -> Mode:
        import spanhook

        folder = tempfile.TemporaryDirectory(prefix="spanhook-bench-")
        options = {
            "structlog": {"format": "json"},
            "otlp": {"endpoint": sink},
            "raindrop": {"api_key": "key", "endpoint": sink + "/v1/"},
            "local": {"path": f"{folder.name}/traces.db"},
            "opik": {"api_key": "key", "host": sink + "/api", "workspace": "default", "project_name": "bench"},
        }
        chosen = {"backends": list(backends), **tracing}
        tracer = spanhook.configure({"tracing": chosen, "backends": {name: options[name] for name in backends}})

        def close() -> None:
            tracer.shutdown(30.0)
            folder.cleanup()

        return Mode((tracer.callback,), flush=lambda: tracer.flush(30.0), close=close)

    return start


def raindrop_dspy(sink: str) -> Mode:
    """raindrop-dspy."""
    from raindrop_dspy import RaindropDSPy

    client = RaindropDSPy(api_key="key", endpoint=sink + "/v1/", app_git=False)
    return Mode(wrap=client.wrap, flush=client.flush, close=client.shutdown)


def opik_callback(sink: str) -> Mode:
    """Opik's callback."""
    os.environ.update(
        OPIK_URL_OVERRIDE=sink + "/api", OPIK_API_KEY="key", OPIK_WORKSPACE="default", OPIK_SENTRY_ENABLE="false"
    )
    from opik.integrations.dspy.callback import OpikCallback

    callback = OpikCallback(project_name="bench")
    return Mode((callback,), flush=callback.flush)


def _otel_provider(sink: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=sink + "/v1/traces")))
    return provider


def opentelemetry(sink: str) -> Mode:
    """Two spans a Predict with nothing in them, as one would write it by hand with OpenTelemetry's SDK."""
    provider = _otel_provider(sink)
    tracer = provider.get_tracer("bench")
    spans: dict[str, Any] = {}

    class TwoSpans(BaseCallback):
        def on_module_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            spans[call_id] = tracer.start_as_current_span(type(instance).__name__)
            spans[call_id].__enter__()

        def on_module_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
            spans.pop(call_id).__exit__(None, None, None)

        on_lm_start = on_module_start
        on_lm_end = on_module_end

    return Mode((TwoSpans(),), flush=provider.force_flush, close=provider.shutdown)


def openinference(sink: str) -> Mode:
    """OpenInference's instrumentation of DSPy with OTLP."""
    from contextlib import contextmanager

    from openinference.instrumentation.dspy import DSPyInstrumentor

    provider = _otel_provider(sink)
    instrumentor = DSPyInstrumentor()

    @contextmanager
    def on() -> Any:
        instrumentor.instrument(tracer_provider=provider)
        try:
            yield
        finally:
            instrumentor.uninstrument()

    return Mode(on=on, flush=provider.force_flush, close=provider.shutdown)


def mlflow(sink: str) -> Mode:
    """MLflow's autolog, exporting with OTLP."""
    os.environ.update(
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=sink + "/v1/traces", OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="http/protobuf"
    )
    import mlflow as package

    package.dspy.autolog()
    callbacks = [c for c in dspy.settings.callbacks if type(c).__module__.startswith("mlflow")]
    return Mode(tuple(callbacks), flush=package.flush_trace_async_logging)


MODES: dict[str, Callable[[str], Mode]] = {
    "off": off,
    "floor": floor,
    "spanhook: structlog": spanhook_with("structlog"),
    "spanhook: structlog, no adapter spans": spanhook_with("structlog", adapter_spans=False),
    "spanhook: local": spanhook_with("local"),
    "spanhook: otlp": spanhook_with("otlp"),
    "spanhook: raindrop": spanhook_with("raindrop"),
    "spanhook: opik": spanhook_with("opik"),
    "spanhook: structlog, raindrop, opik": spanhook_with("structlog", "raindrop", "opik"),
    "OpenTelemetry, two bare spans": opentelemetry,
    "raindrop-dspy": raindrop_dspy,
    "Opik": opik_callback,
    "OpenInference": openinference,
    "MLflow": mlflow,
}
