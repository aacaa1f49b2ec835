"""MLflow shows what was sent: asked back by its own client, in its own environment."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import receivers
from program import COMMENT, CONVERSATION, USER

pytestmark = pytest.mark.timeout(600)

KINDS = {"lm": "LLM", "tool": "TOOL"}
READ = """
import json, sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
(trace,) = mlflow.search_traces(locations=["0"], return_type="list")
print("\\n" + json.dumps({
    "id": trace.info.trace_id,
    "metadata": trace.info.trace_metadata,
    "spans": [
        {
            "id": span.span_id, "parent": span.parent_id, "name": span.name, "kind": span.span_type,
            "status": span.status.status_code.name, "said": span.status.description,
            "start_ns": span.start_time_ns, "end_ns": span.end_time_ns, "attributes": span.attributes,
            "events": [{"name": event.name, "attributes": event.attributes} for event in span.events],
        }
        for span in trace.data.spans
    ],
}))
"""


def _trace(url: str) -> Any:
    command = [receivers.program("mlflow", "python"), "-c", READ, url]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode == 0, made.stderr[-2_000:]
    return json.loads(made.stdout.splitlines()[-1])


def test_the_trace_is_there_as_it_was_sent(tmp_path: Path, send: Any) -> None:
    """Tree, kinds, tokens, times, session, user, error and signal."""
    with receivers.mlflow(tmp_path) as mlflow:
        sent = send(endpoint=mlflow.http, headers={"x-mlflow-experiment-id": "0"})
        trace = _trace(mlflow.http)
    assert trace["id"] == f"tr-{sent.trace_id}"
    assert trace["metadata"]["mlflow.trace.session"] == CONVERSATION
    assert trace["metadata"]["mlflow.trace.user"] == USER
    got = {span["id"]: span for span in trace["spans"]}
    signal = next(span for span in trace["spans"] if span["name"] == "signal thumbs_down")
    assert set(got) == {span.span_id for span in sent.spans} | {signal["id"]}
    for span in sent.spans:
        shown = got[span.span_id]
        assert (shown["name"], shown["parent"]) == (span.name, span.parent_id)
        assert (shown["start_ns"], shown["end_ns"]) == (span.start_ns, span.end_ns)
        assert shown["kind"] == ("AGENT" if span.name == "ReAct" else KINDS.get(span.kind, "CHAIN"))
        assert shown["status"] == ("ERROR" if span.error else "UNSET")
        counted = shown["attributes"].get("mlflow.chat.tokenUsage")
        if span.kind == "lm" and span.usage is not None:
            assert counted["input_tokens"] == span.usage.input_tokens
            assert counted["output_tokens"] == span.usage.output_tokens
            assert counted["total_tokens"] == span.usage.total_tokens
            assert shown["attributes"]["mlflow.llm.model"] == span.response_model
        else:
            assert counted is None
    total = json.loads(trace["metadata"]["mlflow.trace.tokenUsage"])
    root = next(span for span in sent.spans if span.parent_id is None)
    assert root.usage is not None
    assert total["total_tokens"] == root.usage.total_tokens  # MLflow adds the calls up to what we added up
    (tool,) = sent.of_kind("tool")
    assert got[tool.span_id]["said"] == "no order 17"
    assert [event["name"] for event in got[tool.span_id]["events"]] == ["exception"]
    assert (signal["kind"], signal["parent"]) == ("EVALUATOR", root.span_id)
    (result,) = signal["events"]
    assert result["name"] == "gen_ai.evaluation.result"
    assert result["attributes"]["gen_ai.evaluation.explanation"] == COMMENT
