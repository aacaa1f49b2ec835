"""A trace that began elsewhere, as headers name it, and what of it is here."""

from __future__ import annotations

from doubles import Memory
from spanhook import Span

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


def local_roots(memory: Memory) -> list[Span]:
    """The spans above which there is none of this process."""
    return [span for span in memory.spans if span.is_local_root]
