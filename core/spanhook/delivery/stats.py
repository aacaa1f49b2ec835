"""What became of everything that the tracer accepted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True, frozen=True)
class BackendStats:
    """Counts of spans, identities and signals for one backend: accepted = delivered + queued + dropped + failed."""

    accepted: int = 0
    delivered: int = 0
    """Taken by the backend's hooks without an error."""
    queued: int = 0
    spooled: int = 0
    """Of those that are queued, how many are in the spool, too: a later process delivers what this one doesn't."""
    failed: int = 0
    """In a batch for which the backend raised, or those of it that it said."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Never taken by the backend, by reason: see `stats` in the API reference for all of them."""

    def lost(self) -> str:
        """One phrase that says what did not arrive and why; empty if nothing was lost."""
        parts = [f"{count} dropped ({reason.replace('_', ' ')})" for reason, count in self.dropped.items() if count]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.queued > self.spooled:
            parts.append(f"{self.queued - self.spooled} not sent in time")
        if self.spooled:
            parts.append(f"{self.spooled} kept in the spool")
        return ", ".join(parts)


def lost_line(backends: Mapping[str, BackendStats], held_back: Mapping[str, str], still_running: int) -> str:
    """What did not arrive, for each backend; empty if nothing was lost.

    Args:
        backends: the counts of each.
        held_back: what each may hold back of what it has taken, in words.
        still_running: spans that have not ended.
    """
    told = {name: [what for what in (stats.lost(), held_back[name]) if what] for name, stats in backends.items()}
    lost = [f"backend {name}: {', '.join(parts)}" for name, parts in told.items() if parts]
    if still_running:
        lost.append(f"{still_running} span{'s that were' if still_running > 1 else ' that was'} still running")
    return "; ".join(lost)


@dataclass(slots=True, frozen=True)
class Stats:
    """`tracer.stats()`."""

    backends: Mapping[str, BackendStats] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Identities, signals, interactions and spans that were given wrong values, by what they were."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """What plugins and the tracer itself raised, by place and type; none of it reached the program."""
    sampled_out: int = 0
    """Traces that `sample_rate` left out, and `keep` has not kept."""
