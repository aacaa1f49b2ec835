"""Spans that are running: the state of a trace, a span that is open, and which one is the innermost here."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spanhook import dspy_compat, processes
from spanhook.budgets import Ledger
from spanhook.evaluations import Examples
from spanhook.ids import SPAN_BITS, TRACE_BITS, is_sampled, random_bits, span_id_of, trace_id_from, trace_id_of, uuid_of
from spanhook.lm_record import LMRecord
from spanhook.processes import Lock
from spanhook.span import Call, Kind, RemoteParent, Span, SpanError
from spanhook.totals import Part

if TYPE_CHECKING:
    from spanhook.compilations import Compilation

REMOTE = "spanhook_remote"  # the setting in which an `Attached` stands
SETTING = "spanhook_span_"  # and the tracer's number: two tracers in one process know nothing of each other's spans


Describe = Callable[["OpenSpan"], None]
"""Puts into words what a call's thread has only noted; on whichever thread someone looks at it first."""

NO_ARGUMENTS: Mapping[str, Any] = {}
_making = Lock()


@dataclass(slots=True, eq=False)
class Trace:
    """What all spans of one trace share. Its ids are written out when someone reads them."""

    # One pair of clock readings for the trace: its spans stay in order whatever is done to the wall clock.
    unix_ns: int
    monotonic_ns: int
    bits: int  # random ones, of its id
    sampled: bool = True
    user_id: str | None = None
    convo_id: str | None = None
    remote: RemoteParent | None = None  # the caller, of a trace that began elsewhere
    # By which it was chosen; None where a caller chose and doesn't say.
    sample_rate: float | None = None
    recorded: bool = True  # False: nothing of it can go out
    local_root_bits: int | None = None  # of the id of its first span in this process
    ledgers: tuple[Ledger, ...] = ()  # of the interactions around, the outer ones first
    counted: bool = False  # whether tokens and cost are counted where it is not sampled
    known_trace_id: str | None = None
    known_event_id: str | None = None
    known_local_root_id: str | None = None

    @classmethod
    def begin(
        cls,
        sample_rate: float,
        event_id: str | None = None,
        user_id: str | None = None,
        convo_id: str | None = None,
        remote: RemoteParent | None = None,
    ) -> Trace:
        """A new trace, or the caller's. A new one's id is the program's event id when that is a UUIDv7."""
        trace = cls(time.time_ns(), time.perf_counter_ns(), random_bits(TRACE_BITS))
        if remote is not None:
            # Without an id of the caller's, each local root has its own: several may share one remote trace.
            trace.known_event_id = event_id or remote.event_id or trace.event_id
            trace.known_trace_id, trace.sampled = remote.trace_id, remote.sampled
            trace.user_id, trace.convo_id = user_id or remote.user_id, convo_id or remote.convo_id
            trace.remote, trace.sample_rate = remote, remote.sample_rate
            return trace
        trace.sample_rate = sample_rate
        if event_id is not None or user_id is not None or convo_id is not None:
            trace.user_id, trace.convo_id = user_id, convo_id
            trace.known_event_id, trace.known_trace_id = event_id, event_id and trace_id_from(event_id)
        if sample_rate < 1.0:
            trace.sampled = is_sampled(trace.trace_id, sample_rate)
        return trace

    def within(self, event_id: str | None, user_id: str | None, convo_id: str | None) -> Trace:
        """The same trace for an interaction inside of it, with what that knows better."""
        inner = copy.copy(self)
        inner.known_event_id = event_id or self.event_id
        inner.user_id, inner.convo_id = user_id or self.user_id, convo_id or self.convo_id
        return inner

    @property
    def trace_id(self) -> str:
        """32 hex digits, a UUIDv7 unless it began elsewhere."""
        if self.known_trace_id is None:
            self.known_trace_id = trace_id_of(self.unix_ns, self.bits)
        return self.known_trace_id

    @property
    def event_id(self) -> str:
        """The trace id as a UUID unless the caller chose one."""
        if self.known_event_id is None:
            self.known_event_id = uuid_of(self.trace_id)
        return self.known_event_id

    @property
    def local_root_id(self) -> str | None:
        """The span id of its first span in this process."""
        if self.known_local_root_id is None and self.local_root_bits is not None:
            self.known_local_root_id = span_id_of(self.local_root_bits)
        return self.known_local_root_id


