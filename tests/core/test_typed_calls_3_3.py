"""Calls by the typed requests of DSPy 3.3, an experiment that ended with it: in the form of all other calls, too."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from lm_server import LMServer, Reply
from spanhook.testing import capture_spans

if not hasattr(dspy, "LMRequest"):
    pytest.skip("only DSPy 3.3 has them", allow_module_level=True)

CALL = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}


@pytest.mark.parametrize("by_name", [False, True])
def test_a_request(by_name: bool) -> None:
    """Messages and answer; as parameters what the request says, and what the call does in its place."""
    with LMServer() as server, capture_spans() as spans:
        from dspy.core import types

        lm = server.lm(temperature=0.9)
        call = types.LMToolCallPart(id="t1", name="weather", args={"city": "Rome"})
        result = types.LMToolResultPart(call_id="t1", content=[types.LMTextPart(text="Sunny.")])
        request: Any = dspy.LMRequest(
            model=lm.model,
            messages=[
                dspy.System("Be kind."),
                dspy.User("Rome?"),
                types.LMMessage(role="assistant", parts=[call]),
                types.LMMessage(role="tool", parts=[result]),
            ],
            config={"temperature": 0.1, "max_tokens": 50},
        )
        server.script([Reply(content="Sunny.")])
        lm(request=request, top_p=0.5) if by_name else lm(request, top_p=0.5)
        asked = server.answered[1].body
    assert spans[0].inputs["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "t1", "content": "Sunny."},
    ]
    assert spans[0].inputs.keys() == {"messages", "temperature", "max_tokens", "top_p"}
    assert spans[0].outputs == ["Sunny."]
    assert spans[0].attributes == {"request.temperature": 0.1, "request.max_tokens": 50, "request.top_p": 0.5}
    assert (asked["temperature"], asked["max_tokens"], asked["top_p"]) == (0.1, 50, 0.5)
