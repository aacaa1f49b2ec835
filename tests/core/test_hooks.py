"""When each hook is called, on which thread, in which order, and what happens when one raises."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import dspy
import pytest
from dspy.utils.dummies import DummyLM

import spanhook
from doubles import Memory, messages, one_span, tracer_of
from spanhook import Call, Signal, Span, SpanError, Tracer
from spanhook.hookspecs import BACKEND_HOOKS, EXTRACTOR_HOOKS, HookSpecs

HOOKS = sorted(name for name, value in vars(HookSpecs).items() if hasattr(value, "spanhook_spec"))


class Noting:
    """An extractor that notes its calls in a list that it shares with others."""

    def __init__(self, name: str, notes: list[Any], facts: Any = None) -> None:
        self.name, self.notes, self.facts = name, notes, facts

    @spanhook.hookimpl
    def span_start(self, span: Span, call: Call) -> None:
        self.notes.append(f"{self.name} starts {span.kind}")

    @spanhook.hookimpl
    def span_end(self, span: Span, call: Call) -> Any:
        self.notes.append(f"{self.name} ends {span.kind}")
        return self.facts() if callable(self.facts) else self.facts


def traced(**plugins: Any) -> tuple[Tracer, Memory]:
    """A tracer with these plugins, in this order, before a backend that keeps everything."""
    memory = Memory()
    config = {"tracing": {"backends": [], "extractors": []}}
    return spanhook.configure(config, plugins={**plugins, "memory": memory}), memory


def ask() -> dspy.Prediction:
    with dspy.context(lm=DummyLM([{"answer": "Paris"}]), adapter=dspy.ChatAdapter()):
        return dspy.Predict("question -> answer")(question="France?")


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

    tracer, _ = traced(watcher=Watcher())
    with tracer.span("retrieve", query="q"):
        assert seen == [("custom", "custom", {"query": "q"}, None, None, []), threading.current_thread()]


def test_hook_trace_parent():
    """Before a trace begins, on the thread of its first call, and for no other call; the trace goes on under it."""
    threads: list[threading.Thread] = []
    parent = spanhook.RemoteParent("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")

    class Other(Memory):
        @spanhook.hookimpl
        def trace_parent(self):
            threads.append(threading.current_thread())
            return parent

    tracer, _ = traced(other=Other())
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

    tracer, memory = traced(reader=Reader())
    ask()
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

    tracer, _ = traced(reader=Reader())
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

    tracer, memory = traced(both=Both(), late=Extractor())
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

    tracer, memory = traced(redactor=Redactor())
    with tracer.interaction(), tracer.span("look up", patient="Jane"):
        pass
    assert tracer.flush()
    assert seen == [("look up", False, "spanhook-intake"), ("interaction", True, "spanhook-intake")]
    assert [(span.inputs, span.attributes) for span in memory.spans] == [({"patient": "X"}, {"checked": True})] * 2


def test_hook_redact_that_raises():
    """What it should have taken out doesn't leave the process: the content is dropped, and that is counted."""

    class Redactor:
        @spanhook.hookimpl
        def redact(self, span):
            raise LookupError(span.name)

    tracer, memory = traced(redactor=Redactor())
    with (
        pytest.raises(ValueError, match="Jane"),
        tracer.interaction(user_id="Jane"),
        tracer.span("Jane", patient="Jane"),
    ):
        raise ValueError("Jane")
    assert tracer.flush()
    for span in memory.spans:
        assert "Jane" not in repr(span.to_dict())
        assert (span.name, span.attributes) == (span.kind, {"spanhook.content_lost": True})
        assert span.error == SpanError("ValueError", None, None)
    assert tracer.stats().errors == {"extractor redactor: redact: LookupError": 2}


def test_span_kinds():
    """A plugin with `span_kinds` is asked about spans of these kinds alone."""
    notes: list[Any] = []
    some = Noting("some", notes)
    some.span_kinds = ("module",)
    traced(some=some)
    ask()
    assert notes == ["some starts module", "some ends module"]


def test_deferred_kinds():
    """Those are asked later, with the record of the call; but none of which one behind it must see the facts."""
    threads: dict[str, str] = {}
    histories: list[int] = []

    class Asked:
        span_kinds = ("lm",)

        def __init__(self, name: str, deferred: bool) -> None:
            self.name = name
            self.deferred_kinds = self.span_kinds if deferred else ()

        @spanhook.hookimpl
        def span_end(self, call):
            threads[self.name] = threading.current_thread().name
            histories.append(len(call.history))

    plugins = {name: Asked(name, deferred) for name, deferred in [("a", True), ("b", False), ("c", True), ("d", True)]}
    tracer, _ = traced(**plugins)
    ask()
    assert tracer.flush()
    here = threading.current_thread().name
    assert threads == {"a": here, "b": here, "c": "spanhook-intake", "d": "spanhook-intake"}
    assert histories == [1, 1, 1, 1]


