"""What all spans of one trace share."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

from spanhook.budgets import Ledger
from spanhook.ids import TRACE_BITS, is_sampled, random_bits, span_id_of, trace_id_from, trace_id_of, uuid_of
from spanhook.span import RemoteParent


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

    def again(self) -> Trace:
        """The same trace for a second root."""
        second = copy.copy(self)
        second.known_local_root_id = None
        return second

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
