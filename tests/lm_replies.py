"""What the tests' language model says.

Every number in an answer follows from the serial of its request, so that two answers never share one and a mix-up
shows. `lm_wire` spells the answer in OpenAI's protocol and `lm_server` sends it.
"""

from __future__ import annotations

import ast
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

Body: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The token counts of one answer; None is not sent at all. Cached and written are part of `prompt`."""

    prompt: int
    completion: int
    cached: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    audio_in: int | None = None
    audio_out: int | None = None

    @classmethod
    def of(cls, serial: int) -> Tokens:
        """Counts that belong to this serial alone."""
        return cls(10_000 + 7 * serial, 5_000 + 3 * serial, cached=100 + serial, reasoning=50 + serial)

    @property
    def total(self) -> int:
        """Prompt and completion together."""
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True)
class Reply:
    """One scripted answer. `{serial}` in its texts becomes the number of the request that gets it.

    Attributes:
        content: The raw text; None for a plain default, or for no text at all beside `tool_calls`.
        fields: Output fields instead of `content`, written in the form that the request asks for.
        tool_calls: `(name, arguments)` pairs.
        reasoning_content: What the model thought, sent beside the text.
        finish_reason: In chat's words; None for "stop" or "tool_calls".
        model: The model that answers; None for the asked one with the serial behind it.
        tokens: The usage; "serial" for numbers made from the serial, None for an answer without usage.
        chunks: The pieces of a streamed text; None for one word each.
        status: From 400 on, the answer is an error in OpenAI's form.
        error_code: Its `code`; None for the usual one of that status.
        retry_after_s: Its Retry-After header.
        delay_s: How long to think before the first byte.
        hold: Think until this is set instead (at most 30 s; the server's end sets it too).
        stream_hold: The same, between the first streamed text and the rest.
        break_off: Close the connection in the middle of the body.
    """

    content: str | None = None
    fields: Mapping[str, Any] | None = None
    tool_calls: Sequence[tuple[str, Mapping[str, Any]]] = ()
    reasoning_content: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    tokens: Tokens | Literal["serial"] | None = "serial"
    chunks: Sequence[str] | None = None
    status: int = 200
    error_code: str | None = None
    retry_after_s: float | None = None
    delay_s: float = 0.0
    hold: threading.Event | None = None
    stream_hold: threading.Event | None = None
    break_off: bool = False


ScriptItem: TypeAlias = str | Mapping[str, Any] | Reply
Responder: TypeAlias = Callable[[Body], ScriptItem | None]


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply made final for one request: what goes on the wire, whatever the endpoint."""

    serial: int
    model: str
    texts: Sequence[str | None]
    finish_reason: str
    tokens: Tokens | None
    reply: Reply

    @property
    def tool_calls(self) -> list[tuple[str, str, str]]:
        """Id, name and JSON arguments of each tool call."""
        calls = enumerate(self.reply.tool_calls)
        return [(f"call_{self.serial}_{i}", name, json.dumps(arguments)) for i, (name, arguments) in calls]

    def pieces(self, text: str | None) -> Sequence[str]:
        """The text as it is streamed."""
        return self.reply.chunks or re.findall(r"\s*\S+\s*$|\s*\S+|\s+", text or "")


def make_answer(serial: int, body: Body, item: ScriptItem | None, finish_reasons: Sequence[str]) -> Answer:
    """Decide everything about the answer to one request; `item` None means: the fields it asks for, with its serial."""
    if isinstance(item, str):
        reply = Reply(item)
    elif isinstance(item, Reply):
        reply = item
    else:
        reply = Reply(fields=item, finish_reason=None if item else finish_reasons[serial % len(finish_reasons)])
    style, wanted = asked_fields(body)
    texts: list[str | None] = []
    for choice in range(body.get("n") or 1):
        mark = f"{serial}.{choice}" if choice else str(serial)
        fields = reply.fields or {name: _value(name, kind, mark) for name, kind in wanted.items()}
        text = "".join(reply.chunks) if reply.chunks else reply.content
        if text is None and not reply.tool_calls:
            text = render(style, fields) if fields else f"answer-{mark}"
        texts.append(_numbered(text, serial))
    return Answer(
        serial,
        reply.model or f"{body.get('model')}-{serial}",
        texts,
        reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop"),
        Tokens.of(serial) if isinstance(reply.tokens, str) else reply.tokens,
        replace(reply, reasoning_content=_numbered(reply.reasoning_content, serial)),
    )


def _numbered(text: str | None, serial: int) -> str | None:
    return text and text.replace("{serial}", str(serial))


# How DSPy's adapters ask for output fields, at the end of the last message: (style, what comes first, what ends it).
_ASKS = (
    ("json", "Respond with a JSON object in the following order of fields: ", "\n"),
    ("chat", "Respond with the corresponding output fields, starting with the field ", ", and then ending with"),
    ("xml", "Respond with the corresponding output fields wrapped in XML tags ", "\n"),
)
_FIELD = re.compile(
    r"`(?:\[\[ ## |<)?(\w+)(?: ## \]\]|>)?`(?: \(must be formatted as a valid Python (.+?)\)(?=, then|\.|$))?"
)


def asked_fields(body: Body) -> tuple[str, dict[str, str]]:
    """The style ("chat", "json", "xml") and the output fields, name to Python type, that a request asks for."""
    text = _last_text(body)
    wanted_format = body.get("response_format") or (body.get("text") or {}).get("format") or {}
    as_json = wanted_format.get("type") in ("json_object", "json_schema")
    for style, start, end in _ASKS:
        if start in text:
            asked = text.rpartition(start)[2].partition(end)[0]
            return "json" if as_json else style, {name: kind or "str" for name, kind in _FIELD.findall(asked)}
    schema = wanted_format.get("schema") or (wanted_format.get("json_schema") or {}).get("schema") or {}
    return ("json", dict.fromkeys(schema.get("properties") or ["answer"], "str")) if as_json else ("chat", {})


def _last_text(body: Body) -> str:
    """The text of the last message, of a prompt, or of a Responses input."""
    last: Any = body.get("messages") or body.get("input") or body.get("prompt") or ""
    if isinstance(last, list):
        last = last[-1]
    if isinstance(last, dict):
        last = last.get("content") or ""
    return last if isinstance(last, str) else "\n".join(part.get("text") or "" for part in last)


def _value(name: str, kind: str, mark: str) -> Any:
    """A value of that Python type that carries the serial where the type can."""
    outer, _, inner = kind.removesuffix("]").partition("[")
    if outer == "Literal":
        return ast.literal_eval(f"[{inner}]")[0]
    if outer == "list":
        return [_value(name, inner or "str", mark)]
    plain = {"int": int(float(mark)), "float": float(mark), "bool": True, "dict": {name: mark}}
    return plain.get(outer, f"{name}-{mark}")


def render(style: str, fields: Mapping[str, Any]) -> str:
    """Output fields as text that the adapter of that style parses (XML: strings only, it asks for no types)."""
    if style == "json":
        return json.dumps(fields)
    shown = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    if style == "xml":
        return "\n".join(f"<{name}>\n{value}\n</{name}>" for name, value in shown.items())
    return "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in shown.items()) + "\n\n[[ ## completed ## ]]\n"
