"""Spans, identities and signals as flat log events. No key is one that the standard library's log records have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal

import structlog

from spanhook import Signal, Span
from spanhook_backends.terminal.previews import escape

SPAN = "spanhook.span"
IDENTIFY = "spanhook.identify"
SIGNAL = "spanhook.signal"
LOGGER_NAME = "spanhook.spans"


_OPTIONAL = (  # fields that are keys by their own names
    "parent_id", "user_id", "convo_id", "model", "response_model", "provider", "finish_reason", "cost_usd", "cache_hit",
    "time_to_first_token_s", "inputs", "outputs",
)  # fmt: skip
_optional = attrgetter(*_OPTIONAL)

Level = Literal["info", "error"]
Event = tuple[Level, str, dict[str, Any]]  # level, name, and all else by key


class EventLog:
    """Makes events of what a backend is given: failed spans are errors, all else is information.

    Args:
        write: takes what is common to all events, and the events of one batch.
        common: keys of every event.
    """

    def __init__(self, write: Callable[[Mapping[str, Any], Iterable[Event]], None], common: Mapping[str, Any]) -> None:
        self._write = write
        self._common = common

    def emit(self, spans: Sequence[Span]) -> None:
        """One event a span. Only the span where an error began has its traceback."""
        self._write(self._common, _span_events(spans))

    def identify(self, user_id: str, traits: Mapping[str, Any]) -> None:
        """One event."""
        self._write(self._common, [("info", IDENTIFY, {"user_id": user_id, "traits": dict(traits)})])

    def track_signal(self, signal: Signal) -> None:
        """One event."""
        self._write(self._common, [("info", SIGNAL, signal_event(signal))])


def _span_events(spans: Sequence[Span]) -> Iterator[Event]:
    began = _where_errors_began(spans)
    for span in spans:
        level: Level = "error" if span.error is not None else "info"
        yield level, SPAN, span_event(span, with_traceback=span.span_id in began)


def log_to_program(common: Mapping[str, Any], events: Iterable[Event]) -> None:
    """Give events to the program's own structlog configuration, as it is now.

    Its renderer may be one for people, which writes a string as it is; no terminal may take a model's answer for its
    orders.
    """
    logger = structlog.get_logger(LOGGER_NAME).bind()  # else structlog puts a logger together for each event
    for level, name, event in events:
        getattr(logger, level)(name, **_harmless({**common, **event}))


def _harmless(value: Any) -> Any:
    """Plain data in which no text has an order for a terminal."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, dict):
        return {escape(key): _harmless(item) for key, item in value.items()}
    return [_harmless(item) for item in value] if isinstance(value, list) else value


def span_event(span: Span, *, with_traceback: bool = True) -> dict[str, Any]:
    """The keys of one span; what is not known is left out.

    `with_traceback` puts the traceback of an error into `exception`, where structlog's renderers look for it.
    """
    event: dict[str, Any] = {
        "kind": span.kind,
        "span_name": span.name,
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "event_id": span.event_id,
        "started_at": _iso(span.start_ns),
    }
    if span.end_ns is not None:
        event["duration_s"] = round((span.end_ns - span.start_ns) / 1e9, 6)
    if span.usage is not None:
        event.update(span.usage.to_dict())
    event.update({name: value for name, value in zip(_OPTIONAL, _optional(span), strict=True) if value is not None})
    if span.attributes:
        event["attributes"] = span.attributes
    if (error := span.error) is not None:
        trace = error.traceback if with_traceback else None
        event.update(_known({"error_type": error.type, "error_message": error.message, "exception": trace}))
    return event


def _where_errors_began(spans: Sequence[Span]) -> Collection[str]:
    """The ids of the failed spans of a batch whose error did not come up from a span beneath them."""
    failed = {span.span_id: span for span in spans if span.error is not None}
    above = {key: failed.get(span.parent_id or "") for key, span in failed.items()}
    passed_on = {up.span_id for key, up in above.items() if up is not None and _same_error(failed[key], up)}
    return failed.keys() - passed_on


def _same_error(one: Span, other: Span) -> bool:
    return (
        one.error is not None
        and other.error is not None
        and (one.error.type, one.error.message) == (other.error.type, other.error.message)
    )


def signal_event(signal: Signal) -> dict[str, Any]:
    """The keys of a user's feedback; what was not given is left out."""
    return _known(
        {
            "event_id": signal.event_id,
            "signal_name": signal.name,
            "signal_type": signal.type,
            "sentiment": signal.sentiment,
            "comment": signal.comment,
            "after": signal.after,
            "attachment_id": signal.attachment_id,
            "properties": dict(signal.properties) or None,
            "signalled_at": _iso(signal.time_ns),
        }
    )


def _known(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if value is not None}


def _iso(time_ns: int) -> str:
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest_ns // 1000:06}+00:00"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()[:19]
