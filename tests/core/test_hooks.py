"""When each hook is called, on which thread, and with what."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import spanhook
from doubles import Memory, one_span, traced_by
from programs import ask_dummy
from remote_trace import SPAN, TRACE
from spanhook import Signal
from spanhook.hookspecs import BACKEND_HOOKS, EXTRACTOR_HOOKS, HookSpecs

HOOKS = sorted(name for name, value in vars(HookSpecs).items() if hasattr(value, "spanhook_spec"))


def test_every_hook_has_a_test():
    """A hook that is added needs a test of when and where it is called; and it is a backend's or an extractor's."""
    assert {f"test_hook_{name}" for name in HOOKS} <= set(globals())
    assert set(HOOKS) == EXTRACTOR_HOOKS | BACKEND_HOOKS


def test_hook_span_start():
    """Before the call, on its thread, with live inputs and nothing of the outcome; backends may have it too."""
    seen: list[Any] = []

    class Watcher(Memory):
        @spanhook.hookimpl
        def span_start(self, call, span):
            seen.append((span.kind, call.kind, dict(call.inputs), call.outputs, span.end_ns, list(call.history)))
            seen.append(threading.current_thread())

    tracer, _ = traced_by(watcher=Watcher())
    with tracer.span("retrieve", query="q"):
        assert seen == [("custom", "custom", {"query": "q"}, None, None, []), threading.current_thread()]


def test_hook_trace_parent():
    """Before a trace begins, on the thread of its first call, and for no other call; the trace goes on under it."""
    threads: list[threading.Thread] = []
    parent = spanhook.RemoteParent(TRACE, SPAN)

    class Other(Memory):
        @spanhook.hookimpl
        def trace_parent(self):
            threads.append(threading.current_thread())
            return parent

    tracer, _ = traced_by(other=Other())
    with tracer.span("root") as root, tracer.span("below") as below:
        assert (root.trace_id, root.parent_id) == (parent.trace_id, parent.span_id)
        assert below.parent_id == root.span_id
    assert threads == [threading.current_thread()]


def test_hook_span_end():
    """After the call, on its thread, with the history of this call alone; what it returns is in the span."""
    seen: list[Any] = []

    class Reader:
        @spanhook.hookimpl
        def span_end(self, span, call):
            seen.append((span.kind, threading.current_thread(), len(call.history)))
            return {"attributes": {"instance": type(call.instance).__name__}} if span.kind == "lm" else None

    tracer, memory = traced_by(reader=Reader())
    ask_dummy()
    assert tracer.flush()
    here = threading.current_thread()
    assert ("lm", here, 1) in seen
    assert seen[-1] == ("module", here, 0)
    (lm,) = (span for span in memory.spans if span.kind == "lm")
    assert lm.attributes["instance"] == "DummyLM"
    assert lm.sources["attributes.instance"] == "reader"


def test_hook_span_end_after_an_error():
    """Also after a call that raised, with the exception."""
    seen: list[Any] = []

    class Reader:
        @spanhook.hookimpl
        def span_end(self, call):
            seen.append(call.exception)

    tracer, _ = traced_by(reader=Reader())
    with pytest.raises(LookupError) as caught, tracer.span("fails"):
        raise LookupError
    assert seen == [caught.value]


def test_hook_span_end_of_a_backend():
    """A backend may have it too: it is asked after every extractor, those that are registered later included."""

    class Both(Memory):
        @spanhook.hookimpl
        def span_end(self, span):
            return {"provider": "backend", "attributes": {"ended": span.end_ns is not None}}

    class Extractor:
        @spanhook.hookimpl
        def span_end(self):
            return {"provider": "extractor"}

    tracer, memory = traced_by(both=Both(), late=Extractor())
    with tracer.span("work"):
        pass
    assert tracer.flush()
    (span,) = memory.spans
    assert span.provider == "extractor"
    assert span.attributes == {"ended": True}
    assert span.sources == {"provider": "late", "attributes.ended": "both"}


def test_hook_redact():
    """Once for each finished span, on the intake thread, before any backend; what it changes is what they all get."""
    seen: list[Any] = []

    class Redactor:
        @spanhook.hookimpl
        def redact(self, span):
            seen.append((span.name, span.parent_id is None, threading.current_thread().name))
            span.inputs["patient"] = "X"
            span.attributes["checked"] = True

    tracer, memory = traced_by(redactor=Redactor())
    with tracer.interaction(), tracer.span("look up", patient="Jane"):
        pass
    assert tracer.flush()
    assert seen == [("look up", False, "spanhook-intake"), ("interaction", True, "spanhook-intake")]
    assert [(span.inputs, span.attributes) for span in memory.spans] == [({"patient": "X"}, {"checked": True})] * 2


def test_hook_emit():
    """Finished spans in the order in which they ended, on the backend's own thread."""
    tracer, memory = traced_by()
    with tracer.span("outer"):
        one_span(tracer, "inner")
    assert tracer.flush()
    assert [span.name for span in memory.spans] == ["inner", "outer"]
    assert memory.threads == {"spanhook-memory"}


def test_hook_identify():
    """In its place among the spans, on the backend's own thread."""
    tracer, memory = traced_by()
    one_span(tracer)
    assert tracer.identify("u1", {"plan": "pro"})
    one_span(tracer)
    assert tracer.flush()
    assert memory.hooks == ["emit", "identify", "emit", "flush"]
    assert memory.identities == [("u1", {"plan": "pro"})]
    assert memory.threads == {"spanhook-memory"}


def test_hook_track_signal():
    """In its place among the spans, on the backend's own thread."""
    tracer, memory = traced_by()
    one_span(tracer)
    assert tracer.track_signal("e1", "thumbs_up", sentiment="POSITIVE")
    assert tracer.flush()
    assert memory.hooks == ["emit", "track_signal", "flush"]
    (signal,) = memory.signals
    assert isinstance(signal, Signal)
    assert (signal.event_id, signal.name, signal.sentiment) == ("e1", "thumbs_up", "POSITIVE")
    assert memory.threads == {"spanhook-memory"}


def test_hook_flush():
    """Behind everything that was accepted before, with what is left of the caller's time."""
    tracer, memory = traced_by()
    one_span(tracer)
    assert tracer.flush(timeout=25)
    assert memory.hooks == ["emit", "flush"]
    assert 0 < memory.calls[-1][1] <= 25
    assert memory.threads == {"spanhook-memory"}


def test_hook_shutdown():
    """Once, last, after a flush, with what is left of the caller's time; also if nothing was ever traced."""
    for spans in (1, 0):
        tracer, memory = traced_by()
        for _ in range(spans):
            one_span(tracer)
        assert tracer.shutdown(timeout=25)
        assert tracer.shutdown(timeout=25)
        assert memory.hooks == ["emit"] * spans + ["flush", "shutdown"]
        assert 0 < memory.calls[-1][1] <= 25
        assert memory.threads == {"spanhook-memory"}
