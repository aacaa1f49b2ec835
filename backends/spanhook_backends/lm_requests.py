"""Calls of an LM by DSPy's own types, `lm(dspy.lm15.Request(…))`, in the form that all other calls have: OpenAI's.

Of such a call a span holds the request and the response as plain data. What is no such call is given back as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

_MEDIA = ("image", "audio", "video", "document")


def asked(inputs: Any) -> Any:
    """A call's inputs, with `messages` and `tools` in OpenAI's form in the place of a typed request."""
    request = _request(inputs)
    if request is None:
        return inputs
    system = request.get("system")
    messages: list[Mapping[str, Any]] = [{"role": "system", "content": _content(system)}] if system else []
    for message in request["messages"]:
        messages += _messages(message)
    made = {name: value for name, value in inputs.items() if name not in ("prompt", "request")}
    made["messages"] = messages
    if isinstance(tools := request.get("tools"), list) and tools:
        made["tools"] = [_tool(tool) for tool in tools]
    return made


def parameters(inputs: Any) -> dict[str, Any] | None:
    """How a typed request wants the answer, as far as it says so; None for what is none, and has it elsewhere."""
    request = _request(inputs)
    if request is None:
        return None
    config = request.get("config")
    return _without_none(config) if isinstance(config, Mapping) else {}


def answered(outputs: Any) -> Any:
    """A call's outputs as DSPy gives those of other calls: a list, in the place of a typed response.

    In it is a text or, with anything beside it, a dict: `text`, `content`, `reasoning_content`, `tool_calls`.
    """
    message = outputs.get("message") if isinstance(outputs, Mapping) else None
    if not _is_message(message):
        return outputs
    made = {name: value for name, value in _spoken(message).items() if name != "role" and value is not None}
    text = made.get("content")
    if not isinstance(text, str):
        return [made]
    return [text] if len(made) == 1 else [{"text": made.pop("content"), **made}]


def _request(inputs: Any) -> Mapping[str, Any] | None:
    for name in ("prompt", "request"):
        held = inputs.get(name) if isinstance(inputs, Mapping) else None
        messages = held.get("messages") if isinstance(held, Mapping) else None
        if isinstance(messages, list) and messages and all(map(_is_message, messages)):
            return held
    return None


def _is_message(message: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(message, Mapping) and "role" in message and isinstance(message.get("parts"), list)


def _messages(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What is said in it, and each tool's result as a message of its own, as OpenAI has them."""
    results = [part for part in message["parts"] if _kind(part) == "tool_result"]
    if len(results) < len(message["parts"]) or not results:
        yield _spoken(message)
    for result in results:
        yield {"role": "tool", "tool_call_id": result.get("id"), "content": _content(result.get("content"))}


def _spoken(message: Mapping[str, Any]) -> dict[str, Any]:
    by_kind: dict[str, list[Any]] = {"thinking": [], "tool_call": [], "tool_result": [], "": []}
    for part in message["parts"]:
        by_kind.get(_kind(part), by_kind[""]).append(part)
    made = {"role": message["role"], "content": _content(by_kind[""]) if by_kind[""] else None}
    if thoughts := [str(part.get("text")) for part in by_kind["thinking"]]:
        made["reasoning_content"] = "\n".join(thoughts)
    if calls := by_kind["tool_call"]:
        made["tool_calls"] = [
            {
                "id": call.get("id"),
                "type": "function",
                "function": {"name": call.get("name"), "arguments": call.get("input")},
            }
            for call in calls
        ]
    return made


def _content(parts: Any) -> Any:
    """A text where there is nothing else, else OpenAI's parts."""
    if not isinstance(parts, Sequence) or isinstance(parts, str):
        return parts
    made = [_part(part) for part in parts]
    return made[0]["text"] if len(made) == 1 and _kind(made[0]) == "text" else made


def _part(part: Any) -> dict[str, Any]:
    kind = _kind(part)
    if not isinstance(part, Mapping):
        return {"type": "text", "text": str(part)}
    url, data = part.get("url"), part.get("data")
    if kind in _MEDIA and isinstance(data, str):
        url = data if data.startswith("data:") else f"data:{part.get('media_type')};base64,{data}"
    if kind in _MEDIA and isinstance(url, str):
        return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}
    if kind == "text":
        return {"type": "text", "text": str(part.get("text"))}
    if kind == "refusal":
        return {"type": "refusal", "refusal": part.get("text")}
    return _without_none(part)


def _kind(part: Any) -> str:
    return str(part.get("type")) if isinstance(part, Mapping) else "text"


def _tool(tool: Any) -> Any:
    if _kind(tool) != "function" or not isinstance(tool, Mapping):
        return tool
    return {"type": "function", "function": _without_none({k: v for k, v in tool.items() if k != "type"})}


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is not set: None, and an empty list of things."""
    return {name: value for name, value in values.items() if value is not None and value != []}
