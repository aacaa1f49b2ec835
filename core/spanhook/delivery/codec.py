"""Items as JSON and back, exactly: for the spool."""

from __future__ import annotations

import zlib
from dataclasses import fields
from typing import Any

from pydantic_core import from_json, to_json

from spanhook.delivery.items import IDENTITY, SIGNAL, Identity, Item, kind_of
from spanhook.span import Signal, Span, SpanError, Usage

_SPAN_FIELDS = tuple(f.name for f in fields(Span))
_SIGNAL_FIELDS = tuple(f.name for f in fields(Signal))
_DIGEST_BYTES = 8


def encode(item: Item) -> bytes:
    """An item that was finished: its content is plain data. What is no JSON nevertheless becomes text.

    Behind the JSON is a checksum: SQLite sees no damage in the content of a row, and most of it would be a valid item.
    """
    data: dict[str, Any]
    if isinstance(item, Identity):
        data = {"user_id": item.user_id, "traits": dict(item.traits)}
    elif isinstance(item, Span):
        data = {name: value for name in _SPAN_FIELDS if (value := getattr(item, name)) is not None}
        if item.usage is not None:
            data["usage"] = item.usage.to_dict()
        if item.error is not None:
            data["error"] = [item.error.type, item.error.message, item.error.traceback]
    else:
        data = {name: value for name in _SIGNAL_FIELDS if (value := getattr(item, name)) is not None}
    text = to_json(data, inf_nan_mode="strings", serialize_unknown=True)
    return text + _digest(kind_of(item), text)


def decode(kind: int, body: object) -> Item | None:
    """What `encode` was given; None if it is damaged."""
    try:
        return _decode(kind, body) if isinstance(body, bytes) else None
    except (ValueError, TypeError, KeyError):
        return None


def _digest(kind: int, text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text, kind)


def _decode(kind: int, body: bytes) -> Item:
    text = body[:-_DIGEST_BYTES]
    if body[-_DIGEST_BYTES:] != _digest(kind, text):
        raise ValueError("it is not what was written")
    data: dict[str, Any] = from_json(text)
    if kind == IDENTITY:
        return Identity(data["user_id"], data["traits"])
    if kind == SIGNAL:
        return Signal(**{name: data[name] for name in _SIGNAL_FIELDS if name in data})
    if "usage" in data:
        data["usage"] = Usage(**data["usage"])
    if "error" in data:
        data["error"] = SpanError(*data["error"])
    return Span(**{"parent_id": None, **{name: data[name] for name in _SPAN_FIELDS if name in data}})
