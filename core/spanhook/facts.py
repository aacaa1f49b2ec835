"""Putting what extractors return into a span: the first that knows a field wins, and nonsense is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from spanhook.redaction.patterns import redacted
from spanhook.snapshot import snapshot
from spanhook.span import USAGE_FIELDS, Facts, Span, Usage

MAX_ATTRIBUTES = 200  # of one span
MAX_FACTS = 50  # that are looked at, of what one extractor returns


def apply(span: Span, facts: Facts | None, source: str) -> list[str]:
    """Write to `span` what it doesn't have yet; returns a line for each fact that was refused."""
    if facts is None:
        return []
    if type(facts) is not dict and not isinstance(facts, Mapping):
        return [f"returned {type(facts).__name__}, not a dict of facts"]
    refused: list[str] = []
    for name, value in islice(facts.items(), MAX_FACTS):
        if value is None or (name == "usage" and isinstance(value, Usage) and not value):
            continue
        if name == "attributes":
            if value or type(value) is not dict:
                refused += _apply_attributes(span, value, source)
            continue
        check, allowed = _CHECKS.get(name, (None, ""))
        if check is None:
            shown, known = redacted(str(name)[:1_000])[:100], ", ".join(_CHECKS)
            refused.append(f"{shown!r} is no field that an extractor can give (known: {known}, attributes)")
        elif not check(value):
            # Without the value: each kind of mistake is one line in the log.
            refused.append(f"{name} must be {allowed}; this {type(value).__name__} can't be used")
        elif name not in span.sources:
            setattr(span, name, value)
            span.sources[name] = source
    if len(facts) > MAX_FACTS:
        refused.append(f"more than {MAX_FACTS} fields")
    return refused


def refuse_wrong(span: Span) -> list[str]:
    """Take out of a span what the program has put there and no field can hold; a line for each."""
    refused: list[str] = []
    for name, (check, allowed) in _CHECKS.items():
        value = getattr(span, name)
        if value is not None and not check(value):
            setattr(span, name, None)
            refused.append(f"{name} must be {allowed}; this {type(value).__name__} can't be used")
    return refused


def _apply_attributes(span: Span, attributes: Any, source: str) -> list[str]:
    if not isinstance(attributes, Mapping):
        return [f"attributes must be a dict; this {type(attributes).__name__} can't be used"]
    for number, (key, value) in enumerate(attributes.items()):
        if len(span.attributes) >= MAX_ATTRIBUTES or number >= MAX_ATTRIBUTES:
            span.attributes["…"] = "more attributes, which were refused"
            return [f"more than {MAX_ATTRIBUTES} attributes on one span"]
        name = str(key)
        if value is not None and name not in span.attributes:
            span.attributes[name] = snapshot(value)
            span.sources[f"attributes.{name}"] = source
    return []


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


def _is_usage(value: Any) -> bool:
    if not isinstance(value, Usage):
        return False
    for name in USAGE_FIELDS:
        count = getattr(value, name)
        if count is not None and not (type(count) is int and 0 <= count < 1 << 63):
            return False
    return True


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


_TEXT = "a string that is not empty"
_AMOUNT = "a finite number, 0 or more"
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (_is_text, _TEXT),
    "response_model": (_is_text, _TEXT),
    "provider": (_is_text, _TEXT),
    "usage": (_is_usage, "a spanhook.Usage(input_tokens=…, output_tokens=…, …) with whole numbers, 0 or more"),
    "finish_reason": (_is_text, _TEXT),
    "cache_hit": (_is_flag, "True or False"),
    "cost_usd": (_is_amount, _AMOUNT),
    "time_to_first_token_s": (_is_amount, _AMOUNT),
}
