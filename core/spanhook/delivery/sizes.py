"""About how much memory an item takes: to bound queues and batches, not to account for bytes."""

from __future__ import annotations

from typing import Any

from spanhook.delivery.items import Identity, Item
from spanhook.span import Span

FIXED_BYTES = 600  # a span's or signal's own fields: ids, times, names
PER_VALUE_BYTES = 16  # a number, or the frame of a string or container


def size_of(item: Item) -> int:
    """The size of an item, in bytes; content counts by its characters. For the intake thread, once for all backends."""
    if isinstance(item, Identity):
        return FIXED_BYTES + _content_bytes([item.traits])
    if not isinstance(item, Span):
        return FIXED_BYTES + _content_bytes([item.properties, item.comment, item.after])
    content = [item.inputs, item.outputs, item.attributes]
    if item.error is not None:
        content += [item.error.message, item.error.traceback]
    return FIXED_BYTES + _content_bytes(content)


def _content_bytes(content: list[Any]) -> int:
    """Of plain data, as `snapshot` makes it: exact types, so this needs not ask for more."""
    size = 0
    for value in content:  # it grows meanwhile
        kind = type(value)
        if kind is str:
            size += len(value)
        elif kind is dict:
            size += sum(map(len, value))
            content += value.values()
        elif kind is list:
            content += value
    return size + PER_VALUE_BYTES * len(content)
