"""Ids of traces, spans and events."""

from __future__ import annotations

import os
import random
import time
import uuid

_random = random.Random()  # seeded by the operating system; asking that for each id costs as much as all else of a span
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def new_trace_id() -> str:
    """A UUIDv7 (RFC 9562) as 32 hex digits: sortable by time, and one id for every backend."""
    milliseconds = time.time_ns() // 1_000_000 & (1 << 48) - 1
    return f"{milliseconds:012x}7{_random.getrandbits(12):03x}{0b10 << 62 | _random.getrandbits(62):016x}"


def new_span_id() -> str:
    """16 hex digits."""
    return f"{_random.getrandbits(64):016x}"


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