def test_deferred_facts_are_those_of_the_call():
    """What the program does to DSPy's record of the call, or to its result, after the call is not in the trace."""
    tracer = spanhook.configure({"tracing": {"backends": []}}, plugins={"memory": (memory := Memory())})
    lm = DummyLM([{"answer": "Paris"}])
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        prediction = dspy.Predict("question -> answer")(question="France?")
    entry = lm.history[-1]
    if isinstance(entry["usage"], dict):  # DSPy 3.0 writes a number there
        entry["usage"]["prompt_tokens"] = 999
    entry["usage"], entry["cost"], entry["response_model"] = {"prompt_tokens": 999}, 99.0, "another"
    prediction.answer = "Rome"
    assert tracer.flush()
    (span,) = [span for span in memory.spans if span.kind == "lm"]
    assert span.usage is None or span.usage.input_tokens != 999
    assert (span.cost_usd, span.response_model) != (99.0, "another")
    assert "Rome" not in str([span.to_dict() for span in memory.spans])


def test_hook_emit():
    """Finished spans in the order in which they ended, on the backend's own thread."""
    tracer, memory = traced()
    with tracer.span("outer"):
        one_span(tracer, "inner")
    assert tracer.flush()
    assert [span.name for span in memory.spans] == ["inner", "outer"]
    assert memory.threads == {"spanhook-memory"}


def test_hook_identify():
    """In its place among the spans, on the backend's own thread."""
    tracer, memory = traced()
    one_span(tracer)
    assert tracer.identify("u1", {"plan": "pro"})
    one_span(tracer)
    assert tracer.flush()
    assert memory.hooks == ["emit", "identify", "emit", "flush"]
    assert memory.identities == [("u1", {"plan": "pro"})]
    assert memory.threads == {"spanhook-memory"}


def test_hook_track_signal():
    """In its place among the spans, on the backend's own thread."""
    tracer, memory = traced()
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
    tracer, memory = traced()
    one_span(tracer)
    assert tracer.flush(timeout=25)
    assert memory.hooks == ["emit", "flush"]
    assert 0 < memory.calls[-1][1] <= 25
    assert memory.threads == {"spanhook-memory"}


def test_hook_shutdown():
    """Once, last, after a flush, with what is left of the caller's time; also if nothing was ever traced."""
    for spans in (1, 0):
        tracer, memory = traced()
        for _ in range(spans):
            one_span(tracer)
        assert tracer.shutdown(timeout=25)
        assert tracer.shutdown(timeout=25)
        assert memory.hooks == ["emit"] * spans + ["flush", "shutdown"]
        assert 0 < memory.calls[-1][1] <= 25
        assert memory.threads == {"spanhook-memory"}


def test_the_order_of_calls_is_the_order_of_the_list():
    """The whole sequence for one DSPy call: first in, first called, at every start and at every end."""
    notes: list[str] = []
    traced(first=Noting("first", notes), second=Noting("second", notes), third=Noting("third", notes))
    ask()
    calls = [
        "starts module",
        "starts adapter_format",
        "ends adapter_format",
        "starts lm",
        "ends lm",
        "starts adapter_parse",
        "ends adapter_parse",
        "ends module",
    ]
    assert notes == [f"{name} {call}" for call in calls for name in ("first", "second", "third")]


@pytest.mark.parametrize("order", [["one", "two"], ["two", "one"]])
def test_the_first_in_the_list_that_knows_a_field_wins(order):
    """The list in tracing.toml decides; what only a later one knows is added."""
    facts = {
        "one": {"response_model": "m1", "cost_usd": 1.0, "attributes": {"both": 1, "only_one": 1}},
        "two": {"response_model": "m2", "finish_reason": "stop", "attributes": {"both": 2}},
    }
    tracer, memory = traced(**{name: Noting(name, [], facts[name]) for name in order})
    one_span(tracer)
    assert tracer.flush()
    (span,) = memory.spans
    winner = facts[order[0]]
    assert (span.response_model, span.cost_usd, span.finish_reason) == (winner["response_model"], 1.0, "stop")
    assert span.attributes == {"both": winner["attributes"]["both"], "only_one": 1}
    assert span.sources == {
        "response_model": order[0],
        "cost_usd": "one",
        "finish_reason": "two",
        "attributes.both": order[0],
        "attributes.only_one": "one",
    }


