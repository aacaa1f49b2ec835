"""A bounded copy of what the program may still change, as plain data: dicts, lists, strings, numbers, None.

`snapshot` runs on the program's thread: it copies containers, up to a depth and a number of items, and only refers to
strings, whatever their length. `trim` runs later, on Spanhook's own thread, and makes the copy fit for every backend.
Objects of unknown classes become `<package.Class>`: their `__repr__` is the program's code, and is never called.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import math
import pathlib
import types
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from pydantic import BaseModel

MAX_DEPTH = 12
MAX_ITEMS = 1_000  # of one container
MAX_NODES = 20_000  # of one snapshot

Converter = Callable[[Any], Any]

_ATOMS = frozenset({str, int, float, bool, type(None)})
_PLAIN_SEQUENCES = frozenset({list, tuple})
_SEQUENCES = (list, tuple, set, frozenset, deque)
_PRINTABLE = (  # immutable, and printed by the standard library's own code
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID, complex, range,
    pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath,
)  # fmt: skip
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)


def snapshot(value: Any, converters: Iterable[Converter] = ()) -> Any:
    """Copy `value` into plain data.

    Args:
        value: anything; generators, files and locks are named, never consumed.
        converters: tried on objects of classes that are not Python's own; each returns what to copy in the object's
            place, or None.
    """
    return value if type(value) in _ATOMS else _Snapshot(tuple(converters)).copy(value, 0)


class _Snapshot:
    __slots__ = ("_converters", "_nodes")

    def __init__(self, converters: tuple[Converter, ...]) -> None:
        self._converters = converters
        self._nodes = 0

    def copy(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in _ATOMS:
            return value
        if kind is dict:
            return self._dict(value, depth)
        if kind in _PLAIN_SEQUENCES:
            return self._sequence(value, kind, depth)
        return self._object(value, kind, depth)

    # Containers are read through their base class, so that no overridden method runs, and in one step in C, so that
    # no other thread of the program changes them meanwhile.

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        size = dict.__len__(value)
        if depth >= MAX_DEPTH or self._nodes >= MAX_NODES:
            return f"… {size} items"
        pairs = list(islice(dict.items(value), MAX_ITEMS))
        self._nodes += len(pairs)
        copied = {key if type(key) is str else self._key(key): self.copy(item, depth + 1) for key, item in pairs}
        if size > MAX_ITEMS:
            copied["…"] = f"{size - MAX_ITEMS} more items"
        return copied

    def _sequence(self, value: Any, base: Any, depth: int) -> Any:
        size = base.__len__(value)
        if depth >= MAX_DEPTH or self._nodes >= MAX_NODES:
            return f"… {size} items"
        items = list(islice(base.__iter__(value), MAX_ITEMS))
        self._nodes += len(items)
        copied = [self.copy(item, depth + 1) for item in items]
        if size > MAX_ITEMS:
            copied.append(f"… {size - MAX_ITEMS} more items")
        return copied

    def _key(self, key: Any) -> str:
        copied = self.copy(key, MAX_DEPTH)
        return copied if type(copied) is str else str(copied)

    def _object(self, value: Any, kind: type, depth: int) -> Any:
        for convert in self._converters:
            if (converted := convert(value)) is not None:
                return self.copy(converted, depth)
        if isinstance(value, enum.Enum):
            return f"{kind.__qualname__}.{value.name}"
        if isinstance(value, str):
            return str.__str__(value)
        if kind in _PRINTABLE:
            return str(value)
        if isinstance(value, (bytes, bytearray)):
            return f"<{len(value)} bytes>"
        if isinstance(value, dict):
            return self._dict(value, depth)
        for base in _SEQUENCES:
            if isinstance(value, base):
                return self._sequence(value, base, depth)
        if isinstance(value, BaseModel):
            fields = type(value).model_fields
            return self._dict({k: v for k, v in vars(value).items() if k in fields}, depth)
        if dataclasses.is_dataclass(kind):
            names = [f.name for f in dataclasses.fields(kind)]
            return self._dict({name: object.__getattribute__(value, name) for name in names}, depth)
        return name_of(value)


def name_of(value: Any) -> str:
    """What stands in a trace for an object that has no plain form: `<package.Class>`, `<class …>`, `<function …>`."""
    if isinstance(value, type):
        return f"<class {value.__module__}.{value.__qualname__}>"
    if isinstance(value, _FUNCTIONS):
        return f"<function {value.__qualname__}>"
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


def trim(value: Any, max_text_chars: int) -> Any:
    """Make a snapshot fit for JSON and for sending: long strings cut (and saying so), lone surrogates, NaN and huge
    integers as text. Returns the same object where nothing has to change.
    """
    if isinstance(value, str):
        return trim_text(value, max_text_chars)
    if isinstance(value, dict):
        return {trim_text(k, max_text_chars): trim(v, max_text_chars) for k, v in value.items()}
    if isinstance(value, list):
        return [trim(item, max_text_chars) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and value.bit_length() > 63:
        return f"<integer of {value.bit_length()} bits>"
    return value


def trim_text(text: str, max_chars: int) -> str:
    """At most `max_chars` characters of `text` and a mark for the rest; valid Unicode."""
    if len(text) > max_chars:
        text = f"{text[:max_chars]}… [{len(text) - max_chars} more characters]"
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
