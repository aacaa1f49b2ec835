"""Ids of traces, spans and events."""

from __future__ import annotations

import os
import random
import time
import uuid

TRACE_BITS = 74
SPAN_BITS = 64

_random = random.Random()  # seeded by the operating system; asking that for each id costs as much as all else of a span
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


random_bits = _random.getrandbits
"""So many random bits, as an int: what ids are made of when someone wants to read them."""


def new_trace_id() -> str:
    """A UUIDv7 (RFC 9562) as 32 hex digits: sortable by time, and one id for every backend."""
    return trace_id_of(time.time_ns(), random_bits(TRACE_BITS))


def trace_id_of(unix_ns: int, bits: int) -> str:
    """The id of a trace that began at this time, with these `TRACE_BITS` random bits."""
    milliseconds = unix_ns // 1_000_000 & (1 << 48) - 1
    return f"{milliseconds:012x}7{bits >> 62:03x}{0b10 << 62 | bits & (1 << 62) - 1:016x}"


def new_span_id() -> str:
    """16 hex digits."""
    return span_id_of(random_bits(SPAN_BITS))


def span_id_of(bits: int) -> str:
    """The id of a span with these `SPAN_BITS` random bits."""
    return f"{bits:016x}"


def uuid_of(trace_id: str) -> str:
    """The trace id as a UUID with hyphens: the default event id."""
    return f"{trace_id[:8]}-{trace_id[8:12]}-{trace_id[12:16]}-{trace_id[16:20]}-{trace_id[20:]}"


def trace_id_from(event_id: str) -> str | None:
    """The trace id that belongs to a caller's event id when that is a UUIDv7; None otherwise."""
    try:
        parsed = uuid.UUID(event_id)
    except ValueError:
        return None
    return parsed.hex if parsed.version == 7 else None


def is_sampled(trace_id: str, rate: float) -> bool:
    """Whether a trace belongs to the share `rate`: the same answer in every process that sees the id."""
    return rate >= 1.0 or int(trace_id[-12:], 16) < rate * (1 << 48)
