"""Starting and ending spans, whatever they come from: ids, clocks, content, extractors, and on to delivery."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spanhook import budgets, dspy_compat, facts, processes
from spanhook.active import NO_ARGUMENTS, REMOTE, Describe, OpenSpan, Trace
from spanhook.delivery.keeping import RATE, Keeping
from spanhook.guard import Guard
from spanhook.plugins.span_hooks import Hook, SpanHooks
from spanhook.prediction_events import remember_event
from spanhook.processes import Lock
from spanhook.snapshot import MAX_ITEMS, snapshot
from spanhook.span import KINDS, Call, Kind, RemoteParent, Span, SpanError
from spanhook.totals import Part, Totals
from spanhook.tracebacks import span_error

if TYPE_CHECKING:
    from spanhook.config import CompileMode, TracingSettings
    from spanhook.plugins.registration import Plugin

_WITHOUT_PREDICTIONS = frozenset({"lm", "adapter_format", "adapter_parse"})  # that return no program's result


class Recorder:
    """Turns the beginning and the end of a call into a finished span.

    Both run on the call's thread. Nothing here may raise into the program: its callers hold the guard.
    """

    def __init__(
        self,
        tracing: TracingSettings,
        plugins: list[Plugin],
        guard: Guard,
        deliver: Callable[[Span | OpenSpan], object],
        keeping: Keeping | None = None,
    ) -> None:
        self._guard = guard
        self._deliver = deliver
        self._sample_rate = tracing.sample_rate
        self._keeping = keeping
        self.compile_mode: CompileMode = tracing.compile
        self.content = tracing.capture == "full"
        self._hooks = {kind: SpanHooks(kind, plugins) for kind in KINDS}
        asked = sorted(plugins, key=lambda plugin: plugin.kind == "backend")  # extractors know better
        self._on_begin = [(f"{p.label}: trace_parent", h) for p in asked if (h := p.hooks.get("trace_parent"))]
        self._completing = Lock()
        self._counting = Lock()  # not the same: what completes a span may run a plugin's code
        how = (dspy_compat.plain_form,), dspy_compat.FIELDS
        self._copy: Callable[[Any], Any] = guard.shielded("copying a call's content", snapshot, *how)
        self._sampled_out = 0
        self.listeners: list[Callable[[Span], None]] = []

    @property
    def sampled_out(self) -> int:
        """How many traces `sample_rate` has left out, and `keep` has not kept."""
        return self._sampled_out + (self._keeping.sampled_out if self._keeping is not None else 0)

    def begin_trace(
        self, event_id: str | None = None, user_id: str | None = None, convo_id: str | None = None
    ) -> Trace:
        """A new trace with its share in the sample decided, or the caller's where one is attached."""
        remote = self._remote_parent() if self._on_begin or REMOTE in dspy_compat.overrides() else None
        trace = Trace.begin(self._sample_rate, event_id, user_id, convo_id, remote)
        trace.recorded = trace.sampled or self._keeping is not None
        if not trace.recorded:
            with self._counting.here:
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
        instance: Any,
        arguments: Mapping[str, Any],
        parent: OpenSpan | None,
        trace: Trace | None = None,
        attributes: dict[str, Any] | None = None,
        describe: Describe | None = None,
        noted: Any = None,
    ) -> OpenSpan:
        """Open a span under `parent`, or as the root of `trace` (a new one if None).

        `arguments` are in a dict that nobody changes, and `attributes` in one that is ours to keep. `describe` replaces
        the name, and puts into words what was `noted`.
        """
        if trace is None:
            trace = self.begin_trace() if parent is None else parent.trace
        opened = OpenSpan(kind, name, instance, arguments, trace, parent, attributes, describe, noted)
        if parent is None:
            trace.local_root_bits = opened.bits
            if self._keeping is not None or self._sample_rate < 1.0 or trace.remote is not None:
                self._begin_share(opened)
        if not trace.recorded:
            return opened
        if self.content and arguments:
            opened.inputs = self._copy(arguments) if instance is None else self._frozen(arguments, parent)
        if parent is not None and parent.kind == "interaction":
            parent.mirror_start(opened)
        for place, _, hook in self._hooks[kind].start:
            self._guard.call(place, hook, opened.span, opened.call)
        return opened

    def _begin_share(self, opened: OpenSpan) -> None:
        """Have it known what share of all traces this one stands for."""
        trace = opened.trace
        if self._keeping is not None and trace.recorded:
            self._keeping.begin(opened.span_id, sampled=trace.sampled, rate=trace.sample_rate)
        elif trace.sample_rate is not None and trace.sample_rate < 1.0:
            opened.attributes = {**(opened.attributes or {}), RATE: trace.sample_rate}

    def _frozen(self, arguments: Mapping[str, Any], parent: OpenSpan | None) -> Any:
        """A call's arguments as they are now, in DSPy's own dict of them or a copy."""
        if len(arguments) > MAX_ITEMS:
            return self._copy(arguments)
        frozen: dict[str, Any] | None = None
        for name, value in arguments.items():
            kind = type(value)
            if kind is str or value is None or kind is dspy_compat.SIGNATURE:
                continue
            if frozen is None:
                frozen = {**arguments}
            # An LM is asked with the messages that an adapter has just written, and that were copied then.
            written = parent.prompt if name == "messages" and parent is not None else None
            is_known = written is not None and written[0] is value and written[1] == value
            frozen[name] = written[1] if written is not None and is_known else self._copy(value)
        return arguments if frozen is None else frozen

    def end(
        self, opened: OpenSpan, outputs: Any = None, exception: BaseException | None = None, *, inputs: Any = None
    ) -> None:
        """Note how a call ended, ask those extractors that have to see it live, and hand it over.

        The rest is for `complete`, on another thread. A second end of the same span does nothing. `inputs` replaces
        what was there when the span started.
        """
        if opened.ended_ns is not None:
            return
        opened.ended_ns = time.perf_counter_ns()
        if opened.record is not None:
            opened.record.close()
        if opened.overrides is not None:
            opened.deactivate()
        if opened.forks != processes.forks:
            return  # it began before this process was forked: it is the parent's to tell of
        if opened.kind not in _WITHOUT_PREDICTIONS and dspy_compat.is_prediction(outputs):
            remember_event(outputs, opened.trace)
        if not opened.trace.recorded and not opened.is_kept:
            if opened.trace.counted and (opened.kind == "lm" or opened.below):
                self._count_only(opened, outputs, exception)
            return
        kind, parent = opened.kind, opened.parent
        if self.content:
            if outputs is not None:
                opened.outputs = self._copy(outputs)
            if inputs is not None:
                opened.inputs = self._copy(inputs)
        if exception is not None:
            opened.error = span_error(exception, content=self.content)
        if opened.instance is None:  # a span of the program's own: its attributes are the program's objects
            span = opened.span
            span.attributes = self._copy(span.attributes) or {}
            if self.content and kind != "interaction" and span.inputs is not opened.inputs:
                opened.inputs = self._copy(span.inputs)
            self._ask(opened, self._hooks[kind].end, outputs, exception)
            opened.is_asked = True
        elif at_once := self._hooks[kind].at_once:
            self._ask(opened, at_once, outputs, exception)
        if parent is not None:
            if parent.kind == "interaction":
                parent.mirror_end(opened)
            elif kind == "adapter_format":
                parent.prompt = (outputs, opened.outputs)
        arguments = opened.arguments
        opened.arguments, opened.live_call = NO_ARGUMENTS, None  # the program's own objects
        if kind == "lm" or (opened.below and (parent is not None or opened.trace.ledgers)):
            self._count(opened)  # from here on another thread may complete it
        if opened.example_of is None and not self.listeners:
            if not self._deliver(opened) and opened.part is not None:
                self.complete(opened)  # nobody else will, and what it weighs would stay until its parent ends
            return
        span = self.complete(opened)
        if opened.example_of is None or not opened.example_of.hold(span, arguments, outputs):
            self.hand_over(span)

    def complete(self, opened: OpenSpan) -> Span:
        """The span of an ended call with all that is known of it; on any thread, as a rule the intake thread."""
        with self._completing.here:
            if not opened.is_complete:
                opened.is_complete = True
                self._guard.call("tracer: completing a span", self._complete, opened)
                if opened.part is not None and opened.part.opened is not None:
                    opened.part.fill(Totals(calls=1, without_usage=1, without_cost=1))
                opened.forget()
        return opened.span

    def _complete(self, opened: OpenSpan) -> None:
        _fill(opened)
        hooks = self._hooks[opened.kind].later
        if hooks and not opened.is_asked:
            call = Call(opened.kind, opened.instance, opened.inputs or {}, opened.outputs)
            self._extract(hooks, opened, call, opened.span)
        self._add_up(opened.span, opened)

    def _ask(self, opened: OpenSpan, hooks: Sequence[Hook], outputs: Any, exception: BaseException | None) -> None:
        """Ask extractors while the call is live."""
        call = opened.live_call or opened.call
        call.outputs, call.exception = outputs, exception
        sees_span = self._hooks[opened.kind].sees_span
        if sees_span:
            _fill(opened)
        self._extract(hooks, opened, call, opened.span if sees_span else None)

    def hand_over(self, span: Span) -> None:
        """Pass a finished span on to delivery, and to whoever listens."""
        self._deliver(span)
        for listener in self.listeners:
            listener(span)

    def _count(self, opened: OpenSpan) -> None:
        """Give this span's sums their place in those of its parent and of its interactions."""
        opened.part, parent = Part(opened), opened.parent
        if parent is not None and parent.ended_ns is None:
            if parent.below is None:
                with self._counting.here:  # several threads may be here
                    if parent.below is None:
                        parent.below = []
            parent.below.append(opened.part)
        if opened.kind == "lm" and opened.trace.ledgers:
            budgets.charge(opened, opened.part)

    def _count_only(self, opened: OpenSpan, outputs: Any, exception: BaseException | None) -> None:
        """Tokens and cost alone, of a call whose span goes nowhere."""
        if exception is not None:
            opened.error = SpanError(type(exception).__name__, None, None)
        if opened.kind == "lm":
            self._ask(opened, self._hooks["lm"].end, outputs, exception)
        opened.is_asked = True
        self._count(opened)
        self.complete(opened)

    def release(self, opened: OpenSpan) -> None:
        """Take back what a call has changed in DSPy's settings of its context."""
        if opened.record is not None:
            opened.record.close()
        opened.deactivate()

    def _extract(self, hooks: Sequence[Hook], opened: OpenSpan, call: Call, span: Span | None) -> None:
        if (record := opened.record) is not None:
            call.history, call.lm_usage, call.streamed = record.history, record.lm_usage, record.streamed
        for place, name, hook in hooks:
            found = self._guard.call(place, hook, span, call)
            if found is not None:
                for refusal in self._guard.call(place, facts.apply, opened.span, found, name) or ():
                    self._guard.refuse(place, refusal)

    def _add_up(self, span: Span, opened: OpenSpan) -> None:
        """Hand the tokens and cost of this span's LM calls on to its parent."""
        below, totals = [], None
        for part in opened.below or ():
            if part.opened is not None:  # it ended, and still waits for the intake thread
                self.complete(part.opened)
            if part.totals is not None:
                below.append(part.totals)
        if opened.kind == "lm" and not (span.usage is None and below):
            totals = Totals.of_call(span)  # what an LM says of itself covers the LMs that it calls
        elif below:
            totals = Totals.sum(below)
            totals.apply(span)
        if opened.part is not None:
            opened.part.fill(totals)


def _fill(opened: OpenSpan) -> None:
    """Put the outcome of a call into its span."""
    span = opened.span
    if opened.ended_ns is not None:
        span.end_ns = span.start_ns + opened.ended_ns - opened.started_ns
    span.inputs, span.outputs, span.error = opened.inputs, opened.outputs, opened.error
    if opened.record is not None and opened.record.first_chunk_ns is not None:
        span.time_to_first_token_s = (opened.record.first_chunk_ns - opened.started_ns) / 1e9
