"""Calls of an LM by DSPy's own types, `lm(dspy.lm15.Request(…))`, in the form of all other calls: OpenAI's.

DSPy 3.4 has brought them; 3.3 has others, `LMRequest` and `LMResponse`, as an experiment that ended with it.

What is converted is plain data already: a snapshot of a request or a response, field by field. Where something was too
large for the snapshot, a mark stands in its place, and stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import dspy

from spanhook.snapshot import snapshot

_lm15 = getattr(dspy, "lm15", None)
_REQUEST: Any = getattr(dspy, "LMRequest", None) if _lm15 is None else _lm15.Request
RESPONSE: Any = getattr(dspy, "LMResponse", None) if _lm15 is None else _lm15.Response
"""The class of what a call by a typed request returns; None where DSPy has none."""

_FIELDS: frozenset[str] = frozenset(getattr(_REQUEST, "model_fields" if _lm15 is None else "__dataclass_fields__", ()))
_MEDIA = ("image", "audio", "video", "document")
_NOT_SAID = ("continuation", "metadata")
_Fields = Mapping[str, Any]


def asked(arguments: _Fields) -> dict[str, Any] | None:
    """A call's arguments as those of an ordinary call: `messages`, `tools` and what the request's config sets.

    None where no copy of a typed request is among them.
    """
    name, request = _request_in(arguments)
    if type(request) is not dict:
        return None
    rest = {key: value for key, value in arguments.items() if key not in (name, "items")}
    system, given, tools = request.get("system"), request["messages"], request["tools"]
    messages: list[Any] = [] if system is None else [{"role": "system", "content": _content(system)}]
    for message in given if isinstance(given, list) else [given]:
        messages += _messages(message) if isinstance(message, Mapping) else [message]
    made: dict[str, Any] = {"messages": messages}
    if tools:
        made["tools"] = [_tool(tool) for tool in tools] if isinstance(tools, list) else tools
    return {**made, **_parameters(request["config"]), **rest, **made}


def parameters(arguments: _Fields) -> dict[str, Any] | None:
    """What a typed request's config sets; None where no request is among a call's arguments, nor the copy of one."""
    _, request = _request_in(arguments)
    if request is None:
        return None
    return _parameters(request["config"] if type(request) is dict else snapshot(request.config))


def answered(response: Any) -> list[Any]:
    """A typed response as DSPy gives those of ordinary calls: a list with a text.

    With anything beside the text it is a dict: `text`, `reasoning_content`, `tool_calls`, `citations`, `logprobs`; and
    `content` in place of the text where there are parts of other kinds. Runs on the call's thread, when it ends.
    """
    copied = snapshot(response)
    if "outputs" in copied:  # 3.3
        return [_answer(output["parts"], output["logprobs"]) for output in copied["outputs"]]
    return [_answer(copied["message"]["parts"], copied["logprobs"])]


def _answer(parts: Any, logprobs: Any) -> Any:
    made = _spoken(None, parts)
    del made["role"]
    content = made.pop("content")
    if isinstance(content, list) and all(_kind(part) == "text" for part in content):
        content = "".join(part["text"] for part in content)  # as DSPy does
    if logprobs is not None:
        made["logprobs"] = logprobs
    if content is None or isinstance(content, str):
        return {"text": content, **made} if made else content
    return {"content": content, **made}


def _request_in(arguments: _Fields) -> tuple[str, Any]:
    """The argument that is a typed request, or the copy of one, and its name; None if there is none."""
    for name in ("prompt", "request", "items") if _FIELDS else ():
        held: Any = arguments.get(name)
        if name == "items" and type(held) in (list, tuple) and len(held) == 1:  # 3.3
            held = held[0]
        if type(held) is dict:
            if len(held) == len(_FIELDS) and all(type(key) is str for key in held) and held.keys() == _FIELDS:
                return name, held
        elif type(held) is _REQUEST:
            return name, held
    return "", None


def _parameters(config: Any) -> dict[str, Any]:
    """By the names that ordinary calls have. `extensions` go to the provider as they are, and before the rest."""
    made = _set_fields(config)
    reasoning = _set_fields(made.pop("reasoning", None))
    if "effort" in reasoning:
        made["reasoning_effort"] = reasoning.pop("effort")
    choice: Any = _set_fields(made.pop("tool_choice", None))
    choice = choice["mode"] if choice.keys() == {"mode"} else choice
    made.update(_set_fields({"reasoning": reasoning, "tool_choice": choice}))
    if _lm15 is not None and "cache" in made:  # the provider's; what ordinary calls give by that name is DSPy's own
        made["prompt_cache"] = _set_fields(made.pop("cache"))
    extensions = made.pop("extensions", None)
    return {**made, **extensions} if isinstance(extensions, Mapping) else made


def _messages(message: _Fields) -> Iterator[dict[str, Any]]:
    """What is said in it, and each tool's result as a message of its own, as OpenAI has them."""
    parts = message.get("parts")
    results = [part for part in parts if _kind(part) == "tool_result"] if isinstance(parts, list) else []
    if not results or results != parts:
        yield _spoken(message.get("role"), parts)
    for result in results:
        call_id = result.get("id", result.get("call_id"))
        more = {name: result[name] for name in ("name", "is_error") if result.get(name)}
        yield {"role": "tool", "tool_call_id": call_id, "content": _content(result.get("content")), **more}


