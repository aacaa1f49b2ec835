"""A call by DSPy's typed request, `lm(dspy.lm15.Request(…))`, as each service gets it: like any other call.

What a span has of it is in `tests/core/test_typed_calls.py`; Raindrop's event in `test_raindrop_bad_input.py`.
"""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from typing import Any

import pytest

import spanhook
from lm_server import LMServer, Reply

lm15: Any = pytest.importorskip("dspy.lm15", reason="DSPy 3.4 has brought typed requests")
MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Rome?"}]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]


def _ask(server: LMServer) -> None:
    """A model is offered a tool, and wants to use it."""
    server.script([Reply(tool_calls=[("weather", {"city": "Rome"})])])
    lm = server.lm(temperature=0.9)
    request = lm15.Request(
        model=lm.model,
        system="Be kind.",
        messages=(lm15.Message.user("Rome?"),),
        tools=(lm15.FunctionTool(name="weather", parameters=TOOLS[0]["function"]["parameters"]),),  # type: ignore[index]
        config=lm15.Config(max_tokens=50, seed=3),
    )
    lm(request)


def test_otlp() -> None:
    """By the names of both conventions; of the LM's defaults, which were not sent, there is nothing."""
    pytest.importorskip("opentelemetry.proto")
    pytest.importorskip("grpc")
    from otlp_server import OTLPServer, traced

    with LMServer() as server, OTLPServer() as receiver, traced(receiver):
        _ask(server)
    (call,) = receiver.spans
    said = {name: json.loads(call.attributes[f"gen_ai.{name}.messages"]) for name in ("input", "output")}
    parts = [part for message in said["input"] for part in message["parts"]]
    assert parts == [{"type": "text", "content": "Be kind."}, {"type": "text", "content": "Rome?"}]
    assert call.attributes["llm.input_messages.1.message.content"] == "Rome?"
    ((wanted,),) = [message["parts"] for message in said["output"]]
    assert (wanted["type"], wanted["name"], wanted["arguments"]) == ("tool_call", "weather", {"city": "Rome"})
    assert json.loads(call.attributes["gen_ai.tool.definitions"])[0]["name"] == "weather"
    assert json.loads(call.attributes["llm.invocation_parameters"]) == {"max_tokens": 50, "seed": 3}
    assert (call.attributes["gen_ai.request.max_tokens"], call.attributes["gen_ai.request.seed"]) == (50, 3)
    assert "gen_ai.request.temperature" not in call.attributes
    assert json.loads(call.attributes["input.value"])["messages"] == MESSAGES


def test_opik() -> None:
    """The trace has the messages as its input and the answer as its output, and asks with nothing that was not sent."""
    pytest.importorskip("opik", reason='needs Opik\'s SDK: pip install "spanhook[opik]"')
    from opik_case import opik_case

    with opik_case() as case:
        _ask(case.lm)
        ((span,),) = [trace.spans for trace in case.traces]
    assert span["input"] == {"messages": MESSAGES, "tools": TOOLS, "max_tokens": 50, "seed": 3}
    assert span["output"]["output"][0]["tool_calls"][0]["function"]["name"] == "weather"
    asked = {name: value for name, value in span["metadata"].items() if name.startswith("request.")}
    assert asked == {"request.max_tokens": 50, "request.seed": 3}


def test_structlog() -> None:
    """One line of JSON with the same."""
    with redirect_stderr(io.StringIO()) as written, LMServer() as server:
        tracer = spanhook.configure(
            {"tracing": {"backends": ["structlog"]}, "backends": {"structlog": {"format": "json"}}}
        )
        _ask(server)
        tracer.shutdown()
    (line,) = [json.loads(line) for line in written.getvalue().splitlines() if "spanhook.span" in line]
    assert line["inputs"] == {"messages": MESSAGES, "tools": TOOLS, "max_tokens": 50, "seed": 3}
    assert line["outputs"][0]["tool_calls"][0]["function"]["arguments"] == '{"city": "Rome"}'
    assert line["attributes"] == {"request.max_tokens": 50, "request.seed": 3}
