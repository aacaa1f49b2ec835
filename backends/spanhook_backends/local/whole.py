"""A span with all that it holds, for `spanhook show --full`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from spanhook import Span
from spanhook_backends.terminal import facts
from spanhook_backends.terminal.previews import clip, escape, slim


def block(span: Span) -> Text:
    """Its name and id, and then inputs, outputs, attributes and error, each text whole."""
    short = slim(span)
    title = Text.assemble(facts.label(short), facts.name(short), (f"  span {clip(span.span_id, 16)}", "dim"))
    lines = [title]
    for name, value in (("inputs", span.inputs), ("outputs", span.outputs), ("attributes", span.attributes or None)):
        if value is not None:
            lines.append(Text(f"  {name}", "bold"))
            lines += _lines(value, "    ")
    if span.error is not None:
        lines.append(Text(f"  {escape(span.error.type)}", "red"))
        lines += [Text(f"    {line}", "red") for line in _split(span.error.traceback or span.error.message or "")]
    return Text("\n").join([*lines, Text()])


def _lines(value: Any, indent: str) -> Iterator[Text]:
    """A text as it is, a field or a message a heading, all else as JSON."""
    if isinstance(value, str):
        yield from (Text(f"{indent}{line}") for line in _split(value))
    elif isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _named(str(name), item, indent)
    elif _are_messages(value):
        for message in value:
            rest = {name: item for name, item in message.items() if name not in ("role", "content")}
            yield from _named(str(message["role"]), message.get("content"), indent)
            if rest:
                yield from _lines(rest, indent + "  ")
    elif isinstance(value, list) and len(value) == 1:
        yield from _lines(value[0], indent)
    else:
        yield from _lines(json.dumps(value, ensure_ascii=False, indent=2), indent)


def _named(name: str, value: Any, indent: str) -> Iterator[Text]:
    label = Text(f"{indent}{clip(name, 200)}: ", "dim")
    is_short = not value or isinstance(value, (str, int, float))
    if is_short and len(lines := list(_lines(value, ""))) == 1:
        yield label + lines[0]
        return
    label.rstrip()
    yield label
    yield from _lines(value, indent + "  ")


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(m, Mapping) and "role" in m for m in value)


def _split(text: str) -> list[str]:
    return escape(text).split("\n")
