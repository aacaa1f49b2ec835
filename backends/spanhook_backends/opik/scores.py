"""Feedback scores as Opik takes them: of signals, and of what the program told Opik itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from spanhook import Signal, warn
from spanhook_backends.opik.places import Place

MAX_SCORE = 999_999_999  # Opik refuses what is further from 0, with all else in the request

_VALUES = {"POSITIVE": 1.0, "NEGATIVE": 0.0}
_TEXTS = ("category_name", "reason")  # that a score may have
_KEYS = {"id", "name", "value", *_TEXTS}


def score(signal: Signal, place: Place, project_name: str) -> dict[str, Any]:
    """The score for `Opik.log_traces_feedback_scores`.

    Its value is the property `score` where that is a number, else 1 or 0 for the sentiment, else 1: it happened. Its
    reason is the comment, and below it whatever else the signal says: a score has no other text.
    """
    properties = dict(signal.properties)
    value = properties.get("score")
    if not _is_number(value):
        value = _VALUES.get(signal.sentiment or "", 1.0)
    elif score_value(value) == value:  # else the reason has it
        del properties["score"]
    lines = [signal.comment] if signal.comment else []
    rest = {"after": signal.after, "attachment_id": signal.attachment_id, **properties}
    lines += [
        f"{name}: {what if isinstance(what, str) else json.dumps(what, ensure_ascii=False)}"
        for name, what in rest.items()
        if what is not None
    ]
    return {
        "id": place.trace_id,
        "name": signal.name,
        "value": score_value(value),
        "reason": "\n".join(lines) or None,
        "project_name": place.project or project_name,
    }


def score_value(value: Any) -> float:
    """A finite number as the nearest one that Opik takes."""
    return float(max(-MAX_SCORE, min(MAX_SCORE, value)))


def checked_scores(told: Any) -> list[dict[str, Any]]:
    """The scores that the program gave to `opik_context`, without those that Opik's SDK would refuse: a line says so.

    The SDK drops them with no more than a line of its own, and whoever waits for them waits for ever.
    """
    checked: list[dict[str, Any]] = []
    for one in told if isinstance(told, Iterable) else ():
        if (problem := _problem(one)) is None:
            checked.append({**{k: v for k, v in one.items() if k != "id"}, "value": score_value(one["value"])})
        else:
            warn("backend opik: a feedback score from opik_context is left out: %s", problem)
    return checked


def _problem(told: Any) -> str | None:
    if not isinstance(told, dict):
        return "it is no dict"
    if unknown := sorted(told.keys() - _KEYS):
        return f"unknown keys: {', '.join(unknown)}"
    if not (isinstance(told.get("name"), str) and told["name"].strip()):
        return "it has no name"
    if not _is_number(told.get("value")) or isinstance(told["value"], bool):
        return f"the value of {told['name']!r} is no finite number"
    if wrong := [name for name in _TEXTS if not isinstance(told.get(name), (str, type(None)))]:
        return f"{wrong[0]} of {told['name']!r} is no string"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
