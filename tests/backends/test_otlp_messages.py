"""Messages of every kind, with images, tool calls and thoughts, in each convention's form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exact import RELEASE
from lm_server import LMServer, Reply, Tokens

pytest.importorskip("opentelemetry.proto")

from otlp_case import attributes_of
from otlp_server import traced

from spanhook import Span


def test_messages_of_every_kind(receiver: Any) -> None:
    """Images, tool calls and their results, in each convention's form."""
    messages = [
        {"role": "system", "content": "Be kind."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "a cat"},
    ]
    with LMServer() as lm, traced(receiver):
        lm.script([Reply(content="A cat.", reasoning_content="It has ears.", tokens=Tokens(1, 2))])
        lm.lm(cache=False, engine="litellm")(messages=messages)
    (call,) = receiver.spans
    parts = [part for message in json.loads(call.attributes["gen_ai.input.messages"]) for part in message["parts"]]
    assert parts == [
        {"type": "text", "content": "Be kind."},
        {"type": "text", "content": "What is this?"},
        {"type": "uri", "modality": "image", "uri": "https://example.com/a.png"},
        {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "aGk="},
        {"type": "tool_call", "id": "t1", "name": "look", "arguments": {"at": 1}},
        {"type": "tool_call_response", "id": "t1", "response": "a cat"},
    ]
    at = "llm.input_messages."
    flat = {name.removeprefix(at): value for name, value in call.attributes.items() if name.startswith(at)}
    assert flat == {
        "0.message.role": "system",
        "0.message.content": "Be kind.",
        "1.message.role": "user",
        "1.message.contents.0.message_content.type": "text",
        "1.message.contents.0.message_content.text": "What is this?",
        "1.message.contents.1.message_content.type": "image",
        "1.message.contents.1.message_content.image.image.url": "https://example.com/a.png",
        "1.message.contents.2.message_content.type": "image",
        "1.message.contents.2.message_content.image.image.url": "data:image/png;base64,aGk=",
        "2.message.role": "assistant",
        "2.message.tool_calls.0.tool_call.id": "t1",
        "2.message.tool_calls.0.tool_call.function.name": "look",
        "2.message.tool_calls.0.tool_call.function.arguments": '{"at":1}',
        "3.message.role": "tool",
        "3.message.tool_call_id": "t1",
        "3.message.content": "a cat",
    }
    (answer,) = json.loads(call.attributes["gen_ai.output.messages"])
    thought = [{"type": "reasoning", "content": "It has ears."}] if RELEASE >= (3, 1) else []  # 3.0 drops it
    assert answer["parts"] == [*thought, {"type": "text", "content": "A cat."}]


@pytest.mark.parametrize(
    ("part", "made"),
    [
        ({"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "reasoning", "content": "Hm."}),
        ({"type": "refusal", "refusal": "No."}, {"type": "refusal", "refusal": "No."}),
        (
            {"type": "image_url", "image_url": "data:text/plain,hello"},
            {"type": "uri", "modality": "image", "uri": "data:text/plain,hello"},
        ),
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,aGk="}},
            {"type": "blob", "modality": "document", "mime_type": "application/pdf", "content": "aGk="},
        ),
    ],
)
def test_a_part_is_what_its_type_says(part: dict[str, Any], made: dict[str, Any]) -> None:
    """Not every text that stands under the name of its type is an address."""
    messages = [{"role": "user", "content": [part]}]
    span = Span("a" * 32, "b" * 16, None, "e1", "lm", "LM", 1, 2, inputs={"messages": messages})
    (message,) = json.loads(attributes_of(span)["gen_ai.input.messages"])
    assert message["parts"] == [made]
