"""Arize Phoenix shows what was sent, over HTTP and over gRPC: asked back by its own API."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import receivers
from program import COMMENT, CONVERSATION, USER
from receivers import Receiver

pytestmark = pytest.mark.timeout(600)

KINDS = {"lm": "LLM", "tool": "TOOL"}


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with receivers.phoenix(tmp_path_factory.mktemp("phoenix")) as up:
        yield up


def _spans(phoenix: Receiver, trace_id: str) -> dict[str, dict[str, Any]]:
    url = f"{phoenix.http}/v1/projects/default/spans?limit=1000"
    with urllib.request.urlopen(url, timeout=30) as response:
        spans = json.load(response)["data"]
    return {s["context"]["span_id"]: s for s in spans if s["context"]["trace_id"] == trace_id}


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_the_trace_is_there_as_it_was_sent(phoenix: Receiver, send: Any, protocol: str) -> None:
    """Tree, kinds, tokens, cost, first token, cache hit, session, user, error and signal."""
    sent = send(endpoint=phoenix.http if protocol != "grpc" else phoenix.grpc, protocol=protocol)
    got = receivers.once(lambda: _spans(phoenix, sent.trace_id), lambda found: len(found) > len(sent.spans))
    signal = next(span for span in got.values() if span["name"] == "signal thumbs_down")
    assert set(got) == {span.span_id for span in sent.spans} | {signal["context"]["span_id"]}
    for span in sent.spans:
        shown = got[span.span_id]
        attributes = shown["attributes"]
        assert (shown["name"], shown["parent_id"]) == (span.name, span.parent_id)
        kind = "AGENT" if span.name == "ReAct" else KINDS.get(span.kind, "CHAIN")
        assert shown["span_kind"] == kind
        assert shown["status_code"] == ("ERROR" if span.error else "UNSET")
        assert (attributes["session.id"], attributes["user.id"]) == (CONVERSATION, USER)
        counted = span.usage if span.kind == "lm" and span.usage is not None else None
        assert attributes.get("llm.token_count.prompt") == (counted and counted.input_tokens)
        assert attributes.get("llm.token_count.completion") == (counted and counted.output_tokens)
        assert attributes.get("llm.token_count.total") == (counted and counted.total_tokens)
        assert attributes.get("llm.finish_reason") == span.finish_reason
        assert attributes.get("spanhook.cache_hit") == span.cache_hit
    (tool,) = sent.of_kind("tool")
    (event,) = got[tool.span_id]["events"]
    assert event["name"] == "exception"
    assert event["attributes"]["exception.type"] == "LookupError"
    assert [span.cache_hit for span in sent.of_kind("lm")].count(True) == 1
    assert sum(span.time_to_first_token_s is not None for span in sent.of_kind("lm")) == 1
    root = next(span for span in sent.spans if span.parent_id is None)
    assert (signal["span_kind"], signal["parent_id"]) == ("EVALUATOR", root.span_id)
    (result,) = signal["events"]
    assert result["name"] == "gen_ai.evaluation.result"
    assert result["attributes"]["gen_ai.evaluation.explanation"] == COMMENT
