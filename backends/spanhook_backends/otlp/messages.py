"""What a model was told and what it answered, as the messages of each convention."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spanhook_backends.otel.spans import Attributes
from spanhook_backends.plain_json import as_json

Message = Mapping[str, Any]  # as OpenAI has it: role, content, tool_calls, tool_call_id; and reasoning_content

# Parts that hold something by its address: under the name of their type, with these modalities.
_MODALITIES = {
    "image_url": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "video_url": "video",
    "document_url": "document",
    "file": "document",
}
_THOUGHTS = ("thinking", "reasoning")


def asked(inputs: Any) -> list[Message]:
    """The messages that an LM was called with; none where they can't be told."""
    if not isinstance(inputs, Mapping):
        return []
    messages = inputs.get("messages") or inputs.get("items")
    if isinstance(messages, list) and all(isinstance(message, Mapping) and "role" in message for message in messages):
        return messages
    prompt = inputs.get("prompt")
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else []


def answered(outputs: Any) -> list[Message]:
    """The model's answers, one message each."""
    if outputs is None:
        return []
    return [_answer(output) for output in (outputs if isinstance(outputs, list) else [outputs])]


def _answer(output: Any) -> Message:
    if not isinstance(output, Mapping):
        return {"role": "assistant", "content": output}
    known = {"content": output.get("text", output.get("content"))}
    known.update({name: output[name] for name in ("reasoning_content", "tool_calls") if output.get(name)})
    if known == {"content": None}:
        known["content"] = as_json(output)
    return {"role": "assistant", **known}


def genai_messages(messages: Sequence[Message], finish_reasons: Sequence[str] | None = None) -> str:
    """The JSON of `gen_ai.input.messages`, and with finish reasons that of `gen_ai.output.messages`."""
    made: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        made.append({"role": str(message["role"]), "parts": list(_parts(message))})
        if finish_reasons is not None:
            made[-1]["finish_reason"] = finish_reasons[index] if index < len(finish_reasons) else ""
    return as_json(made)


def _parts(message: Message) -> Iterator[dict[str, Any]]:
    reasoning, content = message.get("reasoning_content"), message.get("content")
    if isinstance(reasoning, str):
        yield {"type": "reasoning", "content": reasoning}
    if message.get("role") == "tool":
        yield {"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}
    elif isinstance(content, list):
        yield from (_part(part) for part in content)
    elif content is not None:
        yield {"type": "text", "content": as_text(content)}
    for name, call_id, arguments in _tool_calls(message):
        yield {"type": "tool_call", "id": call_id, "name": name, "arguments": _parsed(arguments)}


def _part(part: Any) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        return {"type": "text", "content": as_text(part)}
    kind = str(part.get("type", "unknown"))
    text = part.get("text", part.get(kind))
    if kind in _THOUGHTS and isinstance(text, str):
        return {"type": "reasoning", "content": text}
    if isinstance(text := part.get("text"), str):
        return {"type": "text", "content": text}
    url = _url(part)
    if url is None:
        return {**part, "type": kind}
    head, _, data = url.partition(",")
    if head.startswith("data:") and head.endswith(";base64"):
        mime = head.removeprefix("data:").split(";")[0]
        return {"type": "blob", "modality": _MODALITIES[kind], "mime_type": mime, "content": data}
    return {"type": "uri", "modality": _MODALITIES[kind], "uri": url}


def flattened(prefix: str, messages: Sequence[Message]) -> Attributes:
    """`llm.input_messages.0.message.role` and so on: OpenInference has an attribute for each part."""
    made: Attributes = {}
    for index, message in enumerate(messages):
        at = f"{prefix}.{index}.message"
        made[f"{at}.role"] = str(message["role"])
        content = message.get("content")
        if isinstance(content, list):
            for number, part in enumerate(content):
                made.update(_flattened_part(f"{at}.contents.{number}.message_content", part))
        elif content is not None:
            made[f"{at}.content"] = as_text(content)
        if isinstance(call_id := message.get("tool_call_id"), str):
            made[f"{at}.tool_call_id"] = call_id
        for number, (name, tool_id, arguments) in enumerate(_tool_calls(message)):
            call = f"{at}.tool_calls.{number}.tool_call"
            made[f"{call}.function.name"] = name
            made[f"{call}.function.arguments"] = as_text(arguments)
            if tool_id is not None:
                made[f"{call}.id"] = tool_id
    return made


def _flattened_part(at: str, part: Any) -> Attributes:
    if isinstance(part, Mapping) and not isinstance(part.get("text"), str):
        url = _url(part)
        if url is not None and part.get("type") == "image_url":
            return {f"{at}.type": "image", f"{at}.image.image.url": url}
        return {f"{at}.type": "text", f"{at}.text": as_json(part)}
    return {f"{at}.type": "text", f"{at}.text": as_text(part["text"] if isinstance(part, Mapping) else part)}


def tool_definition(tool: Any) -> Any:
    """A tool's definition in the form of `gen_ai.tool.definitions`, from OpenAI's; anything else as it is."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    return {"type": "function", **function} if isinstance(function, Mapping) else tool


def _url(part: Mapping[str, Any]) -> str | None:
    kind = str(part.get("type"))
    held = part.get(kind) if kind in _MODALITIES else None
    url = held.get("url", held.get("file_data")) if isinstance(held, Mapping) else held
    return url if isinstance(url, str) else None


def _tool_calls(message: Message) -> Iterator[tuple[str, str | None, Any]]:
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if not isinstance(call, Mapping):
            continue
        function = call.get("function")
        held = function if isinstance(function, Mapping) else call
        call_id = call.get("id")
        yield (
            str(held.get("name", "unknown")),
            call_id if isinstance(call_id, str) else None,
            held.get("arguments", held.get("args")),
        )


def _parsed(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def as_text(value: Any) -> str:
    """A string as it is, anything else as JSON."""
    return value if isinstance(value, str) else as_json(value)
