"""The stand-in itself: it takes what Opik takes, refuses what Opik refuses, and merges by id."""

from __future__ import annotations

import gzip
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("opik", reason='needs Opik\'s SDK: pip install "spanhook[opik]"')

import httpx
from opik_server import OpikServer


def uuid7(seconds_ago: float = 0.0) -> str:
    bits = uuid.uuid4().int & ~(0xFFFFFFFFFFFF << 80 | 0xF << 76)
    return str(uuid.UUID(int=bits | int((time.time() - seconds_ago) * 1_000) << 80 | 7 << 76))


@pytest.fixture
def server() -> Iterator[OpikServer]:
    with OpikServer() as running:
        yield running


def send(server: OpikServer, method: str, path: str, body: Any, **headers: str) -> httpx.Response:
    """One request as Opik's SDK makes it, but for `headers`."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    all_headers = {
        "Authorization": server.api_key or "",
        "Comet-Workspace": server.workspace,
        "Content-Type": "application/json;charset=utf-8",
        **headers,
    }
    if len(raw) > 256 and "Content-Encoding" not in all_headers:
        raw = gzip.compress(raw)
        all_headers["Content-Encoding"] = "gzip"
    return httpx.request(method, f"{server.url}v1/private/{path}", content=raw, headers=all_headers)


def trace(**fields: Any) -> dict[str, Any]:
    return {"id": uuid7(), "name": "t", "start_time": "2026-01-01T00:00:00Z", "source": "sdk", **fields}


def span(**fields: Any) -> dict[str, Any]:
    return {**trace(name="s"), "trace_id": uuid7(), "type": "general", **fields}


def test_it_takes_what_is_right_and_merges_by_id(server: OpikServer) -> None:
    """Spans before their trace, a PATCH before the record it is for, a score: all in one picture."""
    first, second = trace(), trace(name="other", start_time="2026-01-01T00:00:01Z")
    below = span(trace_id=first["id"], usage={"prompt_tokens": 1})
    score = {"id": first["id"], "name": "good", "value": 0.5, "source": "sdk", "reason": "x" * 300}
    assert send(server, "PATCH", f"traces/{second['id']}", {"output": {"a": 1}}).status_code == 204
    assert send(server, "POST", "spans/batch", {"spans": [below]}).status_code == 204
    assert server.lost_spans == [below]
    assert send(server, "POST", "traces/batch", {"traces": [first, second]}).status_code == 204
    assert send(server, "POST", "traces/batch", {"traces": [{**first, "end_time": None, "tags": ["x"]}]}).is_success
    assert send(server, "PUT", "traces/feedback-scores", {"scores": [score]}).status_code == 204
    assert [t.fields["name"] for t in server.traces] == ["t", "other"]
    assert server.trace("t").spans == [below]
    assert server.trace("t").fields["tags"] == ["x"]
    assert server.trace("t").scores["good"]["value"] == 0.5
    assert server.trace("other").fields["output"] == {"a": 1}
    assert not server.refused


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("traces/batch", {"traces": []}, "0 traces"),
        ("traces/batch", {"traces": [trace() for _ in range(1001)]}, "1001 traces"),
        ("traces/batch", {"spans": [span()]}, "nothing else"),
        ("traces/batch", [trace()], "no object"),
        ("traces/batch", {"traces": [trace(id="x")]}, "no UUID"),
        ("traces/batch", {"traces": [trace(id=str(uuid.uuid4()))]}, "version 7"),
        ("traces/batch", {"traces": [trace(id=uuid7(90_000))]}, "away"),
        ("traces/batch", {"traces": [trace(start_time=None)]}, "start_time"),
        ("traces/batch", {"traces": [trace(name=None)]}, "name is missing"),
        ("traces/batch", {"traces": [trace(nmae="t")]}, "unknown fields"),
        ("traces/batch", {"traces": [trace(tags="x")]}, "tags"),
        ("traces/batch", {"traces": [trace(source="me")]}, "source"),
        ("traces/batch", {"traces": [trace(error_info={"message": "m"})]}, "error_info"),
        ("traces/batch", {"traces": [trace(error_info={"exception_type": "E", "traceback": None})]}, "error_info"),
        ("traces/batch", {"traces": [trace(end_time="2025-01-01T00:00:00Z")]}, "ends before"),
        ("traces/batch", {"traces": [trace(input={"a": "\ud800"})]}, "surrogate"),
        ("traces/batch", {"traces": [trace(output={"a": float("nan")})]}, "nan"),
        ("spans/batch", {"spans": [span(type="chain")]}, "type 'chain'"),
        ("spans/batch", {"spans": [span(trace_id=None)]}, "trace_id"),
        ("spans/batch", {"spans": [span(parent_span_id="p")]}, "parent_span_id"),
        ("spans/batch", {"spans": [span(usage={"tokens": 2**31})]}, "int32"),
        ("spans/batch", {"spans": [span(usage={"tokens": 1.5})]}, "usage"),
        ("spans/batch", {"spans": [span(total_estimated_cost=-1)]}, "cost"),
        ("traces/feedback-scores", {"scores": [{"id": uuid7(), "name": "n", "source": "sdk"}]}, "value"),
        ("traces/feedback-scores", {"scores": [{"id": "x", "name": "n", "value": 1, "source": "sdk"}]}, "UUID"),
        ("traces/feedback-scores", {"scores": [{"id": uuid7(), "name": " ", "value": 1, "source": "sdk"}]}, "name"),
        ("traces/feedback-scores", {"scores": [{"id": uuid7(), "name": "n", "value": 1, "source": "x"}]}, "source"),
        ("traces", {"traces": [trace()]}, "start_time"),
        ("nothing", {}, "no such endpoint"),
    ],
)
def test_it_refuses_what_is_wrong(server: OpikServer, path: str, body: Any, why: str) -> None:
    """Each rule of Opik's contract, with the reason in `refused`; nothing of the request is kept."""
    method = "PUT" if path.endswith("scores") else "POST"
    answer = send(server, method, path, body)
    assert answer.status_code in (400, 404)
    assert why in server.refused[0]
    assert not server.traces
    assert not server.lost_spans
    assert not server.scores


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer opik-test-key"}, 401),
        ({"Authorization": ""}, 401),
        ({"Comet-Workspace": "other"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Encoding": "identity"}, 400),
        ({"Content-Encoding": "gzip"}, 400),
    ],
)
def test_it_looks_at_the_headers(server: OpikServer, headers: dict[str, str], status: int) -> None:
    """The bare key, the workspace, JSON, and gzip for what is longer than 256 bytes."""
    body = json.dumps({"traces": [trace(input={"a": "x" * 300})]}).encode()
    assert send(server, "POST", "traces/batch", body, **headers).status_code == status


def test_it_fails_on_demand(server: OpikServer) -> None:
    """With a status, a broken connection or never; only where and as often as it was told to."""
    body = {"traces": [trace()]}
    with server.fail(500, times=1):
        assert send(server, "POST", "traces/batch", body).status_code == 500
        assert send(server, "POST", "traces/batch", body).status_code == 204
    with server.fail("break", "traces"), pytest.raises(httpx.RemoteProtocolError):
        send(server, "POST", "traces/batch", body)
    with server.fail("hang", path=""), pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{server.url}is-alive/ping", timeout=0.05)
    with server.fail(500):
        assert httpx.get(f"{server.url}is-alive/ping").status_code == 200
    assert server.pings == 1
