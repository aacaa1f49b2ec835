"""Finding the values of secret fields where DSPy's adapters write them: `[[ ## password ## ]]` and `<password>`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from spanhook.redaction.names import SecretNames

MARK = "[redacted]"

_LINE_END = r"(?:\r?\n|\\{1,16}(?:r\\{1,16})?n)"  # as it is, or escaped: the prompt may be a text in JSON
_MARKER = re.compile(rf"\[\[ ## ([\w.-]{{1,100}}) ## \]\](?:[ \t]{{0,20}}({_LINE_END}))?")
_TAG = re.compile(r"<(/?)([^\W\d][\w.-]{0,99})(?:\s[^<>\n]{0,200})?>")
_EDGE = re.compile(rf"(?:\s|{_LINE_END})*")
_LINE_START = ("\n", "\\n")


def blocks(text: str, names: SecretNames) -> Iterator[tuple[int, int]]:
    """Where in `text` stands what such fields hold. Prompts also describe the fields; the names stay."""
    if "[[ ## " in text:
        yield from _marked(text, names)
    if "</" in text:
        yield from _tagged(text, names)


def _marked(text: str, names: SecretNames) -> Iterator[tuple[int, int]]:
    """From a marker to the next, or to the end; what stands in a sentence is none."""
    name, start = "", 0
    for marker in _MARKER.finditer(text):
        if marker[2] is None and not text.endswith(_LINE_START, 0, marker.start()):
            continue
        if name:
            yield from _held(text, name, start, marker.start())
        name, start = "", marker.end()
        if marker[2] is not None and names.has(marker[1]):
            name = marker[1]
            if "\\" in marker[2] and (line_end := text.find("\n", start)) >= 0:
                # The text in which this is a text ends with its line.
                yield from _held(text, name, start, _next_marker(text, start, line_end))
                name = ""
    if name:
        yield from _held(text, name, start, len(text))


def _next_marker(text: str, start: int, end: int) -> int:
    marker = _MARKER.search(text, start, end)
    return end if marker is None else marker.start()


def _tagged(text: str, names: SecretNames) -> Iterator[tuple[int, int]]:
    """From a tag to the one that closes it. One line of text may be code or prose; `named_values` judges it."""
    opened: dict[str, int] = {}
    for tag in _TAG.finditer(text):
        name = tag[2]
        if not tag[1]:
            if names.has(name):
                opened[name] = tag.end()
        elif (start := opened.pop(name, -1)) >= 0:
            value = text[start : tag.start()]
            if "<" in value or value.startswith(("\n", "\r\n", "\\")) or names.has_own(name):
                yield from _held(text, name, start, tag.start())


def _held(text: str, name: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The place of a field's value, if it is one and not `{name}`, which stands for it in instructions."""
    edge = _EDGE.match(text, start, end)
    start = edge.end() if edge is not None else start
    while end > start and (text[end - 1].isspace() or text.startswith("\\n", end - 2)):
        end -= 1 if text[end - 1].isspace() else 2
    value = text[start:end].rstrip("\\")
    if value.strip(" .…") and value != MARK and not value.startswith("{" + name + "}"):
        yield start, start + len(value)
