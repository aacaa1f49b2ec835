"""Beginnings of traces: new ones and a caller's, and which of them are recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from spanhook import dspy_overrides
from spanhook.active import REMOTE, OpenSpan, still_around
from spanhook.delivery.keeping import RATE, Keeping
from spanhook.guard import Guard
from spanhook.processes import Lock
from spanhook.span import RemoteParent
from spanhook.trace import Trace

if TYPE_CHECKING:
    from spanhook.plugins.registration import Plugin


class Beginnings:
    """Begins traces, on the thread of their first call.

    Args:
        sample_rate: the share of traces that are recorded.
        plugins: those of them with a `trace_parent` are asked for the trace that goes on here.
        guard: counts what they raise.
        keeping: chooses when a trace has ended; until then all of them are recorded.
    """

    def __init__(self, sample_rate: float, plugins: list[Plugin], guard: Guard, keeping: Keeping | None) -> None:
        self._guard = guard
        self._sample_rate = sample_rate
        self._keeping = keeping
        asked = sorted(plugins, key=lambda plugin: plugin.kind == "backend")  # extractors know better
        self._on_begin = [(f"{p.label}: trace_parent", h) for p in asked if (h := p.hooks.get("trace_parent"))]
        self._counting = Lock()
        self._sampled_out = 0

    @property
    def sampled_out(self) -> int:
        """How many traces `sample_rate` has left out, and `keep` has not kept."""
        return self._sampled_out + (self._keeping.sampled_out if self._keeping is not None else 0)

    def begin(self, event_id: str | None = None, user_id: str | None = None, convo_id: str | None = None) -> Trace:
        """A new trace with its share in the sample decided, or the caller's where one is attached."""
        remote = self._remote_parent() if self._on_begin or REMOTE in dspy_overrides.overrides() else None
        trace = Trace.begin(self._sample_rate, event_id, user_id, convo_id, remote)
        trace.recorded = trace.sampled or self._keeping is not None
        if not trace.recorded:
            with self._counting.here:
                self._sampled_out += 1
        return trace

    def root(self, opened: OpenSpan) -> None:
        """Make this the first span of its trace, and have it known what share of all traces it stands for."""
        trace, keeping = opened.trace, self._keeping
        if trace.local_root_bits is not None:  # an interaction that is entered twice: each time is a root of its own
            opened.trace = trace = trace.again()
        trace.local_root_bits = opened.bits
        if keeping is not None and trace.recorded:
            keeping.begin(opened.span_id, sampled=trace.sampled, rate=trace.sample_rate)
        elif trace.sample_rate is not None and trace.sample_rate < 1.0:
            opened.attributes = {**(opened.attributes or {}), RATE: trace.sample_rate}

    def _remote_parent(self) -> RemoteParent | None:
        """The caller that is attached here, and what other tracing systems have open here."""
        attached = still_around(dspy_overrides.override(REMOTE))
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
