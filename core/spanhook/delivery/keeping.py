"""`[tracing] keep`: which traces go out although `sample_rate` has not chosen them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from spanhook.delivery.items import Item
from spanhook.delivery.sizes import size_of
from spanhook.processes import Lock
from spanhook.span import Span

MAX_TRACES = 10_000  # that run, or whose local root was lost on its way
MAX_REMEMBERED = 10_000  # traces that were left out, for spans that end after their root

RATE = "sample_rate"  # the attribute of a local root; its part of the totals is one in so many
LEFT_OUT = "spans_left_out"

_RULE = re.compile(r"error|slow:([0-9]+(?:\.[0-9]+)?)(ms|s|m)|cost:([0-9]+(?:\.[0-9]+)?)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}


class Rule(NamedTuple):
    """What a trace is kept for: an error anywhere in it, its root's duration in seconds, or its cost in dollars."""

    kind: Literal["error", "slow", "cost"]
    least: float = 0.0


def rule_of(text: str) -> Rule:
    """A rule as `tracing.toml` has it.

    Raises:
        ValueError: it is none.
    """
    found = _RULE.fullmatch(text)
    if found is None:
        raise ValueError('must be "error", "slow:5s" (a number of ms, s or m) or "cost:0.10" (in US dollars)')
    if found[1] is not None:
        return Rule("slow", float(found[1]) * _SECONDS[found[2]])
    return Rule("cost", float(found[3])) if found[3] is not None else Rule("error")


@dataclass(slots=True, eq=False)
class _Trace:
    """What is known of a trace whose local root has not ended."""

    sampled: bool
    rate: float | None
    spans: list[Span] = field(default_factory=list)
    size: int = 0  # of these, in bytes
    left_out: int = 0
    has_error: bool = False
    costs: dict[str | None, float] = field(default_factory=dict)  # of LM calls, by the span above

    def add(self, span: Span) -> None:
        """Take in an ended span."""
        self.has_error = self.has_error or span.error is not None
        if span.kind == "lm":
            below = self.costs.pop(span.span_id, 0.0)  # what an LM says of itself covers the LMs that it calls
            cost = below if span.cost_usd is None else span.cost_usd
            self.costs[span.parent_id] = self.costs.get(span.parent_id, 0.0) + cost

    def matches(self, rules: Iterable[Rule], root: Span | None) -> bool:
        """Whether it has to be kept. A cost that is not known of every call counts with what is known."""
        duration = root.duration_s if root is not None else None
        cost = root.cost_usd if root is not None else None
        known = {
            "error": 0.0 if self.has_error else None,
            "slow": duration,
            "cost": sum(self.costs.values()) if cost is None else cost,
        }
        return any((value := known[rule.kind]) is not None and value >= rule.least for rule in rules)


class Keeping:
    """Holds the spans of traces that are not in the sample until their local root ends, and decides then.

    `complete` makes spans of what comes. `begin` runs on the program's threads, all else on the intake thread. Bounded:
    beyond `max_spans` or `max_bytes` the oldest trace loses the spans that it holds; its root still decides, and says
    how many are missing if it is kept.
    """

    def __init__(
        self, rules: Sequence[str], max_spans: int, max_bytes: int, complete: Callable[[Any], Item] = lambda item: item
    ) -> None:
        self._rules = [rule_of(text) for text in rules]
        self._max_spans, self._max_bytes = max_spans, max_bytes
        self._complete = complete
        self._lock = Lock()
        self._traces: dict[str, _Trace] = {}  # by local root, oldest first
        self._dropped: dict[str, None] = {}
        self._held = self._held_bytes = 0
        self.sampled_out = 0
        self._lost = 0

    def begin(self, root_id: str, *, sampled: bool, rate: float | None) -> None:
        """A local root starts."""
        with self._lock.here:
            self._traces[root_id] = _Trace(sampled, rate)

    def take(self, item: Any) -> Sequence[Item]:
        """What can go out now that this has come; of a span that has ended: itself, a whole trace, or nothing."""
        span = self._complete(item)
        if not isinstance(span, Span):
            return (span,)
        key = span.local_trace_key
        trace = self._traces.get(key)
        if trace is None:
            return () if key in self._dropped else (span,)
        trace.add(span)
        if span.is_local_root:
            return [*self._decide(key, span), *self._make_room()]
        if trace.sampled:
            return (span,)
        size = size_of(span)
        trace.spans.append(span)
        trace.size += size
        self._held, self._held_bytes = self._held + 1, self._held_bytes + size
        return self._make_room()

    def close(self) -> Sequence[Span]:
        """The traces that still run are decided by what is known of them."""
        return [span for key in list(self._traces) for span in self._decide(key, None)]

    def reset(self) -> None:
        """In a forked child: what is held is the parent's. What is known stays, for calls that go on here."""
        for trace in self._traces.values():
            trace.spans, trace.size = [], 0
        self._held = self._held_bytes = self.sampled_out = self._lost = 0

    def take_lost(self) -> int:
        """How many spans of traces that were kept are missing for lack of room, since it was asked last."""
        lost, self._lost = self._lost, 0
        return lost

    def _decide(self, key: str, root: Span | None) -> Sequence[Span]:
        with self._lock.here:
            trace = self._traces.pop(key)
        self._held, self._held_bytes = self._held - len(trace.spans), self._held_bytes - trace.size
        is_kept = trace.matches(self._rules, root)
        if root is not None:
            rate = 1.0 if is_kept else trace.rate
            if rate is not None and not (trace.sampled and trace.rate == 1.0):
                root.attributes[RATE] = rate
        if not is_kept and not trace.sampled:
            self.sampled_out += 1
            self._dropped[key] = None
            if len(self._dropped) > MAX_REMEMBERED:
                del self._dropped[next(iter(self._dropped))]
            return ()
        self._lost += trace.left_out
        if root is not None and trace.left_out:
            root.attributes[LEFT_OUT] = trace.left_out
        return [*trace.spans, root] if root is not None else trace.spans

    def _is_full(self) -> bool:
        return self._held > self._max_spans or self._held_bytes > self._max_bytes

    def _make_room(self) -> Sequence[Span]:
        """Let go of spans of the oldest traces, or, if too many run, of the oldest traces themselves."""
        for trace in list(self._traces.values()) if self._is_full() else ():
            self._held, self._held_bytes = self._held - len(trace.spans), self._held_bytes - trace.size
            trace.left_out += len(trace.spans)
            trace.spans, trace.size = [], 0
            if not self._is_full():
                break
        out: list[Span] = []
        while len(self._traces) > MAX_TRACES:
            out += self._decide(next(iter(self._traces)), None)
        return out
