"""Where each span belongs in Opik: in its own trace, or under what the program has open there itself."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from spanhook import Span
from spanhook_backends.bounded import Bounded
from spanhook_backends.opik import sdk
from spanhook_backends.opik.ids import remote_trace_uuid, span_uuid, trace_id_of, trace_uuid

MAX_OPEN = 50_000  # spans that run; one that is dropped on its way never comes to be forgotten
MAX_EVENTS = 10_000  # events whose id does not name their trace
MAX_TRACES = 10_000  # that run

SHOW_AFTER_S = 2.0  # the SDK's own batches are as old

MARK = "spanhook_span"  # in the metadata of what Spanhook itself has put into Opik's context
_TRACE_ONLY = -1


@dataclass(slots=True, frozen=True)
class Place:
    """A span's place in Opik, by Opik's ids.

    Attributes:
        trace_id: the trace.
        parent_id: the span above; None at the top of the trace.
        is_trace: whether this span's facts are the trace's own.
        project: the project of the open trace that it joins, or of `opik.project_context`; None: the backend's.
        outer_id: what of the program's own was open in Opik when the span started.
    """

    trace_id: str
    parent_id: str | None = None
    is_trace: bool = False
    project: str | None = None
    outer_id: str | None = None


@dataclass(slots=True)
class Running:
    """What may be told of a trace while its root runs: names and ids of the program's are redacted with its end.

    Attributes:
        kind: of the root.
        start_ns: Unix time.
        place: the root's.
        has_spans: whether Opik has got spans of it.
    """

    kind: str
    start_ns: int
    place: Place
    has_spans: bool = False


def needs_span(span: Span) -> bool:
    """Whether a span is one in Opik too: a root is the trace there, with a span for what a trace can't hold."""
    return not span.is_local_root or span.kind in ("lm", "tool")


def _remote(span: Span) -> Place:
    """The place of a local root whose trace began elsewhere.

    Where a caller of ours has begun the interaction, the trace in Opik is the caller's to tell of. The span above can't
    be named: Opik's id of it needs the time of its start, which only the caller knows.
    """
    trace_id = remote_trace_uuid(span.trace_id, span.event_id, span.start_ns)
    if span.event_is_remote and trace_id is not None:
        return Place(trace_id)
    own = trace_id_of(span.event_id) or span_uuid(span.span_id, span.start_ns)
    return Place(own, is_trace=True)


class Places:
    """Notes on a call's own thread what only that thread knows, for the backend's thread.

    That is Opik's context, and when the spans above have started: it is part of their ids. Thread-safe; what was noted
    of a span is forgotten when it is taken, or when too many others came after it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts: Bounded[int] = Bounded(MAX_OPEN)
        self._special: Bounded[Place] = Bounded(MAX_OPEN)  # only of spans that Spanhook's tree alone doesn't place
        self._events: Bounded[Place] = Bounded(MAX_EVENTS)
        self._running: Bounded[Running] = Bounded(MAX_TRACES)

    def reset_after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held the lock, and its traces are its to show."""
        self._lock = threading.Lock()
        self._running.clear()

    def note(self, span: Span) -> None:
        """A span starts, on its call's thread."""
        is_root, parent_id = span.is_local_root, span.parent_id
        special = self._joined(span) or (_remote(span) if is_root and parent_id is not None else None)
        with self._lock:
            if special is None and not is_root and (above := self._special.get(parent_id or "")) is not None:
                special = self._under(span, above)
            if special is None and is_root and (project := sdk.get_context_project_name()) is not None:
                special = Place(trace_uuid(span.trace_id), is_trace=True, project=project)
            if special is not None:
                self._special.put(span.span_id, special)
            trace_only = (special is None or special.is_trace) and not needs_span(span)
            self._starts.put(span.span_id, _TRACE_ONLY if trace_only else span.start_ns)
            self._note_event(span, special)
            if is_root and (special is None or special.is_trace):
                place = special or Place(trace_uuid(span.trace_id), is_trace=True)
                self._running.put(span.local_trace_key, Running(span.kind, span.start_ns, place))

    def place(self, span: Span) -> Place:
        """Where a noted span belongs."""
        with self._lock:
            return self._special.get(span.span_id) or self._under(span, None)

    def take(self, span: Span) -> Place:
        """The same, once for a finished span: it is forgotten then. On the backend's thread, children first."""
        with self._lock:
            special = self._special.pop(span.span_id, None)
            place = special or self._under(span, None)
            self._starts.pop(span.span_id, None)
            self._note_event(span, special)  # signals have the event id as redaction has left it, and so has the span
            if place.is_trace:
                self._running.pop(span.local_trace_key, None)
            elif (running := self._running.get(span.local_trace_key)) is not None:
                running.has_spans = True
        return place

    def running(self, key: str) -> Running | None:
        """A trace that has run for a while, to be shown before it ends; None if there is none, or it was given."""
        with self._lock:
            found = self._running.get(key)
            if found is None or time.time_ns() - found.start_ns < SHOW_AFTER_S * 1e9:
                return None
            return self._running.pop(key)

    def without_trace(self) -> list[Running]:
        """The running traces of which Opik has got nothing but spans; each is given once."""
        with self._lock:
            keys = [key for key, running in self._running.items() if running.has_spans]
            return [self._running.pop(key) for key in keys]

    def of_event(self, event_id: str) -> Place | None:
        """Where the interaction of this id is; None if the id says nothing and was not seen here of late."""
        with self._lock:
            place = self._events.get(event_id)
        if place is None and (trace_id := trace_id_of(event_id)) is not None:
            place = Place(trace_id)
        return place

    def _under(self, span: Span, above: Place | None) -> Place:
        """The rule for all: a root is a trace, anything else hangs under its parent, in its parent's trace."""
        if span.parent_id is None:
            return Place(trace_uuid(span.trace_id), is_trace=True)
        start_ns = self._starts.get(span.parent_id, span.start_ns)
        parent_id = None if start_ns == _TRACE_ONLY else span_uuid(span.parent_id, start_ns)
        if above is None:
            return Place(trace_uuid(span.trace_id), parent_id)
        return Place(above.trace_id, parent_id, project=above.project, outer_id=above.outer_id)

    def _joined(self, span: Span) -> Place | None:
        """The place that the program's own Opik spans give to a span; None where Spanhook's tree decides."""
        outer = sdk.top_span_data()
        if outer is not None:
            if MARK in (outer.metadata or {}):
                return None
            place = Place(outer.trace_id, outer.id, project=outer.project_name, outer_id=outer.id)
        else:
            trace = sdk.get_trace_data()
            if trace is None or MARK in (trace.metadata or {}):
                return None
            place = Place(trace.id, project=trace.project_name, outer_id=trace.id)
        if span.parent_id is not None:
            with self._lock:
                above = self._special.get(span.parent_id)
            if above is not None and above.outer_id == place.outer_id:
                return None  # its parent has seen the same: that is above the parent, too
        return place

    def _note_event(self, span: Span, special: Place | None) -> None:
        """Remember where an event is whose id doesn't lead there."""
        if special is None and span.event_id.replace("-", "") == span.trace_id:
            return
        if span.is_local_root or span.kind == "interaction":
            self._events.put(span.event_id, special or Place(trace_uuid(span.trace_id)))
