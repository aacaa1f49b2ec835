"""Spans that are running: the state of a trace, a span that is open, and which one is the innermost here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spanhook import dspy_compat
from spanhook.budgets import Ledger
from spanhook.evaluations import Examples
from spanhook.ids import is_sampled, new_trace_id, trace_id_from, uuid_of
from spanhook.span import Call, RemoteParent, Span
from spanhook.totals import Totals

REMOTE = "spanhook_remote"  # the setting in which an `Attached` stands
SETTING = "spanhook_span_"  # and the tracer's number: two tracers in one process know nothing of each other's spans


@dataclass(slots=True, eq=False)
class Trace:
    """What all spans of one trace share."""

    trace_id: str
    event_id: str
    sampled: bool
    user_id: str | None = None
    convo_id: str | None = None
    remote: RemoteParent | None = None  # the caller, of a trace that began elsewhere
    local_root_id: str | None = None
    ledgers: tuple[Ledger, ...] = ()  # of the interactions around, the outer ones first
    counted: bool = False  # whether tokens and cost are counted where the trace is not sampled
    # One pair of clock readings for the trace: its spans stay in order whatever is done to the wall clock.
    unix_ns: int = field(default_factory=time.time_ns)
    monotonic_ns: int = field(default_factory=time.perf_counter_ns)

    @classmethod
    def begin(
        cls,
        sample_rate: float,
        *,
        event_id: str | None = None,
        user_id: str | None = None,
        convo_id: str | None = None,
        remote: RemoteParent | None = None,
    ) -> Trace:
        """A new trace, or the caller's. A new one's id is the program's event id when that is a UUIDv7."""
        if remote is not None:
            # Without an id of the caller's, each local root has its own: several may share one remote trace.
            event_id = event_id or remote.event_id or uuid_of(new_trace_id())
            user_id, convo_id = user_id or remote.user_id, convo_id or remote.convo_id
            return cls(remote.trace_id, event_id, remote.sampled, user_id, convo_id, remote)
        trace_id = (event_id and trace_id_from(event_id)) or new_trace_id()
        return cls(trace_id, event_id or uuid_of(trace_id), is_sampled(trace_id, sample_rate), user_id, convo_id)


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


@dataclass(eq=False)  # no slots: what few spans need is left to the class, and costs a span nothing
class OpenSpan:
    """A call that runs: its span, the live call for plugins, and what has to be undone when it ends."""

    span: Span
    call: Call
    trace: Trace
    parent: OpenSpan | None
    started_ns: int  # monotonic
    forks: int  # of the process in which it began
    dspy_call_id: str | None = field(default=None, init=False)  # DSPy's active call when this became the innermost span
    handled: int = field(default=0, init=False)  # the id() of the exception that was being handled when the call began
    setting: str = field(default="", init=False)  # of DSPy's, in which this span stands while it is the innermost
    overrides: dspy_compat.Overrides | None = field(default=None, init=False)
    record: dspy_compat.LMRecord | None = field(default=None, init=False)
    inputs_of: bool | None = field(default=None, init=False)  # of an interaction: whether its inputs are a DSPy call's
    outputs_of: bool | None = field(default=None, init=False)
    below: list[Totals] = field(
        default_factory=list, init=False
    )  # of the spans directly under this one that have ended

    examples: Examples | None = field(default=None, init=False)  # of an evaluation: the calls that wait for its end
    example_of: Examples | None = field(default=None, init=False)  # of a program's call in an evaluation

    def mirror_start(self, child: Span, is_dspy: bool) -> None:
        """An interaction shows what its first DSPy call was given, or where it makes none, its first own span."""
        is_open = self.span.kind == "interaction" and self.span.end_ns is None
        if is_open and (self.inputs_of is None or (is_dspy and not self.inputs_of)):
            self.span.inputs, self.inputs_of = child.inputs, is_dspy

    def mirror_end(self, child: Span, is_dspy: bool) -> None:
        """And what its last DSPy call returned, or its last own span."""
        if self.span.kind == "interaction" and self.span.end_ns is None and (is_dspy or not self.outputs_of):
            self.span.outputs, self.outputs_of = child.outputs, is_dspy

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
        if around and around.span.end_ns is not None:
            dspy_compat.drop_override(self.setting)


def _nothing() -> None:
    return None


def innermost(setting: str, by_call_id: Mapping[str, OpenSpan]) -> OpenSpan | None:
    """The span that a call starting here belongs under, for the tracer with this setting and these open calls.

    A DSPy call is known by its id, a span of the program's own by the override that it left. Where both are there,
    the override is the inner one exactly if the same DSPy call is still active as when it was made.
    """
    own: OpenSpan | None = dspy_compat.override(setting)  # or an Attached, which is false
    call_id = dspy_compat.active_call_id()
    called = by_call_id.get(call_id) if call_id is not None else None
    if own is None or called is None:
        return called or own or None
    return (own if own.dspy_call_id == call_id else called) or None