def raises(error: BaseException) -> Any:
    def hook(*_: Any) -> Any:
        raise error

    return hook


class Failing(Noting):
    @spanhook.hookimpl
    def span_start(self, span: Span, call: Call) -> None:
        raise KeyError("at the start")


def test_an_extractor_that_raises_changes_nothing_else(caplog):
    """Not for the program, nor the other extractors, nor the span; it is counted, and logged once for each kind."""
    errors = iter([ValueError("one"), ValueError("two"), TypeError("three")] * 3)

    def fail() -> Any:
        raise next(errors)

    tracer, memory = traced(
        before=Noting("before", [], {"response_model": "m"}),
        bad=Failing("bad", [], fail),
        after=Noting("after", [], {"finish_reason": "stop"}),
    )
    with caplog.at_level(logging.WARNING, "spanhook"):
        for number in range(9):
            with tracer.span("work", number=number) as span:
                span.outputs = number
    assert tracer.flush()
    assert [(s.inputs, s.outputs, s.response_model, s.finish_reason) for s in memory.spans] == [
        ({"number": n}, n, "m", "stop") for n in range(9)
    ]
    assert tracer.stats().errors == {
        "extractor bad: span_start: KeyError": 9,
        "extractor bad: span_end: ValueError": 6,
        "extractor bad: span_end: TypeError": 3,
    }
    assert messages(caplog.records) == [
        "extractor bad: span_start failed; the program goes on (logged once): KeyError: 'at the start'",
        "extractor bad: span_end failed; the program goes on (logged once): ValueError: one",
        "extractor bad: span_end failed; the program goes on (logged once): TypeError: three",
    ]


@pytest.mark.parametrize("facts", [7, "x", [("model", "m")], {"cost_usd": -1.0}, {"nope": 1}, {"attributes": 3}])
def test_an_extractor_that_returns_nonsense_changes_nothing_else(facts):
    """It is refused and counted; the good facts of the same extractor and of others stay."""
    both = {"finish_reason": "stop", **facts} if isinstance(facts, dict) else facts
    tracer, memory = traced(bad=Noting("bad", [], both), good=Noting("good", [], {"finish_reason": "stop"}))
    one_span(tracer)
    assert tracer.flush()
    (span,) = memory.spans
    assert (span.finish_reason, span.cost_usd) == ("stop", None)
    ((what, count),) = tracer.stats().errors.items()
    assert (what.partition(": ")[0], count) == ("extractor bad", 1)


@pytest.mark.parametrize("hook", ["emit", "identify", "track_signal"])
@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_a_backend_that_raises_fails_alone(hook, error):
    """Whatever it raises: its thread goes on, its loss is counted and told once, the other backend has everything."""
    bad, good = Memory(), Memory()
    calls = iter([error("no"), None, None])

    def sometimes(*_: Any) -> None:
        if (problem := next(calls)) is not None:
            raise problem

    bad._note = lambda name, argument: sometimes() if name == hook else None  # type: ignore[method-assign]
    tracer = tracer_of(bad, good)
    send = {
        "emit": lambda: one_span(tracer),
        "identify": lambda: tracer.identify("u"),
        "track_signal": lambda: tracer.track_signal("e", "s"),
    }[hook]
    send()
    assert tracer.flush() is False
    send()
    assert tracer.flush() is True
    stats = tracer.stats().backends
    assert (stats["a"].accepted, stats["a"].failed, stats["a"].delivered, stats["a"].queued) == (2, 1, 1, 0)
    assert (stats["b"].accepted, stats["b"].failed, stats["b"].delivered) == (2, 0, 2)
    assert tracer.stats().errors == {f"backend a: {hook}: {error.__name__}": 1}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("hook", ["span_start", "span_end"])
def test_what_is_no_exception_passes_through(error, hook):
    """Ctrl-C, exit and cancellation on the program's thread are the program's, wherever they arrive."""
    body = {hook: spanhook.hookimpl(lambda self, span: raises(error("stop"))() if span.name == "hit" else None)}
    tracer, memory = traced(hit=type("Hit", (), body)())
    with pytest.raises(error), tracer.span("hit"):
        pass
    one_span(tracer, "later")
    assert tracer.flush()
    (later,) = (span for span in memory.spans if span.name == "later")
    assert later.parent_id is None, "the span that was hit must not stay the innermost"
    assert tracer.stats().errors == {}
