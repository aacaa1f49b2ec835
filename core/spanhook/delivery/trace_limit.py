"""A bound for the spans of one trace: a program may keep one interaction open for as long as it lives."""

from __future__ import annotations

from spanhook.span import Span

DROPPED = "spanhook.spans_dropped"
MAX_TRACES = 10_000  # that are counted at once; of the oldest the count begins anew


class TraceLimit:
    """Says which finished spans may go on to the backends. Runs on the intake thread.

    Args:
        max_spans: of one trace in this process. What its root counts (tokens, cost) is not bounded by it.
    """

    def __init__(self, max_spans: int) -> None:
        self._max_spans = max_spans
        self._counts: dict[str, int] = {}

    def admits(self, span: Span) -> bool:
        """Whether this span goes on. The local root always does, and says how many did not."""
        counts, key = self._counts, span.local_trace_key
        if span.is_local_root:
            beyond = counts.pop(key, 0) + 1 - self._max_spans
            if beyond > 0:
                span.attributes[DROPPED] = beyond
            return True
        count = counts[key] = counts.get(key, 0) + 1
        if len(counts) > MAX_TRACES:
            del counts[next(iter(counts))]
        return count < self._max_spans
