"""Which interaction made a prediction, for feedback that comes later."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from spanhook.ids import trace_id_of, uuid_of

if TYPE_CHECKING:
    from spanhook.trace import Trace


class _Remembered(weakref.ref[Any]):
    """A prediction and its event."""

    __slots__ = ("event", "key")

    event: str | tuple[int, int]  # the id, or the time and the random bits from which it is written if someone asks
    key: int


_events: dict[int, _Remembered] = {}


def _forget(remembered: Any) -> None:
    _events.pop(remembered.key, None)


def remember_event(outputs: Any, trace: Trace) -> None:
    """Tie a program's result to its event without touching the result; forgotten when the result is."""
    try:
        remembered = _Remembered(outputs, _forget)
    except TypeError:  # of a class with slots that leave no room for this
        return
    remembered.event, remembered.key = trace.known_event_id or (trace.unix_ns, trace.bits), id(outputs)
    _events[remembered.key] = remembered


def event_id_of(prediction: object) -> str | None:
    """The event id of the interaction that made this prediction, for `tracer.track_signal`; None if it was not traced.

    Works with the very object that the program returned, not with a copy of it. On any thread.
    """
    found = _events.get(id(prediction))
    if found is None or found() is not prediction:
        return None
    return found.event if isinstance(found.event, str) else uuid_of(trace_id_of(*found.event))
