"""About how much memory an item takes: to bound queues and batches, not to account for bytes."""

from __future__ import annotations

import marshal
from typing import Any

from spanhook.delivery.items import Identity, Item
from spanhook.snapshot import snapshot
from spanhook.span import Span

FIXED_BYTES = 600  # a span's or signal's own fields: ids, times, names
_WITHOUT_REFERENCES = 2  # the version of the format in which what is there twice counts twice


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
    """Of plain data, as it would be written down: by C code that is many times faster than a walk in Python."""
    try:
        return len(marshal.dumps(content, _WITHOUT_REFERENCES))
    except ValueError:  # what is held for `keep` is not finished yet, and may have the program's objects in it
        return len(marshal.dumps(snapshot(content), _WITHOUT_REFERENCES))
