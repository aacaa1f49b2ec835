"""Values as text, and text that fits: Raindrop takes events of up to 1 MiB, as JSON whose characters are all ASCII."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MAX_CHARS = 1_000_000  # of one text, Raindrop's own limit
MAX_ID_BYTES = 8_192

_encoder = json.JSONEncoder(ensure_ascii=False)


def text_of(value: Any, max_chars: int = MAX_CHARS) -> str:
    """A string as it is, anything else as JSON; no more than about `max_chars` characters of it."""
    if isinstance(value, str):
        return _valid(value if len(value) <= max_chars else _cut(value, max_chars))
    text = _encoder.encode(value)
    return text if len(text) <= max_chars else f"{text[:max_chars]}… [cut]"


def texts_of(values: Any) -> str | None:
    """The values of a dict, or the strings of a list, one below the other; None if there is no text in them."""
    if isinstance(values, Mapping):
        parts = list(values.values())
    elif isinstance(values, list) and all(isinstance(value, str) for value in values):
        parts = values
    else:
        return None if values is None else text_of(values) or None
    lines: list[str] = []
    room = MAX_CHARS
    for part in parts:
        if room <= 0:
            lines.append(f"… [{len(parts) - len(lines)} more values]")
            break
        lines.append(text_of(part, room))
        room -= len(lines[-1])
    return "\n".join(lines) or None


def wire_bytes(text: str) -> int:
    """How many bytes a text is in the JSON that the SDK sends."""
    return len(json.dumps(text))


def fit(text: str, max_bytes: int) -> str:
    """The text, cut so that it is at most about `max_bytes` bytes of JSON; what is cut says so."""
    if 12 * len(text) + 2 <= max_bytes or wire_bytes(text) <= max_bytes:  # no character is longer than two escapes
        return text
    keep = text[:max_bytes]
    while keep and (size := wire_bytes(keep)) > max_bytes:
        keep = keep[: len(keep) * max_bytes // size]
    return _cut(text, len(keep))


def fit_both(first: str | None, second: str | None, max_bytes: int) -> tuple[str | None, str | None]:
    """Two texts that share the room: only the longer one is cut as long as that is enough."""
    half = max_bytes // 2
    sizes = [0 if text is None else min(wire_bytes(text[:max_bytes]), max_bytes) for text in (first, second)]
    rooms = [max(half, max_bytes - size) for size in reversed(sizes)]
    cut = [None if text is None else fit(text, room) for text, room in zip((first, second), rooms, strict=True)]
    return cut[0], cut[1]


def id_text(value: str) -> str:
    """An id as Raindrop can take it: valid Unicode, and no longer than an id can be."""
    return fit(_valid(value), MAX_ID_BYTES)


def _cut(text: str, chars: int) -> str:
    return f"{text[:chars]}… [{len(text) - chars} more characters]"


def _valid(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
