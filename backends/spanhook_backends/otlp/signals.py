"""Feedback as a span of its own in the trace that it is about, and as the event that the GenAI conventions have for it.

A span that has been sent can't get an event any more, and few receivers take events that belong to no span.
"""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan

from spanhook import Signal, Span
from spanhook_backends.bounded import Bounded
from spanhook_backends.otel.spans import SCOPE, Attributes, Value, context_of
from spanhook_backends.otlp.conventions import SIGNAL_EVENT, Names
from spanhook_backends.otlp.convert import PREFIX, value_of

MAX_REMEMBERED = 10_000  # interactions whose trace a signal finds when its event id does not tell it

_SCORES = {"POSITIVE": 1.0, "NEGATIVE": 0.0}


class Place(NamedTuple):
    """Where an interaction is found."""

    trace_id: str
    root_id: str | None = None
    user_id: str | None = None
    convo_id: str | None = None


class Places:
    """The traces of the latest interactions, by event id."""

    def __init__(self) -> None:
        self._places: Bounded[Place] = Bounded(MAX_REMEMBERED)

    def note(self, spans: Sequence[Span]) -> None:
        """Remember where these spans' interactions are."""
        for span in spans:
            is_top = span.is_local_root or _has_own_event(span)
            if is_top or span.event_id not in self._places:
                root_id = span.span_id if is_top else None
                self._places.put(span.event_id, Place(span.trace_id, root_id, span.user_id, span.convo_id))

    def of(self, event_id: str) -> Place:
        """Where an interaction is, this process's or another's; a new trace if its id does not tell."""
        return self._places.get(event_id) or Place(_trace_id_from(event_id) or uuid.uuid4().hex)


def _has_own_event(span: Span) -> bool:
    """Whether an interaction inside of another may have an event id of its own: it is not the trace's."""
    return span.kind == "interaction" and _trace_id_from(span.event_id) != span.trace_id


def _trace_id_from(event_id: str) -> str | None:
    """The trace that an event id names: one that is a UUIDv7 is a trace id with hyphens."""
    try:
        named = uuid.UUID(event_id)
    except ValueError:
        return None
    return named.hex if named.version == 7 else None


def as_readable(signal: Signal, place: Place, names: Names, resource: Resource) -> ReadableSpan:
    """The span of a signal. The same signal makes the same span id, so that none counts twice."""
    result = _result(signal, names)
    made: Attributes = {**_ours(signal), **result}
    for fact, value in (("kind", "EVALUATOR"), ("user", place.user_id), ("conversation", place.convo_id)):
        if value is not None:
            made.update(dict.fromkeys(names.of(fact), value))
    told = repr([getattr(signal, field.name) for field in fields(signal)])
    span_id = hashlib.sha256(told.encode()).hexdigest()[:16]
    return ReadableSpan(
        name=f"signal {signal.name}",
        context=context_of(place.trace_id, span_id),
        parent=None if place.root_id is None else context_of(place.trace_id, place.root_id),
        resource=resource,
        attributes=made,
        events=[Event(SIGNAL_EVENT, result, signal.time_ns)],
        start_time=signal.time_ns,
        end_time=signal.time_ns,
        instrumentation_scope=SCOPE,
    )


def _result(signal: Signal, names: Names) -> Attributes:
    """Its name; as its score the property `score`, else 1 or 0 for the sentiment, else 1; its comment."""
    score = signal.properties.get("score")
    if not isinstance(score, (int, float)) or not math.isfinite(score):
        score = _SCORES.get(signal.sentiment or "", 1.0)
    facts: dict[str, Value | None] = {
        "signal": signal.name,
        "signal_score": float(score),
        "signal_label": None if signal.sentiment is None else signal.sentiment.lower(),
        "signal_explanation": signal.comment,
        "signal_by": "HUMAN",
    }
    return {name: value for fact, value in facts.items() if value is not None for name in names.of(fact)}


def _ours(signal: Signal) -> Attributes:
    facts = {
        "event_id": signal.event_id,
        "kind": "signal",
        "signal.type": signal.type,
        "signal.sentiment": signal.sentiment,
        "signal.attachment_id": signal.attachment_id,
        "signal.after": signal.after,
    }
    properties = {f"signal.properties.{name}": value for name, value in signal.properties.items()}
    return {f"{PREFIX}{name}": value_of(value) for name, value in {**facts, **properties}.items() if value is not None}