class Attached:
    """Stands in DSPy's settings while a caller's trace goes on: for all tracers, and in place of spans outside of it.

    It is false where a span is asked for: what starts inside is a root here.
    """

    __slots__ = ("dspy_call_id", "remote")

    def __init__(self, remote: RemoteParent, dspy_call_id: str | None) -> None:
        self.remote = remote
        self.dspy_call_id = dspy_call_id

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()


class OpenSpan:
    """A call, as its thread notes it down: ids, clocks, references, a copy of its content.

    `span` and `call` are made of that when someone looks at them, as a rule after the call on Spanhook's own thread.
    """

    __slots__ = (
        "_span", "arguments", "attributes", "below", "bits", "compilation", "describe", "dspy_call_id",
        "ended_ns", "error", "example_of", "examples", "forks", "handled", "inputs", "inputs_of", "instance",
        "is_asked", "is_complete", "is_kept", "kind", "live_call", "model", "name", "noted", "outputs", "outputs_of",
        "overrides", "parent", "part", "prompt", "provider", "record", "setting", "started_ns", "trace",
    )  # fmt: skip

    def __init__(
        self,
        kind: Kind,
        name: str,
        instance: Any,
        arguments: Mapping[str, Any],
        trace: Trace,
        parent: OpenSpan | None,
        attributes: dict[str, Any] | None = None,
        describe: Describe | None = None,
        noted: Any = None,
    ) -> None:
        self.kind: Kind = kind
        self.name = name  # empty where `describe` gives it
        self.instance = instance  # None for spans of the program's own
        self.arguments = arguments  # live
        self.trace = trace
        self.parent = parent
        self.forks = processes.forks  # of the process in which it began
        self.bits = random_bits(SPAN_BITS)  # of its id
        self.below: list[Part] | None = None  # sums of the spans directly under this one
        self.inputs: Any = None  # copies
        self.outputs: Any = None
        self.error: SpanError | None = None
        self.model: str | None = None
        self.provider: str | None = None
        self.attributes = attributes
        self.describe = describe
        self.noted = noted  # for it
        self.record: LMRecord | None = None
        self.prompt: tuple[Any, Any] | None = None  # what an adapter wrote last in it, and the copy
        self.part: Part | None = None  # what the parent counts of this one
        self.is_asked = False  # whether all extractors were
        self.is_complete = False  # whether `span` has all that will be known
        self.is_kept = False  # whether it goes out though its trace, as it is below it, does not
        self.dspy_call_id: str | None = None  # DSPy's active call when this became the innermost span
        self.handled = 0  # the id() of the exception that was being handled when the call began
        self.setting = ""  # of DSPy's, in which this span stands while it is the innermost
        self.overrides: dspy_compat.Overrides | None = None
        self.inputs_of: bool | None = None  # of an interaction: whether its inputs are a DSPy call's
        self.outputs_of: bool | None = None
        self.examples: Examples | None = None  # of an evaluation
        self.example_of: Examples | None = None  # the evaluation of which this may be an example
        self.compilation: Compilation | None = None
        self._span: Span | None = None
        self.live_call: Call | None = None
        self.ended_ns: int | None = None  # monotonic; None while it runs
        self.started_ns = time.perf_counter_ns()  # monotonic

    @property
    def span_id(self) -> str:
        """16 hex digits."""
        return span_id_of(self.bits)

    @property
    def span(self) -> Span:
        """Its span: one object, on whichever thread it is asked for first."""
        if self._span is None:
            with _making.here:  # two threads may be here
                if self._span is None:
                    self._span = self._make()
        return self._span

    def _make(self) -> Span:
        self.put_into_words()
        trace, parent = self.trace, self.parent
        trace_id, root_id = trace.trace_id, trace.local_root_id
        span_id = root_id if self.bits == trace.local_root_bits and root_id is not None else self.span_id
        parent_id = None
        if parent is not None:
            parent_id = root_id if parent.bits == trace.local_root_bits else parent.span_id
        start_ns = trace.unix_ns + self.started_ns - trace.monotonic_ns
        span = Span(trace_id, span_id, parent_id, trace.event_id, self.kind, self.name, start_ns)
        span.inputs, span.model, span.provider = self.inputs, self.model, self.provider
        span.user_id, span.convo_id, span.local_root_id = trace.user_id, trace.convo_id, root_id
        if self.attributes is not None:
            span.attributes = self.attributes
        if parent is None and trace.remote is not None:
            span.parent_id = trace.remote.span_id
            span.event_is_remote = trace.event_id == trace.remote.event_id
        return span

    def put_into_words(self) -> None:
        """Have `name`, `inputs` and all else as the span shows it."""
        describe, self.describe = self.describe, None
        if describe is not None:
            describe(self)

    @property
    def call(self) -> Call:
        """The live call, for plugins on its thread."""
        if self.live_call is None:
            if self.describe is not None:
                self.put_into_words()
            self.live_call = Call(self.kind, self.instance, self.arguments)
        return self.live_call

    def mirror_start(self, child: OpenSpan) -> None:
        """An interaction shows what its first DSPy call was given, or where it makes none, its first own span."""
        child.put_into_words()
        is_dspy = child.instance is not None
        if self.ended_ns is None and (self.inputs_of is None or (is_dspy and not self.inputs_of)):
            self.inputs, self.inputs_of = child.inputs, is_dspy

    def mirror_end(self, child: OpenSpan) -> None:
        """And what its last DSPy call returned, or its last own span."""
        is_dspy = child.instance is not None
        if self.ended_ns is None and (is_dspy or not self.outputs_of):
            self.outputs, self.outputs_of = child.outputs, is_dspy

    def forget(self) -> None:
        """Let go of the program's objects, and of what the span has."""
        if self.record is not None:
            self.record.forget()
        self.arguments, self.live_call = NO_ARGUMENTS, None
        self.instance = self.parent = self.record = self.prompt = self.noted = None
        self.inputs = self.outputs = self.attributes = self.error = None
        self.below = None

    def __reduce__(self) -> tuple[Any, ...]:
        # It stands in DSPy's settings, which a program may pickle or copy; an open span means nothing elsewhere.
        return _nothing, ()

    def activate(self, setting: str, dspy_call_id: str | None, **settings: Any) -> None:
        """Make this the innermost span of the current context, and of the threads that DSPy starts from it."""
        self.setting, self.dspy_call_id = setting, dspy_call_id
        self.overrides = dspy_compat.Overrides(**{setting: self}, **settings)

    def deactivate(self) -> None:
        """Take that back. Where blocks end in another order than they began, leave no ended span in their place."""
        if self.overrides is None:
            return
        self.overrides.undo()
        around: OpenSpan | None = dspy_compat.override(self.setting)
        if around and around.ended_ns is not None:
            dspy_compat.drop_override(self.setting)


def _nothing() -> None:
    return None


def inner(own: OpenSpan | Attached, called: OpenSpan | None, call_id: str | None) -> OpenSpan | None:
    """Which of these is inside of the other: a span of the program's own, by the override that it left, or a DSPy call.

    The override is the inner one exactly if the same DSPy call is still active as when it was made.

    Args:
        own: what stands in the override; an `Attached` is no span.
        called: the active DSPy call, if it is traced.
        call_id: its id.
    """
    if called is not None and own.dspy_call_id != call_id:
        return called
    return own if isinstance(own, OpenSpan) else None
