"""Snapshots of any data at all: strict JSON, bounded, and never an exception."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections import deque
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from spanhook.snapshot import snapshot, trim, trim_text


class Color(enum.Enum):
    RED = 1


class Silent(str):
    def __str__(self) -> str:
        raise AssertionError

    __repr__ = __len__ = __str__  # type: ignore[assignment]


class Real(float):
    """As numpy's float64 is a float."""


@dataclasses.dataclass
class Point:
    x: Any


def hostile(method: str, error: type[Exception] = RuntimeError) -> Any:
    """An object of which one method raises."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error("hostile")

    return type("Hostile", (), {method: property(fail) if method == "__class__" else fail})()


METHODS = [
    "__repr__",
    "__eq__",
    "__hash__",
    "__len__",
    "__iter__",
    "__getattr__",
    "__getattribute__",
    "__class__",
    "__dict__",
]
ODD = [Color.RED, Silent("x"), Real("nan"), Point(1), object(), len, Point, 10**5000, *map(hostile, METHODS)]


@dataclasses.dataclass(frozen=True)
class Odd:
    """Stands for an object that hypothesis itself could not handle."""

    number: int


ATOMS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters()), st.binary(), st.complex_numbers(),
    st.decimals(), st.dates(), st.integers(0, len(ODD) - 1).map(Odd),
)  # fmt: skip
KEYS = st.one_of(st.text(st.characters()), st.integers(), st.floats(), st.none(), st.tuples(st.text(), st.integers()))
DATA = st.recursive(
    ATOMS,
    lambda below: st.one_of(
        st.lists(below), st.dictionaries(KEYS, below), st.lists(below).map(tuple), st.lists(below).map(deque)
    ),
    max_leaves=30,
)


def with_odd(value: Any) -> Any:
    """The data with the objects themselves in it."""
    if isinstance(value, Odd):
        return ODD[value.number]
    if isinstance(value, dict):
        return {key: with_odd(item) for key, item in value.items()}
    return type(value)(map(with_odd, value)) if isinstance(value, (list, tuple, deque)) else value


@given(DATA, st.integers(1, 50))
def test_any_data_becomes_json(data: Any, limit: int):
    """Strict JSON and UTF-8, with no string much longer than the limit, and without an exception."""
    trimmed = trim(snapshot(with_odd(data)), limit)
    json.dumps(trimmed, allow_nan=False, ensure_ascii=False).encode("utf-8")
    assert all(len(text) <= limit + len("… [1234567 more characters]") for text in texts(trimmed))


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(text for item in value.values() for text in texts(item))]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
)


@given(JSON)
def test_what_is_json_already_stays_as_it_is(value: Any):
    """Nothing is lost or changed where nothing has to be."""
    assert trim(snapshot(value), 1_000_000) == value


@given(st.text(st.characters()), st.integers(1, 30))
def test_a_text_is_cut_at_the_limit_and_says_how_much(text: str, limit: int):
    """The beginning is kept; the mark has the exact number; half characters are replaced."""
    trimmed = trim_text(text, limit)
    valid = text.encode("utf-8", "replace").decode()
    assert trimmed == (valid if len(text) <= limit else f"{valid[:limit]}… [{len(text) - limit} more characters]")
