"""The stand-in refuses what Raindrop refuses: or the other tests would prove nothing."""

from __future__ import annotations

import copy
import json
import urllib.error
import urllib.request
from typing import Any

import pytest

pytest.importorskip("opentelemetry.proto")

from raindrop_server import KEY, RaindropServer

EVENT: dict[str, Any] = {
    "event_id": "e1",
    "user_id": "u1",
    "event": "chat",
    "properties": {"ai.usage.prompt_tokens": 3},
    "timestamp": "2026-01-02T03:04:05Z",
    "attachments": None,
    "ai_data": {"input": "Why?", "model": "m"},
}
SIGNAL: dict[str, Any] = {
    "event_id": "e1",
    "signal_name": "up",
    "timestamp": "2026-01-02T03:04:05+00:00",
    "properties": {"comment": "Good."},
    "attachment_id": None,
    "sentiment": "POSITIVE",
    "signal_type": "feedback",
}


def post(raindrop: RaindropServer, path: str, body: Any, **headers: str) -> int:
    """The status of the answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(raindrop.endpoint + path, data, given)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def with_change(item: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with something else in one place; Ellipsis takes it away."""
    changed = copy.deepcopy(item)
    *above, name = path.split("/")
    inner = changed
    for key in above:
        inner = inner[key]
    if value is ...:
        del inner[name]
    else:
        inner[name] = value
    return changed


def test_it_takes_what_is_right(raindrop: RaindropServer) -> None:
    """Events, partial ones merged by id, identities, signals."""
    assert post(raindrop, "events/track", [EVENT], X_Raindrop_Project_Id="support") == 200
    assert (
        post(raindrop, "events/track_partial", {"event_id": "e1", "is_pending": False, "properties": {"b": 2}}) == 200
    )
    assert post(raindrop, "users/identify", [{"user_id": "u1", "traits": {"a": 1, "b": True}}]) == 200
    assert post(raindrop, "signals/track", [SIGNAL]) == 200
    assert raindrop.event("e1")["properties"] == {"ai.usage.prompt_tokens": 3, "b": 2}
    assert (raindrop.identities[0]["user_id"], raindrop.signals) == ("u1", [SIGNAL])
    assert raindrop.problems == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("user_id", ""),
        ("event_id", None),
        ("event", ...),
        ("extra", 1),
        ("timestamp", "2026-01-02T03:04:05"),
        ("timestamp", "noon"),
        ("attachments", "a"),
        ("properties/ai.usage.prompt_tokens", "3"),
        ("properties/ai.usage.prompt_tokens", True),
        ("properties/nested", {"a": 1}),
        ("properties/none", None),
        ("ai_data/input", None),
        ("ai_data/input", ...),
        ("ai_data/other", "x"),
        ("ai_data/input", "x" * 1_000_001),
        ("properties/long", "x" * 1_100_000),
        ("ai_data/input", "\ud800"),
    ],
)
def test_it_refuses_wrong_events(raindrop: RaindropServer, path: str, value: Any) -> None:
    """400, a line that says why, and nothing is stored."""
    assert post(raindrop, "events/track", [with_change(EVENT, path, value)]) == 400
    assert len(raindrop.problems) >= 1
    assert raindrop.events == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("properties/comment", " "),
        ("signal_type", "edit"),
        ("signal_type", "other"),
        ("sentiment", "GOOD"),
        ("signal_name", ""),
        ("attachment_id", ...),
    ],
)
def test_it_refuses_wrong_signals(raindrop: RaindropServer, path: str, value: Any) -> None:
    """Feedback without a comment, an edit without its text, what is no type and no sentiment."""
    assert post(raindrop, "signals/track", [with_change(SIGNAL, path, value)]) == 400
    assert raindrop.signals == []


def test_it_refuses_what_is_no_request(raindrop: RaindropServer) -> None:
    """A wrong key, a slug that is none, no array, too many, no JSON, another address, spans of nothing."""
    assert post(raindrop, "events/track", [EVENT], Authorization="Bearer other") == 401
    assert raindrop.problems == []
    assert post(raindrop, "events/track", [EVENT], X_Raindrop_Project_Id="Not A Slug") == 400
    assert post(raindrop, "events/track", EVENT) == 400
    assert post(raindrop, "events/track", [EVENT] * 11) == 400
    assert post(raindrop, "events/track", b"[NaN]") == 400
    assert post(raindrop, "events/other", [EVENT]) == 400
    assert post(raindrop, "users/identify", [{"user_id": "u1", "traits": {"a": []}}]) == 400
    span = {"traceId": "AAAAAAAAAAAAAAAAAAAAAA==", "spanId": "AAAAAAAAAAA=", "startTimeUnixNano": "5"}
    assert post(raindrop, "traces", {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}) == 400
    assert len(raindrop.problems) > 7
    assert raindrop.events == raindrop.identities == raindrop.spans == []


def test_it_makes_trouble_on_demand(raindrop: RaindropServer) -> None:
    """A status, for some requests or all, or no answer at all, until it is healed."""
    raindrop.fault(429, only="identify")
    assert post(raindrop, "users/identify", []) == 429
    assert post(raindrop, "events/track", [EVENT]) == 200
    raindrop.fault(hang_up=True)
    with pytest.raises(OSError, match="without response"):
        post(raindrop, "events/track", [EVENT])
    raindrop.heal()
    assert post(raindrop, "events/track", [EVENT]) == 200
