"""Calls by DSPy's typed requests: their spans have the form, and are as exact, as those of any other call."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

from doubles import Memory, tracer_of
from fake_secrets import plain
from lm_server import LMServer, Reply
from spanhook import Span, typed_calls
from spanhook.snapshot import snapshot
from spanhook.testing import capture_spans

lm15: Any = pytest.importorskip("dspy.lm15", reason="DSPy 3.4 has brought typed requests")
PNG = "iVBORw0KGgo="
CALL = lm15.ToolCallPart(id="t1", name="find", input={"at": 1})
OPENAI_CALL = {"id": "t1", "type": "function", "function": {"name": "find", "arguments": '{"at": 1}'}}


class Answering:
    """An engine that answers with these parts, and asks nobody."""

    def __init__(self, *parts: Any) -> None:
        self._parts = parts

    def complete(self, request: Any) -> Any:
        message = lm15.Message(role="assistant", parts=self._parts)
        return lm15.Response(id=None, model="m", message=message, finish_reason="stop", usage=lm15.Usage())

    def stream(self, request: Any) -> Iterator[Any]:
        raise NotImplementedError

    def close(self) -> None:
        return None


def _called(asked: Any, *parts: Any, **how: Any) -> Span:
    lm = dspy.LM(
        "acme/own", engine=Answering(*(parts or (lm15.TextPart("Yes."),))), cache=False, temperature=0.9, seed=7
    )
    with capture_spans() as spans:
        lm(asked, **how)
    return spans[0]


def _request(*messages: Any, **more: Any) -> Any:
    return lm15.Request(model="acme/own", messages=messages or (lm15.Message.user("Hi"),), **more)


def _user(*parts: Any) -> Any:
    return lm15.Message(role="user", parts=parts)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (lm15.Message.user("Hi"), [{"role": "user", "content": "Hi"}]),
        (lm15.Message.developer("Be brief."), [{"role": "developer", "content": "Be brief."}]),
        (
            _user(lm15.TextPart("See"), lm15.ImagePart(url="http://x/y.png", detail="low")),
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "See"},
                        {"type": "image_url", "image_url": {"url": "http://x/y.png", "detail": "low"}},
                    ],
                }
            ],
        ),
        (
            _user(lm15.ImagePart(data=PNG), lm15.DocumentPart(file_id="f1")),
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                        {"type": "document", "media_type": "application/pdf", "file_id": "f1"},
                    ],
                }
            ],
        ),
        (
            lm15.Message(role="assistant", parts=(lm15.ThinkingPart("Hm."), CALL)),
            [{"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [OPENAI_CALL]}],
        ),
        (
            lm15.Message(role="assistant", parts=(lm15.RefusalPart("No."),)),
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
        ),
        (
            lm15.Message.tool({"t1": "a cat", "t2": [lm15.TextPart("a"), lm15.TextPart("b")]}),
            [
                {"role": "tool", "tool_call_id": "t1", "content": "a cat"},
                {
                    "role": "tool",
                    "tool_call_id": "t2",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                },
            ],
        ),
        (
            lm15.Message.tool("t1", "no such cat", is_error=True),
            [{"role": "tool", "tool_call_id": "t1", "content": "no such cat", "is_error": True}],
        ),
    ],
)
def test_messages(message: Any, expected: Any) -> None:
    """As OpenAI has them, whichever way the request was given, beside what else the call was given."""
    assert _called(_request(message)).inputs == {"messages": expected}
    assert _called(None, request=_request(message), cache=False).inputs == {"messages": expected, "cache": False}


def test_system_and_tools() -> None:
    """The system's text is the first message, and a function as OpenAI has it, with its schema as it was given."""
    schema = {"type": "object", "properties": {"at": {"type": "integer", "default": None}}, "required": []}
    tools = (lm15.FunctionTool(name="find", parameters=schema), lm15.BuiltinTool(name="search"))
    inputs = _called(_request(system="Be kind.", tools=tools)).inputs
    assert inputs["messages"][0] == {"role": "system", "content": "Be kind."}
    assert inputs["tools"] == [
        {"type": "function", "function": {"name": "find", "parameters": schema}},
        {"name": "search", "config": None, "type": "builtin"},
    ]


