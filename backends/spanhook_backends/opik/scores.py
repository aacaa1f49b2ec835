"""From a signal to a feedback score."""

from __future__ import annotations

import json
import math
from typing import Any

from spanhook import Signal
from spanhook_backends.opik.places import Place
from spanhook_backends.opik.text import valid

_VALUES = {"POSITIVE": 1.0, "NEGATIVE": 0.0}


def score(signal: Signal, place: Place, project_name: str) -> dict[str, Any]:
    """The score for `Opik.log_traces_feedback_scores`.

    Its value is the property `score` where that is a number, else 1 or 0 for the sentiment, else 1: it happened. Its
    reason is the comment, and below it whatever else the signal says: a score has no other text.
    """
    properties = dict(signal.properties)
    value = properties.get("score")
    if isinstance(value, (int, float)) and math.isfinite(value):
        del properties["score"]
    else:
        value = _VALUES.get(signal.sentiment or "", 1.0)
    lines = [signal.comment] if signal.comment else []
    rest = {"after": signal.after, "attachment_id": signal.attachment_id, **properties}
    lines += [
        f"{name}: {what if isinstance(what, str) else json.dumps(what, ensure_ascii=False)}"
        for name, what in rest.items()
        if what is not None
    ]
    return {
        "id": place.trace_id,
        "name": valid(signal.name),
        "value": float(value),
        "reason": valid("\n".join(lines)) or None,
        "project_name": place.project or project_name,
    }
