"""Opik's ids, made from Spanhook's: a UUIDv7 for every trace and span."""

from __future__ import annotations

import uuid

_DAY_MS = 24 * 60 * 60 * 1000


def trace_uuid(trace_id: str) -> str:
    """A trace's: Spanhook's trace ids are UUIDv7 already."""
    return f"{trace_id[:8]}-{trace_id[8:12]}-{trace_id[12:16]}-{trace_id[16:20]}-{trace_id[20:]}"


def span_uuid(span_id: str, start_ns: int) -> str:
    """A span's: the time of its start in ms, as Opik sorts by it and refuses ids that are a day off, then its id.

    The version (7) and the variant (8) stand where RFC 9562 wants them; two zeros fill up the rest.
    """
    time = f"{start_ns // 1_000_000:012x}"
    return f"{time[:8]}-{time[8:]}-7{span_id[:3]}-800{span_id[3]}-{span_id[4:]}"


def remote_trace_uuid(trace_id: str, event_id: str, start_ns: int) -> str | None:
    """That of a trace which began in another process, if both processes can know it: its event's, or its own.

    A trace id of another tracing system's is random, and Opik would refuse it.
    """
    is_near = abs(int(trace_id[:12], 16) - start_ns // 1_000_000) < _DAY_MS
    is_v7 = trace_id[12] == "7" and trace_id[16] in "89ab"
    return trace_id_of(event_id) or (trace_uuid(trace_id) if is_v7 and is_near else None)


def trace_id_of(event_id: str) -> str | None:
    """The Opik trace that an event id names by itself, being a UUIDv7; None for an id of the caller's own."""
    try:
        parsed = uuid.UUID(event_id)
    except ValueError:
        return None
    return str(parsed) if parsed.version == 7 else None