def _spoken(role: Any, parts: Any) -> dict[str, Any]:
    if not isinstance(parts, list):
        return {"role": role, "content": parts}
    by_kind: dict[str, list[Any]] = {"thinking": [], "tool_call": [], "tool_result": [], "citation": [], "": []}
    for part in parts:
        by_kind.get(_kind(part), by_kind[""]).append(part)
    made = {"role": role, "content": _content(by_kind[""]) if by_kind[""] else None}
    if thoughts := by_kind["thinking"]:
        made["reasoning_content"] = "".join(str(part.get("text")) for part in thoughts)
    if calls := by_kind["tool_call"]:
        made["tool_calls"] = [_tool_call(call) for call in calls]
    if citations := by_kind["citation"]:
        made["citations"] = [{k: v for k, v in _set_fields(part).items() if k != "type"} for part in citations]
    return made


def _tool_call(call: _Fields) -> dict[str, Any]:
    given = call.get("input", call.get("args"))
    arguments = json.dumps(given, ensure_ascii=False)  # a text, as OpenAI and DSPy have it
    return {"id": call.get("id"), "type": "function", "function": {"name": call.get("name"), "arguments": arguments}}


def _content(parts: Any) -> Any:
    """A text where there is nothing else, else OpenAI's parts."""
    if not isinstance(parts, list):
        return parts
    made = [_part(part) for part in parts]
    return made[0]["text"] if len(made) == 1 and _kind(made[0]) == "text" else made


def _part(part: Any) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        return {"type": "text", "text": str(part)}
    kind, url = _kind(part), _url(part)
    if kind == "text":
        return {"type": "text", "text": str(part.get("text"))}
    if kind == "refusal":
        return {"type": "refusal", "refusal": part.get("text")}
    if kind not in _MEDIA or url is None:
        return {name: value for name, value in part.items() if value is not None and name not in _NOT_SAID}
    detail = part.get("detail")
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url} if detail is None else {"url": url, "detail": detail}}


def _url(part: _Fields) -> str | None:
    url, data = part.get("url"), part.get("data")
    if isinstance(data, str):
        url = data if data.startswith("data:") else f"data:{part.get('media_type')};base64,{data}"
    return url if isinstance(url, str) else None


def _kind(part: Any) -> str:
    return str(part.get("type")) if isinstance(part, Mapping) else "text"


def _tool(tool: Any) -> Any:
    if not isinstance(tool, Mapping) or _kind(tool) != "function":
        return tool
    return {"type": "function", "function": {k: v for k, v in _set_fields(tool).items() if k != "type"}}


def _set_fields(fields: Any) -> dict[str, Any]:
    """Without those that are not set: None, or nothing in them."""
    if not isinstance(fields, Mapping):
        return {}
    return {name: value for name, value in fields.items() if value is not None and value not in ([], {})}
