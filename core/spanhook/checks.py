"""Checking what a program gives: ids, budgets, kinds of span, identities and signals."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, get_args

from spanhook.budgets import OverBudget
from spanhook.delivery.items import Identity
from spanhook.secret_patterns import redacted
from spanhook.snapshot import snapshot, trim
from spanhook.span import Sentiment, Signal, SignalType

SIGNAL_TYPES: tuple[str, ...] = get_args(SignalType)
SENTIMENTS: tuple[str, ...] = get_args(Sentiment)
OVER_BUDGET: tuple[str, ...] = get_args(OverBudget)

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def check_id(value: Any, what: str) -> None:
    """Check that `value` can be an id or a name.

    Raises:
        ValueError: it is no string, or a blank one.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what} must be a string that is not blank, not {_shown(value)}")


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
    if not (isinstance(properties, Mapping) and all(isinstance(name, str) for name in properties)):
        raise ValueError(f"properties must be a dict with strings as keys, not {_shown(properties)}")


def check_budget(budget_usd: Any) -> None:
    """Check that it can be an amount of money.

    Raises:
        ValueError: it can't.
    """
    is_number = isinstance(budget_usd, (int, float)) and not isinstance(budget_usd, bool)
    if not (is_number and 0 <= budget_usd <= sys.float_info.max):
        raise ValueError(f"budget_usd must be a finite number of US dollars, 0 or more, not {_shown(budget_usd)}")


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
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"the name of a trait must be a string that is not blank, not {_shown(name)}")
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
    check_id(event_id, "event_id")
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
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1_000


def _valid(value: Any) -> Any:
    """Text and numbers that JSON and UTF-8 can hold, whatever came from a user's browser; nothing is cut."""
    return trim(value, sys.maxsize)


def _shown(value: Any) -> str:
    return (
        redacted(repr(value))[:100]
        if type(value) in (str, int, float, bool, type(None))
        else f"a {type(value).__name__}"
    )
