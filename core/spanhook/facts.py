"""Putting what extractors return into a span: the first that knows a field wins, and nonsense is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from spanhook.snapshot import snapshot
from spanhook.span import USAGE_FIELDS, Facts, Span, Usage

MAX_ATTRIBUTES = 200  # of one span


def apply(span: Span, facts: Facts | None, source: str) -> list[str]:
    """Write to `span` what it doesn't have yet; returns a line for each fact that was refused."""
    if facts is None:
        return []
    if not isinstance(facts, Mapping):
        return [f"returned {type(facts).__name__}, not a dict of facts"]
    refused: list[str] = []
    for name, value in facts.items():
        if value is None:
            continue
        if name == "attributes":
            refused += _apply_attributes(span, value, source)
            continue
        check = _CHECKS.get(name)
        if check is None:
            refused.append(f"{name!r} is no field that an extractor can give (known: {', '.join(_CHECKS)}, attributes)")
        elif not check(value):
            refused.append(f"{name} can't be {_shown(value)}")
        elif name not in span.sources:
            setattr(span, name, value)
            span.sources[name] = source
    return refused


def _apply_attributes(span: Span, attributes: Any, source: str) -> list[str]:
    if not isinstance(attributes, Mapping):
        return [f"attributes can't be {_shown(attributes)}"]
    for key, value in attributes.items():
        if len(span.attributes) >= MAX_ATTRIBUTES:
            return [f"more than {MAX_ATTRIBUTES} attributes on one span"]
        if value is not None and key not in span.attributes:
            span.attributes[str(key)] = snapshot(value)
            span.sources[f"attributes.{key}"] = source
    return []


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _is_usage(value: Any) -> bool:
    return isinstance(value, Usage) and all(_is_count(getattr(value, name)) for name in USAGE_FIELDS) and bool(value)


def _is_count(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 0)


def _shown(value: Any) -> str:
    return repr(value) if type(value) in (int, float, bool) else f"a {type(value).__name__}"


_CHECKS = {
    "model": _is_text,
    "response_model": _is_text,
    "provider": _is_text,
    "usage": _is_usage,
    "finish_reason": _is_text,
    "cache_hit": lambda value: isinstance(value, bool),
    "cost_usd": _is_amount,
    "time_to_first_token_s": _is_amount,
}
