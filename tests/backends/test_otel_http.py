"""A request over HTTP: what it carries beside the spans, how many of those, and what is read of the answer."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.proto")
pytest.importorskip("grpc")

from opentelemetry.sdk.resources import Resource
from otlp_server import PROTOBUF, OTLPServer, Reply

from spanhook import Span
from spanhook_backends.otel.batches import requests_of
from spanhook_backends.otel.http import HTTPSender
from spanhook_backends.otel.spans import readable


def test_no_other_headers_are_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No password of `.netrc`, no cookie that a server has set: what is not in the configuration is another's."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login anna password another-server\n", encoding="utf-8")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    span = readable(Span("1" * 32, "2" * 16, None, "e", "custom", "work", 1, 2), {}, Resource({}), parent_id=None)
    with OTLPServer() as receiver:
        receiver.answer_with(Reply(200, {**PROTOBUF, "Set-Cookie": "session=1; Path=/"}))
        sender = HTTPSender(f"{receiver.options['endpoint']}/v1/traces", {"x-key": "k"}, 10.0)
        assert [sender.send([span]).status for _ in range(2)] == [200, 200]
        sender.close()
        sent = [{name.lower() for name in request[0]} for request in receiver.requests]
    ours = {"user-agent", "content-type", "content-length", "host", "accept-encoding", "x-key"}
    assert sent == [ours, ours]


def test_the_texts_of_lists_count_for_the_size_of_a_request() -> None:
    """Tools' definitions are a list, and longer than all else in a span: a request of them was ten times too large."""
    span = Span("1" * 32, "2" * 16, None, "e", "custom", "work", 1, 2)
    spans = [readable(span, {"tools": ["x" * 300] * 10}, Resource({}), parent_id=None) for _ in range(6)]
    assert [len(request) for request in requests_of(spans, 100, 7_000)] == [2, 2, 2]
