"""Checking what a program gives: ids, budgets, kinds of span, identities and signals."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, get_args

from spanhook import dspy_compat
from spanhook.budgets import OverBudget
from spanhook.delivery.items import Identity
from spanhook.redaction.patterns import redacted
from spanhook.scopes import Interaction
from spanhook.snapshot import snapshot, trim
from spanhook.span import Sentiment, Signal, SignalType

SIGNAL_TYPES: tuple[str, ...] = get_args(SignalType)
SENTIMENTS: tuple[str, ...] = get_args(Sentiment)
OVER_BUDGET: tuple[str, ...] = get_args(OverBudget)

MAX_SHOWN_CHARS = 1_000  # of what is wrong; the line that is logged is shorter

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MAX_TIME_NS = 2**63 - 1  # what backends can hold


def check_id(value: Any, what: str, hint: str = "") -> None:
    """Check that `value` can be an id or a name.

    Raises:
        ValueError: it is no string, or a blank one; with the hint.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what} must be a string that is not blank, not {_shown(value)}{hint}")


def check_one_of(value: Any, allowed: Sequence[Any], what: str) -> None:
    """Check that `value` is one of these.

    Raises:
        ValueError: with those that are allowed.
    """
    if value not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(map(str, allowed))}, not {_shown(value)}")


def check_properties(properties: Any) -> None:
    """Check that they are a dict by name.

    Raises:
        ValueError: they are not.
    """
    if not isinstance(properties, Mapping):
        raise ValueError(f"properties must be a dict, not {_shown(properties)}")
    for name in properties:
        if not isinstance(name, str):
            raise ValueError(f"the name of a property must be a string, not {_shown(name)}")


def check_budget(budget_usd: Any) -> None:
    """Check that it can be an amount of money.

    Raises:
        ValueError: it can't.
    """
    is_number = isinstance(budget_usd, (int, float)) and not isinstance(budget_usd, bool)
    if not (is_number and 0 <= budget_usd <= sys.float_info.max):
        raise ValueError(f"budget_usd must be a finite number of US dollars, 0 or more, not {_shown(budget_usd)}")


def check_over_budget(over_budget: Any, budget_usd: Any) -> None:
    """Check that it is one of the two, and that there is a budget to pass.

    Raises:
        ValueError: it is not, or there is none.
    """
    check_one_of(over_budget, OVER_BUDGET, "over_budget")
    if over_budget == "raise" and budget_usd is None:
        raise ValueError('over_budget="raise" stops nothing without a budget_usd')


def identity(user_id: Any, traits: Any) -> Identity:
    """A checked identity.

    Raises:
        ValueError: with what is allowed.
    """
    check_id(user_id, "user_id")
    if traits is None:
        traits = {}
    if not isinstance(traits, Mapping):
        raise ValueError(f"traits must be a dict, not {_shown(traits)}")
    for name, value in traits.items():
        check_id(name, "the name of a trait")
        if not isinstance(value, (str, int, float, bool)):
            raise ValueError(f"trait {name!r} must be a str, int, float or bool, not {_shown(value)}")
    return Identity(_valid(user_id), _valid(dict(traits)))


def signal(
    event_id: Any,
    name: Any,
    signal_type: Any,
    timestamp: Any,
    properties: Any,
    attachment_id: Any,
    comment: Any,
    after: Any,
    sentiment: Any,
) -> Signal:
    """A checked signal.

    Raises:
        ValueError: with what is allowed.
    """
    check_id(event_id, "event_id", _way_to_event_id(event_id))
    check_id(name, "name")
    check_one_of(signal_type, SIGNAL_TYPES, "signal_type")
    check_one_of(sentiment, (*SENTIMENTS, None), "sentiment")
    if properties is not None:
        check_properties(properties)
    for text, what in ((comment, "comment"), (after, "after"), (attachment_id, "attachment_id")):
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{what} must be a string or None, not {_shown(text)}")
    return Signal(
        _valid(event_id),
        _valid(name),
        signal_type,
        _time_ns(timestamp),
        _valid(snapshot(dict(properties or {}))),
        _valid(attachment_id),
        _valid(comment),
        _valid(after),
        sentiment,
    )


def _time_ns(timestamp: Any) -> int:
    """Unix time of a datetime or an ISO 8601 string; without a zone it is UTC."""
    if timestamp is None:
        return time.time_ns()
    moment = timestamp
    if isinstance(timestamp, str):
        try:
            moment = datetime.fromisoformat(timestamp.replace("Z", "+00:00").replace("z", "+00:00"))
        except ValueError:
            moment = None
    if not isinstance(moment, datetime):
        raise ValueError(f"timestamp must be a datetime, an ISO 8601 string or None, not {_shown(timestamp)}")
    if moment.utcoffset() is None:
        moment = moment.replace(tzinfo=timezone.utc)
    time_ns = (moment - _EPOCH) // timedelta(microseconds=1) * 1_000
    if not 0 <= time_ns <= _MAX_TIME_NS:
        raise ValueError(f"timestamp must be from 1970-01-01 to 2262-04-11, not {moment.isoformat()}")
    return time_ns


def _way_to_event_id(given: Any) -> str:
    """What to write for what has one, and is none."""
    if issubclass(type(given), Interaction):
        return ": pass interaction.event_id"
    return ": pass spanhook.event_id_of(prediction)" if dspy_compat.is_prediction(given) else ""


def _valid(value: Any) -> Any:
    """Text and numbers that JSON and UTF-8 can hold, whatever came from a user's browser; nothing is cut."""
    return trim(value, sys.maxsize)


def _shown(value: Any) -> str:
    """A value that is wrong: plain ones as they are, of others the type."""
    kind = type(value)
    if kind is str:
        value = value[:MAX_SHOWN_CHARS]
    return redacted(repr(value)) if kind in (str, int, float, bool, type(None)) else kind.__name__
