"""Short texts for the terminal, where what a model says is shown and never obeyed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from spanhook import Span, SpanError

MAX_FIELDS = 12  # of one span's inputs or outputs
MAX_VALUE_CHARS = 80
MAX_ERROR_CHARS = 400
MAX_ID_CHARS = 200  # ids are there to be copied, so only what can be none is cut

# What a terminal may obey, or what turns its text around: control characters, bidi marks and overrides, line
# separators, annotations, lone surrogates, invisible tags.
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_SPACE = re.compile("[ \t\r\n]+")
# What the tree shows of a span's attributes.
_ATTRIBUTES = (
    "dspy.signature", "cost_avoided_usd", "finish_reasons", "score", "score_unknown", "compile.trial", "over_budget",
)  # fmt: skip

Fields = tuple[tuple[str, str], ...]  # name and value; a value that has no name has ""


def escape(text: str) -> str:
    """`text` with everything that could move a terminal's cursor, give it orders or turn its text around escaped.

    Line breaks and tabs stay.
    """
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def clip(text: str, max_chars: int) -> str:
    """`text` on one line, escaped, and cut to about `max_chars` characters with a mark; escapes come on top."""
    cut = len(text) > max_chars
    line = _SPACE.sub(" ", text[: max_chars - 1] if cut else text).strip()
    return escape(line) + ("…" if cut else "")


def clip_id(text: str) -> str:
    """An id, whole."""
    return clip(text, MAX_ID_CHARS)


def brief(value: Any, max_chars: int = MAX_VALUE_CHARS) -> str:
    """A value of plain data in about `max_chars` characters: strings quoted, keys bare. Reads no more than it shows."""
    if isinstance(value, str):
        return f'"{clip(value, max_chars)}"'
    if isinstance(value, Mapping):
        items = (f"{clip(str(key), max_chars)}: {brief(item, max_chars)}" for key, item in value.items())
        return "{" + _joined(items, max_chars) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + _joined((brief(item, max_chars) for item in value), max_chars) + "]"
    return clip(str(value), max_chars)


def fields(value: Any) -> Fields:
    """The previews of a span's inputs or outputs, one a field."""
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        return (("", brief(value)),)
    return tuple(_first((clip(str(name), 40), brief(item)) for name, item in value.items()))


def slim(span: Span) -> Span:
    """A copy for the tree: `inputs` and `outputs` are `Fields`, and all else that may be long is cut.

    A trace waits for its root with these, so it holds on to none of the program's texts.
    """
    inputs, outputs = span.inputs, span.outputs
    if span.kind == "lm":
        inputs, outputs = _asked(inputs), _answered(outputs)
    elif span.kind == "adapter_parse" and isinstance(inputs, Mapping):
        inputs = {name: value for name, value in inputs.items() if name != "signature"}  # the module's line has it
    error = span.error
    if error is not None:
        first_line = next((line for line in (error.message or "").splitlines() if line.strip()), "")
        error = SpanError(clip(error.type.rpartition(".")[2], MAX_VALUE_CHARS), clip(first_line, MAX_ERROR_CHARS), None)
    return replace(
        span,
        name=clip(span.name, MAX_VALUE_CHARS),
        inputs=fields(inputs),
        outputs=fields(outputs),
        error=error,
        attributes={name: span.attributes[name] for name in _ATTRIBUTES if name in span.attributes},
        sources={},
    )


def _asked(inputs: Any) -> Any:
    """Of an LM's inputs, the text that it was asked last."""
    if not isinstance(inputs, Mapping):
        return inputs
    messages = inputs.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], Mapping):
        return messages[-1].get("content")
    return inputs.get("prompt", inputs)


def _answered(outputs: Any) -> Any:
    """Of an LM's outputs, the one text where there is one."""
    if isinstance(outputs, list) and len(outputs) == 1:
        outputs = outputs[0]
    return outputs.get("text", outputs) if isinstance(outputs, Mapping) else outputs


def _joined(parts: Iterator[str], max_chars: int) -> str:
    taken: list[str] = []
    length = 0
    for part in parts:
        if length > max_chars:
            taken.append("…")
            break
        taken.append(part)
        length += len(part) + 2
    return ", ".join(taken)


def _first(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for index, pair in enumerate(pairs):
        if index == MAX_FIELDS:
            yield "…", ""
            return
        yield pair
