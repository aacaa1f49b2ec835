"""Finished spans on their way into a tree: they wait for the root of their trace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from spanhook import Span
from spanhook_backends.terminal.previews import slim

MAX_WAITING_SPANS = 20_000  # about 30 MB
MAX_REMEMBERED = 1_000  # traces that were shown already

State = Literal["complete", "incomplete", "late"]


@dataclass(slots=True)
class Group:
    """Spans of one trace, as far as it is in this process, that are shown together.

    `state` is "incomplete" where the root has not ended and "late" where it was shown before. `continued`: other spans
    of the trace were shown before and are not repeated here.
    """

    key: str
    trace_id: str
    state: State = "incomplete"
    continued: bool = False
    spans: list[Span] = field(default_factory=list)
    shown: int = 0  # how many of the spans have been shown while the root was still running


class Waiting:
    """Sorts spans into traces. Holds a bounded number of them, as short previews."""

    def __init__(self, max_spans: int = MAX_WAITING_SPANS) -> None:
        self._limit = max_spans
        self._count = 0
        self._groups: dict[str, Group] = {}  # oldest first
        self._shown: dict[str, State] = {}  # how the traces ended that are no longer here; oldest first

    def add(self, spans: Iterable[Span]) -> list[Group]:
        """Take a batch; returns what can be shown now: whole traces, late spans, and the oldest if too much waits."""
        ready: list[Group] = []
        late: dict[str, Group] = {}
        for span in spans:
            key = span.local_trace_key
            if self._shown.get(key) == "complete":
                late.setdefault(key, Group(key, span.trace_id, "late")).spans.append(slim(span))
                continue
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = Group(key, span.trace_id, continued=key in self._shown)
            group.spans.append(slim(span))
            self._count += 1
            if span.is_local_root:
                ready.append(self._close(group, "complete"))
            elif self._count > self._limit:
                oldest = self._close(next(iter(self._groups.values())), "incomplete")
                ready += [oldest] if oldest.shown < len(oldest.spans) else []
        return ready + list(late.values())

    @property
    def has_news(self) -> bool:
        """Whether `unfinished` has anything to show."""
        return any(group.shown < len(group.spans) for group in self._groups.values())

    def unfinished(self) -> Iterator[Group]:
        """Traces that wait for their root and have spans that were not shown yet; they go on waiting."""
        for group in self._groups.values():
            if group.shown < len(group.spans):
                group.shown = len(group.spans)
                yield group

    def _close(self, group: Group, state: State) -> Group:
        group.state = state
        del self._groups[group.key]
        self._count -= len(group.spans)
        self._shown.pop(group.key, None)
        self._shown[group.key] = state
        if len(self._shown) > MAX_REMEMBERED:
            del self._shown[next(iter(self._shown))]
        return group
