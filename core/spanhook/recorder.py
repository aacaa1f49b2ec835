"""Starting and ending spans, whatever they come from: ids, clocks, content, extractors, and on to delivery."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from spanhook import budgets, dspy_compat, facts, processes
from spanhook.active import NO_ARGUMENTS, Describe, OpenSpan
from spanhook.beginnings import Beginnings
from spanhook.delivery.keeping import Keeping
from spanhook.dspy_compat import PREDICTION, SIGNATURE, fields_of, is_prediction
from spanhook.guard import Guard
from spanhook.plugins.span_hooks import Hook, SpanHooks
from spanhook.prediction_events import remember_event
from spanhook.processes import Lock
from spanhook.snapshot import MAX_ITEMS, flat_copy, snapshot
from spanhook.span import KINDS, Call, Kind, Span, SpanError
from spanhook.totals import Part, Totals
from spanhook.tracebacks import span_error

if TYPE_CHECKING:
    from spanhook.config.settings import CompileMode, TracingSettings
    from spanhook.plugins.registration import Plugin
    from spanhook.trace import Trace

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
        self.compile_mode: CompileMode = tracing.compile
        self.adapter_spans = tracing.adapter_spans
        self.content = tracing.capture == "full"
        self.traces = Beginnings(tracing.sample_rate, plugins, guard, keeping)
        self._hooks = {kind: SpanHooks(kind, plugins) for kind in KINDS}
        self._at_start = {kind: hooks.start for kind, hooks in self._hooks.items()}
        self._at_once = {kind: hooks.at_once for kind, hooks in self._hooks.items()}
        self._later = {kind: hooks.later for kind, hooks in self._hooks.items()}
        self._told_start = {kind: hooks.told_start for kind, hooks in self._hooks.items()}
        self._told_end = {kind: hooks.told_end for kind, hooks in self._hooks.items()}
        self._completing = Lock()
        self._counting = Lock()  # not the same: what completes a span may run a plugin's code
        place, how = "copying a call's content", ((dspy_compat.plain_form,), dspy_compat.FIELDS)
        self._copy: Callable[[Any], Any] = guard.shielded(place, snapshot, *how)
        self._fields_of: Callable[[Any], Any] = guard.shielded(place, fields_of)
        self.listeners: list[Callable[[Span], None]] = []

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
            trace = self.traces.begin() if parent is None else parent.trace
        opened = OpenSpan(kind, name, instance, arguments, trace, parent, attributes, describe, noted)
        if parent is None:
            self.traces.root(opened)
        if not trace.recorded:
            return opened
        if self.content and arguments:
            opened.inputs = self._copy(arguments) if instance is None else self._frozen(arguments, parent)
        if parent is not None and parent.instance is None:
            parent.mirror_start(opened)
        for place, _, hook in self._at_start[kind]:
            self._guard.call(place, hook, opened.span, opened.call)
        if told := self._told_start[kind]:
            self._tell(told, opened)
        return opened

    def _frozen(self, arguments: Mapping[str, Any], parent: OpenSpan | None) -> Any:
        """A call's arguments as they are now, in DSPy's own dict of them or a copy."""
        if len(arguments) > MAX_ITEMS:
            return self._copy(arguments)
        frozen: dict[str, Any] | None = None
        for name, value in arguments.items():
            kind = type(value)
            if kind is str or value is None or kind is SIGNATURE:
                continue
            # An LM is asked with the messages that an adapter has just written, and that were copied then.
            if name == "messages" and parent is not None and (written := parent.prompt) is not None:
                copied = written[1] if written[0] is value and written[1] == value else self._copy(value)
            elif (copied := flat_copy(value)) is None:
                copied = self._copy(value)
            if frozen is None:
                frozen = {**arguments}
            frozen[name] = copied
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
        opened.ended_ns = perf_counter_ns()
        if opened.record is not None:
            opened.record.close(exception is not None)
        rare = opened.rare
        if rare is not None:
            opened.deactivate()
        if opened.forks != processes.forks:
            return  # it began before this process was forked: it is the parent's to tell of
        kind, parent, trace = opened.kind, opened.parent, opened.trace
        if kind not in _WITHOUT_PREDICTIONS and is_prediction(outputs):
            remember_event(outputs, trace)
        if not trace.recorded and (rare is None or not opened.is_kept):
            if trace.counted and (kind == "lm" or opened.below):
                self._count_only(opened, outputs, exception)
            return
        if self.content:
            if outputs is not None:
                fields = self._fields_of(outputs) if type(outputs) is PREDICTION else outputs
                copied = flat_copy(fields)
                opened.outputs = copied if copied is not None else self._copy(fields)
            if inputs is not None:
                opened.inputs = self._copy(inputs)
        else:
            opened.put_into_words()  # while that with which it was called is there
        if exception is not None:
            opened.error = span_error(exception, content=self.content)
        if opened.instance is None:
            self._ask_for_own(opened, outputs, exception)
        elif at_once := self._at_once[kind]:
            self._ask(opened, at_once, outputs, exception)
        if told := self._told_end[kind]:
            self._tell(told, opened)
        if parent is not None:
            if parent.instance is None:
                parent.mirror_end(opened)
            elif kind == "adapter_format":
                parent.prompt = (outputs, opened.outputs)
        arguments = opened.arguments
        # The program's own objects: how long they live is its business, and on which thread that ends.
        opened.arguments, opened.live_call = NO_ARGUMENTS, None
        if kind != "lm" and not self._later[kind]:
            opened.instance = None
        if kind == "lm" or (opened.below and (parent is not None or trace.ledgers)):
            self._count(opened)  # from here on another thread may complete it
        if self.listeners or (rare is not None and opened.example_of is not None):
            span = self.complete(opened)
            if opened.example_of is None or not opened.example_of.hold(span, arguments, outputs):
                self.hand_over(span)
        elif not self._deliver(opened) and opened.part is not None:
            self.complete(opened)  # nobody else will, and what it weighs would stay until its parent ends

    def _tell(self, hooks: Sequence[Hook], opened: OpenSpan) -> None:
        """Call those that look at the ids alone."""
        for place, _, hook in hooks:
            if self._guard.call(place, hook, opened, None) is not None:
                self._guard.refuse(place, "returned facts, which a plugin with only_ids = True can't have")

    def _ask_for_own(self, opened: OpenSpan, outputs: Any, exception: BaseException | None) -> None:
        """Ask extractors about a span of the program's own, whose attributes are the program's objects."""
        span = opened.span
        span.attributes = self._copy(span.attributes) or {}
        for refusal in facts.refuse_wrong(span):
            self._guard.refuse("tracer: a span of the program's own", refusal)
        if self.content and opened.kind != "interaction" and span.inputs is not opened.inputs:
            opened.inputs = self._copy(span.inputs)
        self._ask(opened, self._hooks[opened.kind].end, outputs, exception)
        opened.is_asked = True

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
        if (call := opened.live_call) is None:
            opened.put_into_words()
            call = Call(opened.kind, opened.instance, opened.arguments, outputs, exception)
        else:
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