def test_parameters_are_those_of_the_request() -> None:
    """What the request says is what the model was asked; the LM's defaults are not sent with it."""
    config = lm15.Config(max_tokens=50, temperature=0.0, stop=("x",), reasoning=lm15.Reasoning(effort="low"))
    span = _called(_request(config=config))
    assert span.attributes == {
        "request.max_tokens": 50,
        "request.temperature": 0.0,
        "request.reasoning_effort": "low",
    }
    assert {**span.inputs, "messages": None} == {
        "messages": None,
        "max_tokens": 50,
        "temperature": 0.0,
        "stop": ["x"],
        "reasoning_effort": "low",
    }
    assert _called(_request()).attributes == {}


def test_parameters_by_the_names_of_ordinary_calls() -> None:
    """Each under one name, whichever way a model is called; extensions are sent as they are, in place of the rest."""
    config = lm15.Config(
        reasoning=lm15.Reasoning(effort="high", summary="auto"),
        tool_choice=lm15.ToolChoice(mode="none"),
        cache=lm15.CacheConfig(retention="long"),
        seed=1,
        extensions={"logit_bias": {"5": 1}, "seed": 2},
    )
    span = _called(_request(config=config), cache=False)
    assert {**span.inputs, "messages": None} == {
        "messages": None,
        "reasoning_effort": "high",
        "reasoning": {"summary": "auto"},
        "tool_choice": "none",
        "prompt_cache": {"mode": "auto", "retention": "long"},
        "cache": False,
        "logit_bias": {"5": 1},
        "seed": 2,
    }
    assert span.attributes == {"request.reasoning_effort": "high", "request.seed": 2}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([lm15.TextPart("Hello")], ["Hello"]),
        ([lm15.TextPart("Hel"), lm15.TextPart("lo")], ["Hello"]),
        ([lm15.ThinkingPart("Hm."), lm15.TextPart("Hello")], [{"text": "Hello", "reasoning_content": "Hm."}]),
        ([CALL], [{"text": None, "tool_calls": [OPENAI_CALL]}]),
        ([lm15.TextPart("See"), lm15.CitationPart(title="A")], [{"text": "See", "citations": [{"title": "A"}]}]),
        ([lm15.RefusalPart("No.")], [{"content": [{"type": "refusal", "refusal": "No."}]}]),
        (
            [lm15.ImagePart(data=PNG)],
            [{"content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}]}],
        ),
    ],
)
def test_answers(parts: Any, expected: Any) -> None:
    """As DSPy gives the answers of other calls."""
    span = _called(_request(), *parts)
    assert (span.outputs, span.finish_reason) == (expected, "stop")


def test_an_answer_that_a_module_returns() -> None:
    """A typed response has the same form wherever it is a result."""

    class Asking(dspy.Module):  # type: ignore[misc]  # DSPy is untyped
        def forward(self) -> Any:
            return dspy.LM("acme/own", engine=Answering(lm15.TextPart("Yes.")), cache=False)(_request())

    with capture_spans() as spans:
        Asking()()
    assert [span.outputs for span in spans] == [["Yes."], ["Yes."]]


@pytest.mark.parametrize("typed", [False, True])
def test_the_same_call_in_both_ways(typed: bool) -> None:
    """Messages, tools, parameters, answer and facts: nothing in the span says how the call was written."""
    with LMServer() as server:
        server.script([Reply(content="Sunny.")])
        lm = server.lm(cache=False)
        schema = {"type": "object", "properties": {"city": {"type": "string"}}}
        with capture_spans() as spans:
            if typed:
                messages = (lm15.Message.user("How is it in Rome?"),)
                tools = (lm15.FunctionTool(name="weather", parameters=schema),)
                config = lm15.Config(temperature=0.5, max_tokens=9, tool_choice=lm15.ToolChoice(mode="auto"))
                lm(lm15.Request(model=lm.model, system="Be kind.", messages=messages, tools=tools, config=config))
            else:
                lm(
                    messages=[
                        {"role": "system", "content": "Be kind."},
                        {"role": "user", "content": "How is it in Rome?"},
                    ],
                    tools=[{"type": "function", "function": {"name": "weather", "parameters": schema}}],
                    temperature=0.5,
                    max_tokens=9,
                    tool_choice="auto",
                )
    assert spans[0].inputs == {
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "How is it in Rome?"}],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": schema}}],
        "temperature": 0.5,
        "max_tokens": 9,
        "tool_choice": "auto",
    }
    assert spans[0].outputs == ["Sunny."]
    assert spans[0].attributes == {"request.temperature": 0.5, "request.max_tokens": 9}


