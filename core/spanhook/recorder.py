"""Starting and ending spans, whatever they come from: ids, clocks, content, extractors, and on to delivery."""

from __future__ import annotations

import time
import traceback
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from spanhook import budgets, dspy_compat, facts
from spanhook.active import REMOTE, OpenSpan, Trace
from spanhook.config import TracingSettings
from spanhook.guard import Guard, message_of
from spanhook.ids import new_span_id
from spanhook.plugins.registration import Plugin
from spanhook.processes import Lock, forks
from spanhook.snapshot import snapshot
from spanhook.span import Call, Kind, RemoteParent, Span, SpanError
from spanhook.totals import Totals

MAX_TRACEBACK_FRAMES = 50
_CONVERTERS = (dspy_compat.plain_form,)


class Recorder:
    """Turns the beginning and the end of a call into a finished span.

    Both run on the call's thread. Nothing here may raise into the program: its callers hold the guard.
    """

    def __init__(
        self, tracing: TracingSettings, plugins: list[Plugin], guard: Guard, deliver: Callable[[Span], object]
    ) -> None:
        self._guard = guard
        self._deliver = deliver
        self._sample_rate = tracing.sample_rate
        self.content = tracing.capture == "full"
        self._on_start = [(f"{p.label}: span_start", p.hooks["span_start"]) for p in plugins if "span_start" in p.hooks]
        asked = sorted(plugins, key=lambda plugin: plugin.kind == "backend")  # extractors know better
        self._on_end = [(f"{p.label}: span_end", p.name, p.hooks["span_end"]) for p in asked if "span_end" in p.hooks]
        self._on_begin = [(f"{p.label}: trace_parent", h) for p in asked if (h := p.hooks.get("trace_parent"))]
        self._lock = Lock()
        self._sampled_out = 0
        self.listeners: list[Callable[[Span], None]] = []

    @property
    def sampled_out(self) -> int:
        """How many traces `sample_rate` has left out."""
        return self._sampled_out

    def begin_trace(
        self, event_id: str | None = None, user_id: str | None = None, convo_id: str | None = None
    ) -> Trace:
        """A new trace with its share in the sample decided, or the caller's where one is attached."""
        remote = self._remote_parent()
        trace = Trace.begin(self._sample_rate, event_id=event_id, user_id=user_id, convo_id=convo_id, remote=remote)
        if not trace.sampled:
            with self._lock:
                self._sampled_out += 1
        return trace

    def _remote_parent(self) -> RemoteParent | None:
        """The caller that is attached here, and what other tracing systems have open here."""
        attached = dspy_compat.override(REMOTE)
        caller: RemoteParent | None = attached.remote if attached is not None else None
        for place, hook in self._on_begin:
            found = self._guard.call(place, hook)
            if isinstance(found, RemoteParent):
                if caller is None:
                    return found
                if caller.trace_id == found.trace_id:  # that span is between the caller and here
                    return replace(caller, span_id=found.span_id, sampled=found.sampled)
                return caller
            if found is not None:
                self._guard.refuse(place, f"returned {type(found).__name__}, not a spanhook.RemoteParent")
        return caller

    def start(
        self,
        kind: Kind,
        name: str,
        call: Call,
        parent: OpenSpan | None,
        trace: Trace | None = None,
        model: str | None = None,
        provider: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> OpenSpan:
        """Open a span under `parent`, or as the root of `trace` (a new one if None)."""
        parent_id = None if parent is None else parent.span.span_id
        if trace is None:
            trace = self.begin_trace() if parent is None else parent.trace
        monotonic_ns = time.perf_counter_ns()
        start_ns = trace.unix_ns + monotonic_ns - trace.monotonic_ns
        span = Span(trace.trace_id, new_span_id(), parent_id, trace.event_id, kind, name, start_ns)
        span.user_id, span.convo_id, span.local_root_id = trace.user_id, trace.convo_id, trace.local_root_id
        if parent is None:
            span.local_root_id = trace.local_root_id = span.span_id
            if trace.remote is not None:
                span.parent_id = trace.remote.span_id
                span.event_is_remote = trace.event_id == trace.remote.event_id
        opened = OpenSpan(span, call, trace, parent, monotonic_ns, forks())
        span.model, span.provider = model, provider
        if not trace.sampled:
            return opened
        if attributes:
            span.attributes.update(attributes)
        if self.content and call.inputs:
            span.inputs = self._copy(call.inputs)
        if parent is not None and parent.span.kind == "interaction":
            parent.mirror_start(span, is_dspy=call.instance is not None)
        for place, hook in self._on_start:
            self._guard.call(place, hook, span, call)
        return opened

    def end(
        self, opened: OpenSpan, outputs: Any = None, exception: BaseException | None = None, *, inputs: Any = None
    ) -> None:
        """Close a span, ask the extractors, and hand it over. A second end of the same span does nothing.

        `inputs` replaces what was there when the span started.
        """
        span, call, parent = opened.span, opened.call, opened.parent
        if span.end_ns is not None:
            return
        span.end_ns = span.start_ns + time.perf_counter_ns() - opened.started_ns
        record = opened.record
        if record is not None or opened.overrides is not None:
            self.release(opened)
        if opened.forks != forks():
            return  # it began before this process was forked: it is the parent's to tell of
        if record is not None:
            call.history, call.lm_usage, call.streamed = record.history, record.lm_usage, record.streamed
            if record.first_chunk_ns is not None:
                span.time_to_first_token_s = (record.first_chunk_ns - opened.started_ns) / 1e9
        if dspy_compat.is_prediction(outputs):
            self._guard.call("remembering a prediction", remember_event, outputs, span.event_id)
        if not opened.trace.sampled:
            if opened.trace.counted:
                self._count(opened, outputs, exception)
            return
        call.outputs, call.exception = outputs, exception
        if not self.content:
            span.inputs = span.outputs = None
        else:
            if outputs is not None:
                span.outputs = self._copy(outputs)
            if inputs is not None:
                span.inputs = self._copy(inputs)
        if call.instance is None:  # a span of the program's own: its attributes are the program's objects
            span.attributes = self._copy(span.attributes) or {}
        if exception is not None:
            span.error = self._error(exception)
        self._extract(span, call)
        if opened.below or span.kind == "lm":
            self._add_up(opened)
        if parent is not None and parent.span.kind == "interaction":
            parent.mirror_end(span, is_dspy=call.instance is not None)
        if opened.example_of is None or not opened.example_of.hold(span, call.inputs, outputs):
            self.hand_over(span)

    def hand_over(self, span: Span) -> None:
        """Pass a finished span on to delivery, and to whoever listens."""
        self._deliver(span)
        for listener in self.listeners:
            listener(span)

    def _count(self, opened: OpenSpan, outputs: Any, exception: BaseException | None) -> None:
        """Tokens and cost alone, of a call whose span goes nowhere."""
        span, call = opened.span, opened.call
        if span.kind == "lm":
            call.outputs, call.exception = outputs, exception
            if exception is not None:
                span.error = SpanError(type(exception).__name__, None, None)
            self._extract(span, call)
        if opened.below or span.kind == "lm":
            self._add_up(opened)

    def release(self, opened: OpenSpan) -> None:
        """Take back what a call has changed in DSPy's settings of its context."""
        if opened.record is not None:
            opened.record.close()
        opened.deactivate()

    def _copy(self, value: Any) -> Any:
        return self._guard.call("copying a call's content", snapshot, value, _CONVERTERS)

    def _extract(self, span: Span, call: Call) -> None:
        for place, name, hook in self._on_end:
            found = self._guard.call(place, hook, span, call)
            if found is not None:
                for refusal in self._guard.call(place, facts.apply, span, found, name) or ():
                    self._guard.refuse(place, refusal)

    def _add_up(self, opened: OpenSpan) -> None:
        """Hand the tokens and cost of this span's LM calls on to its parent."""
        span = opened.span
        if span.kind == "lm" and not (span.usage is None and opened.below):
            totals = Totals.of_call(span)  # what an LM says of itself covers the LMs that it calls
        elif opened.below:
            totals = Totals.sum(opened.below)
            totals.apply(span)
        else:
            return
        if opened.parent is not None and opened.parent.span.end_ns is None:
            opened.parent.below.append(totals)
        if span.kind == "lm" and opened.trace.ledgers:
            budgets.charge(opened, totals)

    def _error(self, exception: BaseException) -> SpanError:
        kind = type(exception)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        frames = traceback.StackSummary.extract(
            traceback.walk_tb(exception.__traceback__), limit=-MAX_TRACEBACK_FRAMES, lookup_lines=self.content
        )
        if not self.content:  # a line of source may hold the message
            places = (f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}\n' for frame in frames)
            return SpanError(name, None, "".join(places))
        message = message_of(exception)
        lines = "".join(frames.format())
        return SpanError(name, message, f"Traceback (most recent call last):\n{lines}{name}: {message}")


_events: dict[int, tuple[weakref.ref[Any], str]] = {}


def remember_event(outputs: Any, event_id: str) -> None:
    """Tie a program's result to its event without touching the result; forgotten when the result is."""
    key = id(outputs)
    _events[key] = (weakref.ref(outputs, lambda _: _events.pop(key, None)), event_id)


def event_id_of(prediction: object) -> str | None:
    """The event id of the interaction that made this prediction, for `tracer.track_signal`; None if it was not traced.

    Works with the very object that the program returned, not with a copy of it. On any thread.
    """
    found = _events.get(id(prediction))
    return found[1] if found is not None and found[0]() is prediction else None
