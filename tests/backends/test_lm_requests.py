"""Calls by DSPy's typed requests, in the form of all others, and as a receiver of OTLP gets them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lm_server import LMServer
from spanhook_backends import lm_requests

pytest.importorskip("opentelemetry.proto")
pytest.importorskip("grpc")

from otlp_server import OTLPServer, traced


def _text(text: str) -> dict[str, Any]:
    return {"text": text, "continuation": [], "type": "text"}


def _message(role: str, *parts: Any) -> dict[str, Any]:
    return {"role": role, "parts": list(parts), "continuation": []}


def _image(**more: Any) -> dict[str, Any]:
    return {"media_type": "image/png", "data": None, "url": None, "file_id": None, "type": "image", **more}


CALL = {"id": "t1", "name": "find", "input": {"at": 1}, "continuation": [], "type": "tool_call"}
OPENAI_CALL = {"id": "t1", "type": "function", "function": {"name": "find", "arguments": {"at": 1}}}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (_message("user", _text("Hi")), [{"role": "user", "content": "Hi"}]),
        (
            _message("user", _text("See"), _image(url="http://x/y.png"), _image(data="aGk="), _image(file_id="f1"), 5),
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "See"},
                        {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
                        {"media_type": "image/png", "file_id": "f1", "type": "image"},
                        {"type": "text", "text": "5"},
                    ],
                }
            ],
        ),
        (
            _message("assistant", {"text": "Hm.", "type": "thinking"}, CALL),
            [{"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [OPENAI_CALL]}],
        ),
        (
            _message("assistant", {"text": "No.", "type": "refusal"}),
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
        ),
        (
            _message(
                "tool",
                {"id": "t1", "content": [_text("a cat")], "type": "tool_result"},
                {"id": "t2", "content": [_text("a"), _text("b")], "type": "tool_result"},
            ),
            [
                {"role": "tool", "tool_call_id": "t1", "content": "a cat"},
                {
                    "role": "tool",
                    "tool_call_id": "t2",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                },
            ],
        ),
        (_message("user"), [{"role": "user", "content": None}]),
    ],
)
def test_messages_of_a_typed_request(message: Any, expected: Any) -> None:
    """As OpenAI has them, whichever way the request was given, beside what else the call was given."""
    for name in ("prompt", "request"):
        made = lm_requests.asked({name: {"messages": [message], "system": None, "tools": []}, "cache": False})
        assert made == {"cache": False, "messages": expected}


def test_system_tools_and_parameters_of_a_typed_request() -> None:
    """What is not set is left out."""
    function = {"name": "find", "description": None, "parameters": {"type": "object"}}
    request = {
        "messages": [_message("user", _text("Hi"))],
        "system": "Be kind.",
        "tools": [{**function, "type": "function"}, {"name": "search", "type": "builtin"}],
        "config": {"max_tokens": 9, "temperature": 0.0, "seed": None, "stop": [], "user_id": None},
    }
    made = lm_requests.asked({"prompt": request})
    assert made["messages"][0] == {"role": "system", "content": "Be kind."}
    assert made["tools"] == [
        {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}},
        {"name": "search", "type": "builtin"},
    ]
    assert lm_requests.parameters({"prompt": request}) == {"max_tokens": 9, "temperature": 0.0}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (_message("assistant", _text("Hello")), ["Hello"]),
        (
            _message("assistant", {"text": "Hm.", "type": "thinking"}, _text("Hello")),
            [{"text": "Hello", "reasoning_content": "Hm."}],
        ),
        (_message("assistant", CALL), [{"tool_calls": [OPENAI_CALL]}]),
    ],
)
def test_a_typed_response(message: Any, expected: Any) -> None:
    """As DSPy gives the answers of other calls."""
    assert lm_requests.answered({"id": "r1", "message": message, "finish_reason": "stop"}) == expected


@pytest.mark.parametrize(
    "held",
    [
        None,
        "Hi",
        ["Hello"],
        {"prompt": "Hi"},
        {"prompt": {"messages": []}},
        {"prompt": {"messages": "… [cut]"}},
        {"prompt": {"messages": [_message("user"), "… [7 more items]"]}},
        {"message": "Hi"},
        {"message": {"role": "user", "content": "Hi"}},
        {"messages": [{"role": "user", "content": "Hi"}]},
    ],
)
def test_what_is_no_typed_call_stays_as_it_is(held: Any) -> None:
    """Calls of the other forms, and of a typed one what was too large for a span."""
    assert lm_requests.asked(held) is held
    assert lm_requests.answered(held) is held
    assert lm_requests.parameters(held) is None


def test_a_typed_call_arrives_like_any_other() -> None:
    """From DSPy's own objects to the names of both conventions; the LM's defaults don't hold for such a request."""
    lm15 = pytest.importorskip("dspy.lm15")
    with LMServer() as server, OTLPServer() as receiver, traced(receiver):
        lm = server.lm(cache=False, temperature=0.9)
        request = lm15.Request(
            model=lm.model,
            system="Be kind.",
            messages=(lm15.Message.user("Hi"),),
            tools=(lm15.FunctionTool(name="find"),),
            config=lm15.Config(max_tokens=50, seed=3),
        )
        answer = lm(request).message.parts[0].text
    (call,) = receiver.spans
    parts = [part for message in json.loads(call.attributes["gen_ai.input.messages"]) for part in message["parts"]]
    assert parts == [{"type": "text", "content": "Be kind."}, {"type": "text", "content": "Hi"}]
    assert call.attributes["llm.input_messages.1.message.content"] == "Hi"
    (answered,) = json.loads(call.attributes["gen_ai.output.messages"])
    assert answered["parts"] == [{"type": "text", "content": answer}]
    assert call.attributes["llm.output_messages.0.message.content"] == answer
    assert json.loads(call.attributes["gen_ai.tool.definitions"])[0]["name"] == "find"
    assert json.loads(call.attributes["llm.invocation_parameters"]) == {"max_tokens": 50, "seed": 3}
    assert (call.attributes["gen_ai.request.max_tokens"], call.attributes["gen_ai.request.seed"]) == (50, 3)
    assert "gen_ai.request.temperature" not in call.attributes
