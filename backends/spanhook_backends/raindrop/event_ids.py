"""The program's own event ids, for calls outside of `tracer.interaction`, which has an argument for them."""

from __future__ import annotations

from collections.abc import Callable

from spanhook import Span
from spanhook_backends.bounded import Bounded

MAX_REMEMBERED = 20_000


class EventIds:
    """Which id an event has at Raindrop: the one that all backends share, or the program's own.

    Args:
        own: the one id of all events, or a function that makes one for each.
    """

    def __init__(self, own: str | Callable[[], str] | None) -> None:
        self._own = own
        self._by_shared: Bounded[str] = Bounded(MAX_REMEMBERED)

    def choose(self, span: Span) -> None:
        """Give a trace its id when its root starts: on the program's thread. Raises what its function raises."""
        if self._own is None or span.kind == "interaction":
            return
        if span.is_local_root and not span.event_is_remote:
            made = self._own() if callable(self._own) else self._own
            if made:
                self._by_shared.put(span.event_id, str(made))

    def of(self, shared: str) -> str:
        """The id at Raindrop of the event that all backends know as `shared`."""
        return self._by_shared.get(shared, shared)
