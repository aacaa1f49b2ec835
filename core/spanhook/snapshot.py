"""A bounded copy of what the program may still change, as plain data: dicts, lists, strings, numbers, None.

`snapshot` runs on the program's thread: it copies containers, up to a depth and a number of items, and only refers to
strings, whatever their length. `trim` runs later, on Spanhook's own thread, and makes the copy fit for every backend.
Objects of unknown classes become `<package.Class>`: their `__repr__` is the program's code, and is never called.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import pathlib
import types
import uuid
import zoneinfo
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from pydantic_core import TzInfo

from spanhook import held
from spanhook.guard import probe

MAX_DEPTH = 12
MAX_ITEMS = 1_000  # of one container
MAX_NODES = 20_000  # of one snapshot
_MAX_FLAT_ITEMS = MAX_NODES // MAX_ITEMS
MAX_KEY_CHARS = 1_000  # of a dict's key that is no string

Converter = Callable[[Any], Any]
Fields = Mapping[type, Callable[[Any], dict[str, Any]]]

_ATOMS = frozenset({str, int, float, bool, type(None)})
_SEQUENCES = (list, tuple, set, frozenset, deque)
_BYTES = (bytes, bytearray)
_PRINTABLE = frozenset({  # immutable, and printed by the standard library's own code
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID, complex, range,
    pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath,
})  # fmt: skip
_ZONES = (datetime.timezone, zoneinfo.ZoneInfo, TzInfo)
_FUNCTIONS = frozenset({types.FunctionType, types.BuiltinFunctionType})
_NO_FIELDS: Fields = {}


def snapshot(value: Any, converters: Sequence[Converter] = (), fields: Fields = _NO_FIELDS) -> Any:
    """Copy `value` into plain data.

    Args:
        value: anything; generators, files and locks are named, never consumed.
        converters: tried on objects of classes that are not Python's own; each returns what to copy in the object's
            place, or None.
        fields: how to read objects of exactly these classes; none of the program's code may run for that.
    """
    if (copied := flat_copy(value)) is not None:
        return copied
    copier = _Snapshot()
    copier.converters, copier.fields = converters, fields
    return copier.copy(value, 0)


def flat_copy(value: Any) -> Any:
    """A copy of a dict of texts and numbers, or of a list of texts and a few such dicts; of anything else None."""
    kind = type(value)
    if kind is dict:
        if len(value) > MAX_ITEMS:
            return None
        copied = value.copy()
        for key, item in copied.items():
            if type(key) is not str or (type(item) is not str and not _is_atom(item)):
                return None
        return copied
    if kind is not list or len(value) > _MAX_FLAT_ITEMS:
        return None
    copied = value.copy()
    for index, item in enumerate(copied):
        if type(item) is dict:
            item = copied[index] = flat_copy(item)
            if item is None:
                return None
        elif type(item) is not str:
            return None
    return copied


def _is_atom(value: Any) -> bool:
    kind = type(value)  # compared by identity: a metaclass may have a hash, and an equality, of its own
    return kind is int or kind is float or kind is bool or value is None


class _Snapshot:
    # No `__init__`: it would cost each call as much as copying a few strings.
    converters: Sequence[Converter] = ()
    fields: Fields = _NO_FIELDS
    _nodes = 0

    def copy(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is dict:
            return self.mapping(value, depth)
        if kind is list or kind is tuple:
            return self.sequence(value, kind, depth)
        if type(kind) is type:  # a metaclass may have a hash of its own
            if kind in _ATOMS:
                return value
            if (read := self.fields.get(kind)) is not None:
                return self.mapping(read(value), depth)
        return self._object(value, kind, depth)

    # Containers are read through their base class, so that no overridden method runs, and in one step in C, so that
    # no other thread of the program changes them meanwhile. Strings, of which most content is made, cost no call.

    def mapping(self, value: dict[Any, Any], depth: int) -> Any:
        size = dict.__len__(value)
        if depth >= MAX_DEPTH or self._nodes >= MAX_NODES:
            return f"… {size} items"
        if type(value) is not dict or size > MAX_ITEMS:
            return self._pairs(list(islice(dict.items(value), MAX_ITEMS)), size, depth)
        self._nodes += size
        copied = value.copy()
        for key, item in copied.items():
            if type(key) is not str:
                return self._pairs(list(value.items()), size, depth)
            if type(item) is not str:
                copied[key] = self.copy(item, depth + 1)
        return copied

    def _pairs(self, pairs: list[tuple[Any, Any]], size: int, depth: int) -> dict[str, Any]:
        self._nodes += len(pairs)
        copied = {key if type(key) is str else self._key(key): self.copy(item, depth + 1) for key, item in pairs}
        if size > MAX_ITEMS:
            copied["…"] = f"{size - MAX_ITEMS} more items"
        return copied

    def sequence(self, value: Any, base: Any, depth: int) -> Any:
        size = base.__len__(value)
        if depth >= MAX_DEPTH or self._nodes >= MAX_NODES:
            return f"… {size} items"
        copied = list(value if type(value) is base and size <= MAX_ITEMS else islice(base.__iter__(value), MAX_ITEMS))
        self._nodes += len(copied)
        for index, item in enumerate(copied):
            if type(item) is dict:
                copied[index] = self.mapping(item, depth + 1)
            elif type(item) is not str:
                copied[index] = self.copy(item, depth + 1)
        if size > MAX_ITEMS:
            copied.append(f"… {size - MAX_ITEMS} more items")
        return copied

    def _key(self, key: Any) -> str:
        if type(key) is bytes:  # it may be the name of a secret
            return repr(key[:MAX_KEY_CHARS])
        copied = self.copy(key, MAX_DEPTH - 1)  # a tuple is written out, what is in it is not
        return copied if type(copied) is str else str(trim(copied, MAX_KEY_CHARS))

    def _object(self, value: Any, kind: type, depth: int) -> Any:
        """Copy an object of another class; where code of the program runs for that and raises, only name its class."""
        copied, error = probe(self._converted, value, kind, depth)
        return copied if error is None else held.class_name(kind)

    def _converted(self, value: Any, kind: type, depth: int) -> Any:
        for convert in self.converters:
            if (converted := convert(value)) is not None:
                return self.copy(converted, depth)
        # By its class and never by isinstance: mocks and proxies give another class as their own.
        if held.is_model(kind):
            return self.mapping(held.model_fields(value, kind), depth)
        if issubclass(kind, enum.Enum):
            return f"{held.qualname(kind)}.{held.own(value)['_name_']}"
        if issubclass(kind, str):
            return str.__str__(value)
        if issubclass(kind, int):
            return int.__pos__(value)
        if issubclass(kind, float):
            return float.__pos__(value)
        if type(kind) is type and kind in _PRINTABLE:
            return _printed(value)
        for base in _BYTES:
            if issubclass(kind, base):
                return f"<{base.__len__(value)} bytes>"
        if issubclass(kind, dict):
            return self.mapping(value, depth)
        for sequence in _SEQUENCES:
            if issubclass(kind, sequence):
                return self.sequence(value, sequence, depth)
        if (fields := held.dataclass_fields(value)) is not None:
            return self.mapping(fields, depth)
        return name_of(value)


def _printed(value: Any) -> str:
    """A value of the standard library's, as text; a time without its zone where that is the program's code."""
    zone = getattr(value, "tzinfo", None)
    if zone is not None and not any(type(zone) is known for known in _ZONES):
        value = value.replace(tzinfo=None)
    return str(value)


def name_of(value: Any) -> str:
    """What stands in a trace for an object that has no plain form: `<package.Class>`, `<class …>`, `<function …>`."""
    kind = type(value)
    if issubclass(kind, type):
        return f"<class {held.class_name(value)[1:]}"
    function = value.__func__ if kind is types.MethodType else value
    if type(type(function)) is type and type(function) in _FUNCTIONS:
        return f"<function {function.__qualname__}>"
    return held.class_name(kind)


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


def trim_text(text: str, max_chars: int, *, beyond: int = 0) -> str:
    """At most `max_chars` characters of `text` and a mark for the rest; valid Unicode.

    Args:
        text: the text, or its beginning.
        max_chars: how much of it may stay.
        beyond: how many characters of it were left out already.
    """
    if type(text) is not str:
        text = str.__str__(text)  # of a class of the program's
    if len(text) > max_chars or beyond:
        text = f"{text[:max_chars]}… [{max(0, len(text) - max_chars) + beyond} more characters]"
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
