"""What an event needs to know of its trace, gathered from the spans as they come, until the root has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from spanhook import Span, Usage

MAX_HELD = 100_000  # spans of running traces that something is kept of
MAX_HELD_CALLS = 2_000  # LM and tool spans that wait, with their content, for the root of their trace
MAX_ENDED = 10_000  # traces that are remembered after their end

CALL_KINDS = ("lm", "tool")


class TracedCall(NamedTuple):
    """An LM or tool span, and of those that it ran in the innermost, as far as it has ended."""

    span: Span
    parent_id: str | None
    event: str | None = None  # the interaction's name, where it is known


@dataclass(eq=False)
class Gathered:
    """What is gathered for an event from its spans. `root` is None as long as that runs."""

    root: Span | None = None
    outermost: Span | None = None  # above the span that ended first
    latest: Span | None = None
    first_lm: Span | None = None  # that began
    last_lm: Span | None = None  # that ended
    models: dict[str, None] = field(default_factory=dict)
    lm_calls: int = 0
    cache_hits: int = 0
    usages: list[tuple[str | None, Usage]] = field(default_factory=list)  # by parent, of spans that are no LM's

    def add(self, span: Span, *, is_root: bool) -> None:
        """Take in a span that has ended."""
        if is_root:
            self.root = span
        if self.outermost is None or span.span_id == self.outermost.parent_id:
            self.outermost = span
        if span.kind not in ("adapter_format", "adapter_parse"):
            self.latest = span
        if span.kind == "lm":
            self.lm_calls += 1
            self.cache_hits += span.cache_hit is True
            if span.model is not None:
                self.models[span.model] = None
            if self.first_lm is None or span.start_ns < self.first_lm.start_ns:
                self.first_lm = span
            if self.last_lm is None or (span.end_ns or 0) >= (self.last_lm.end_ns or 0):
                self.last_lm = span
        elif span.usage is not None:
            self.usages.append((span.parent_id, span.usage))

    def usage(self) -> Usage | None:
        """The tokens of it all; None unless they are known of every call."""
        if self.root is None:
            return None
        if self.root.usage is not None or self.lm_calls:
            return self.root.usage
        # No LM ran as far as DSPy knows: what the calls in the interaction say of themselves.
        below = Usage.sum(usage for parent, usage in self.usages if parent == self.root.span_id)
        return below or None


@dataclass(eq=False)
class Trace(Gathered):
    """A trace, as far as it is in this process; an event of it, too, has each interaction with an id of its own."""

    parents: dict[str, str | None] = field(default_factory=dict)
    calls: list[Span] = field(default_factory=list)
    call_ids: set[str] = field(default_factory=set)
    by_event: dict[str, Gathered] = field(default_factory=dict)  # by the ids that are not the trace's

    def take_in(self, span: Span, *, keep_calls: bool) -> None:
        """Take in a span that has ended."""
        self.add(span, is_root=span.is_local_root)
        if span.event_id.replace("-", "") != span.trace_id:
            # The outermost interaction of an id ends last, and is the one that stays.
            self.by_event.setdefault(span.event_id, Gathered()).add(span, is_root=span.kind == "interaction")
        self.parents[span.span_id] = span.parent_id
        if keep_calls and span.kind in CALL_KINDS:
            self.calls.append(span)
            self.call_ids.add(span.span_id)

    def events(self) -> dict[str, Gathered]:
        """What there are events of, by their ids: the whole first."""
        first = self.root or self.outermost
        if first is None:
            return {}
        inner = {event_id: found for event_id, found in self.by_event.items() if found.root is not None}
        return {first.event_id: self, **{k: v for k, v in inner.items() if k != first.event_id}}

    def take_calls(self, event_names: Mapping[str, str]) -> list[TracedCall]:
        """The LM and tool spans that wait; they wait no longer. The names are by event id, as far as they are known."""
        taken, self.calls = self.calls, []
        return [TracedCall(span, self._call_above(span), event_names.get(span.event_id)) for span in taken]

    def _call_above(self, span: Span) -> str | None:
        above = span.parent_id
        while above is not None and above not in self.call_ids:
            above = self.parents.get(above)
        return above


class Traces:
    """The running traces. Bounded: when too much is kept, the oldest one counts as ended.

    Args:
        keep_calls: whether LM and tool spans are to be had as a whole.
    """

    def __init__(self, *, keep_calls: bool) -> None:
        self._keep_calls = keep_calls
        self._running: dict[str, Trace] = {}
        self._ended: dict[str, None] = {}
        self._held = 0
        self._late: list[Span] = []

    def add(self, spans: Sequence[Span]) -> list[Trace]:
        """Take in spans; returns the traces that ended with them. One without a root ended for lack of room."""
        done: list[Trace] = []
        for span in spans:
            key = span.local_trace_key
            trace = self._running.get(key)
            if trace is None:
                if key in self._ended:  # its event is on its way already
                    if self._keep_calls and span.kind in CALL_KINDS:
                        self._late.append(span)
                    continue
                trace = self._running[key] = Trace()
            trace.take_in(span, keep_calls=self._keep_calls)
            self._held += 1
            if span.is_local_root:
                done.append(self._end(key))
        while self._held > MAX_HELD:
            done.append(self._end(next(iter(self._running))))
        return done

    def take_calls(self) -> list[TracedCall]:
        """The LM and tool spans that came after the end of their trace or that wait for it; they wait no longer."""
        late, self._late = self._late, []
        calls = [TracedCall(span, None) for span in late]
        for trace in self._running.values():
            calls += trace.take_calls({})
        return calls

    def has_late_or_many_calls(self) -> bool:
        """Whether LM or tool spans came after the end of their trace, or too many wait for it."""
        return bool(self._late) or sum(len(trace.calls) for trace in self._running.values()) > MAX_HELD_CALLS

    def end_all(self) -> list[Trace]:
        """The traces that run, as they are now: their roots will not come any more."""
        return [self._end(key) for key in list(self._running)]

    def _end(self, key: str) -> Trace:
        trace = self._running.pop(key)
        self._held -= len(trace.parents)
        self._ended[key] = None
        if len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]
        return trace