def _delivered(request: Any, capture: str = "full") -> list[Span]:
    memory = Memory()
    tracer = tracer_of(memory, tracing={"capture": capture, "max_text_chars": 1_000})
    lm = dspy.LM("acme/own", engine=Answering(lm15.TextPart("Yes.")), cache=False, temperature=0.9)
    with tracer.interaction():
        lm(request)
    assert tracer.flush()
    return memory.spans


def test_an_interaction_shows_the_same() -> None:
    """The inputs of its first call and the outputs of its last."""
    called, interaction = _delivered(_request())
    assert interaction.inputs == called.inputs == {"messages": [{"role": "user", "content": "Hi"}]}
    assert interaction.outputs == called.outputs == ["Yes."]


def test_without_content() -> None:
    """`capture = "metadata"`: nothing of what was said, and the parameters still those of the request."""
    called, _ = _delivered(_request(config=lm15.Config(max_tokens=9)), "metadata")
    assert (called.inputs, called.outputs, called.attributes) == (None, None, {"request.max_tokens": 9})


def test_secrets_and_long_texts() -> None:
    """They are taken out and cut as in any other call: in messages, tool calls, images and extensions."""
    secret = plain(random.Random(1))
    config = lm15.Config(extensions={"session_secret": secret, "proxy": {"password": secret}})
    call = lm15.ToolCallPart(id="t1", name="login", input={"password": secret})
    told = _user(lm15.TextPart(f"password: {secret}"), lm15.ImagePart(data="A" * 4_000))
    called, _ = _delivered(_request(told, lm15.Message(role="assistant", parts=(call,)), config=config))
    assert secret not in str(called.to_dict())
    assert "session_secret" not in called.inputs
    assert called.inputs["messages"][1]["tool_calls"][0]["function"]["name"] == "login"
    image = called.inputs["messages"][0]["content"][1]["image_url"]["url"]
    assert image.startswith("data:image/png;base64,AAAA")
    assert len(image) < 1_100
    assert "more characters" in image


def test_what_has_no_room_has_a_mark() -> None:
    """More messages than a span has room for: the first of them, and how many more there were."""
    messages = _called(_request(*[lm15.Message.user("Hi")] * 1_005)).inputs["messages"]
    assert messages[999:] == [{"role": "user", "content": "Hi"}, "… 5 more items"]
    deep: Any = "here"
    for _ in range(20):
        deep = {"in": deep}
    call = lm15.ToolCallPart(id="t1", name="find", input=deep)
    (answer,) = _called(_request(), call).outputs
    assert "… 1 items" in str(answer["tool_calls"][0]["function"]["arguments"])


def test_none_of_the_programs_code_runs() -> None:
    """A part or a config of a class of the program's is read by its fields alone."""
    ran: list[str] = []

    def spying(kind: Any) -> Any:
        def noted(self: Any, name: str) -> Any:
            ran.append(name)
            return object.__getattribute__(self, name)

        return type("Spying", (kind,), {"__getattribute__": noted})

    request = _request(_user(spying(lm15.TextPart)("Hi")), config=spying(lm15.Config)(max_tokens=9))
    assert ran  # by their constructors
    ran.clear()
    arguments = {"prompt": snapshot(request)}
    assert typed_calls.asked(arguments) == {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}
    assert typed_calls.parameters({"request": request}) == {"max_tokens": 9}
    assert ran == []


@pytest.mark.parametrize(
    "prompt",
    [None, "Hi", {}, {"messages": []}, {"model": "m", "messages": [{"role": "user", "parts": []}], "config": {}}],
)
def test_other_calls_stay_as_they_are(prompt: Any) -> None:
    """Only DSPy's own types are converted, not what looks like them."""
    assert typed_calls.asked({"prompt": prompt, "request": prompt}) is None
    assert typed_calls.parameters({"prompt": prompt, "request": prompt}) is None
