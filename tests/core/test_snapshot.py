"""The bounded copy of what the program may still change, and its trimming: for any object that there can be."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import threading
import types
import uuid
from collections import Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple
from typing import Any
from unittest import mock

import pytest
from pydantic import BaseModel, ConfigDict, SecretStr

from spanhook.snapshot import MAX_DEPTH, MAX_ITEMS, MAX_NODES, snapshot, trim


class Color(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 3


class Text(str):
    def __str__(self) -> str:
        raise AssertionError

    __repr__ = __len__ = __str__  # type: ignore[assignment]


class Whole(int):
    def __int__(self) -> int:
        raise AssertionError


class Real(float):
    """As numpy's float64 is a float."""


class Model(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str
    key: SecretStr = SecretStr("sk-secret")


@dataclasses.dataclass
class Point:
    x: int
    later: int = dataclasses.field(init=False)


@dataclasses.dataclass(slots=True)
class Slotted:
    x: int


Pair = namedtuple("Pair", "a b")
NAME = f"<{__name__}."
PLAIN: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    (1.5, 1.5),
    ("text", "text"),
    ((1, "a"), [1, "a"]),
    (Pair(1, 2), [1, 2]),
    ({3}, [3]),
    (frozenset({3}), [3]),
    (deque([1, 2]), [1, 2]),
    (OrderedDict(a=1), {"a": 1}),
    (defaultdict(list, a=[1]), {"a": [1]}),
    (Counter("aab"), {"a": 2, "b": 1}),
    ({1: "int", None: "none", (1, "x"): "pair", (1, "y"): "other"},
     {"1": "int", "None": "none", "[1, 'x']": "pair", "[1, 'y']": "other"}),
    ({Color.RED: 1, 10**5000: 2}, {"Color.RED": 1, "<integer of 16610 bits>": 2}),
    (Color.RED, "Color.RED"),
    (Level.HIGH, "Level.HIGH"),
    (Text("x"), "x"),
    (Whole(5), 5),
    (Real(0.5), 0.5),
    (datetime.date(2024, 5, 1), "2024-05-01"),
    (datetime.timedelta(hours=1), "1:00:00"),
    (decimal.Decimal("1.50"), "1.50"),
    (uuid.UUID(int=0), "00000000-0000-0000-0000-000000000000"),
    (pathlib.PurePosixPath("/a"), "/a"),
    (range(3), "range(0, 3)"),
    (b"12345", "<5 bytes>"),
    (bytearray(3), "<3 bytes>"),
    (Model(name="n", more=[1]), {"name": "n", "key": "<pydantic.types.SecretStr>", "more": [1]}),  # type: ignore[call-arg]
    (Point(1), {"x": 1}),
    (Slotted(1), {"x": 1}),
    (Point, f"<class {__name__}.Point>"),
    (len, "<function len>"),
    ([].append, "<function list.append>"),
    (object(), "<builtins.object>"),
    (UserDict(a=1), "<collections.UserDict>"),
    (ValueError("secret"), "<builtins.ValueError>"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), PLAIN, ids=[type(value).__name__ for value, _ in PLAIN])
def test_the_plain_form(value, expected):
    """What each kind of object becomes; an object of an unknown class is only named."""
    copied = snapshot(value)
    assert copied == expected
    assert type(copied) is type(expected)


def test_a_later_change_is_not_in_the_copy():
    """The program goes on with its own lists and dicts."""
    inner = {"a": [1]}
    value = [inner, inner]
    copied = snapshot(value)
    inner["a"].append(2)
    inner["b"] = [3]
    value.clear()
    assert copied == [{"a": [1]}, {"a": [1]}]


def test_what_can_be_read_once_is_not_read():
    """A generator, a file and an iterator are the program's to consume; a lock is not touched."""
    lines = iter(["a"])
    numbers = (number for number in range(3))
    with open(__file__) as file, threading.Lock() as _:
        assert snapshot([lines, numbers, file]) == [
            "<builtins.list_iterator>", "<builtins.generator>", "<_io.TextIOWrapper>",
        ]  # fmt: skip
        assert (next(lines), list(numbers), file.tell()) == ("a", [0, 1, 2], 0)


def test_a_converter_gives_the_plain_form_of_its_own_classes():
    """What it returns is copied in the object's place; None leaves the object to the rules; if it raises, likewise."""

    def convert(value: Any) -> Any:
        return {"inside": [value.x, object()]} if isinstance(value, Point) else None

    assert snapshot([Point(1), Slotted(2)], [convert]) == [{"inside": [1, "<builtins.object>"]}, {"x": 2}]


METHODS = [
    "__repr__", "__str__", "__eq__", "__hash__", "__len__", "__iter__", "__bool__", "__getattr__", "__getattribute__",
    "__class__", "__dict__", "__format__", "__reduce__", "__getitem__", "__contains__",
]  # fmt: skip


@pytest.mark.parametrize("base", [object, dict, list, str, int, float, tuple, set, BaseModel])
@pytest.mark.parametrize("method", METHODS)
def test_a_hostile_object_harms_nobody(method, base):
    """Whichever of its methods raises, it has some plain form, and its neighbours are copied as ever."""

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("hostile")

    make = property(fail) if method in ("__class__", "__dict__") else fail
    if base is not BaseModel:
        value = type("Hostile", (base,), {method: make})()
    else:
        value = Model(name="n")
        value.__class__ = type("Hostile", (Model,), {method: make})
    copied = snapshot({"before": [1], "hostile": value, "after": [2]})
    assert (copied["before"], copied["after"]) == ([1], [2])
    json.dumps(trim(copied, 100), allow_nan=False)


@pytest.mark.parametrize(
    "value",
    [
        mock.Mock(spec=dict),
        mock.MagicMock(spec=list),
        mock.Mock(spec=Model),
        mock.Mock(spec=Point),
        mock.Mock(spec=Color.RED),
        mock.Mock(spec=lambda: 0),
        mock.Mock(spec=type),
        types.SimpleNamespace(__class__=dict),
    ],
    ids=["dict", "list", "model", "dataclass", "enum", "function", "type", "namespace"],
)
def test_an_object_that_says_it_is_of_another_class(value):
    """Mocks and proxies do: they are named by what they are, and nothing is called on them."""
    assert snapshot([1, value]) == [1, f"<{type(value).__module__}.{type(value).__qualname__}>"]
    assert not getattr(value, "mock_calls", [])


class Meta(type):
    def __hash__(cls) -> int:
        raise RuntimeError

    def __eq__(cls, other: object) -> bool:
        raise RuntimeError


def test_a_class_that_can_t_be_compared():
    """A metaclass may refuse to hash and to compare; then its objects are named."""
    strange = Meta("Strange", (), {})()
    assert snapshot({"a": [strange, 1]}) == {"a": [f"{NAME}Strange>", 1]}


def test_a_half_made_model_is_named():
    """An object whose constructor never ran, as in the middle of an exception."""
    assert snapshot([Model.__new__(Model), Point.__new__(Point)]) == [{}, {}]


def test_cycles_end():
    """A list in itself and a dict that knows its parent."""
    ring: list[Any] = []
    ring.append(ring)
    parent: dict[str, Any] = {"child": {}}
    parent["child"]["parent"] = parent
    for value in (ring, parent):
        text = json.dumps(snapshot(value))
        assert text.count("…".encode("unicode_escape").decode()) == 1


def test_ten_thousand_levels():
    """The copy is as deep as the bound, and says that there was more."""
    value: Any = "bottom"
    for number in range(10_000):
        value = [value] if number % 2 else {"a": value}
    copied, depth = snapshot(value), 0
    while not isinstance(copied, str):
        copied, depth = copied[0] if isinstance(copied, list) else copied["a"], depth + 1
    assert (copied, depth) == ("… 1 items", MAX_DEPTH)


def test_a_long_container_is_cut_and_says_so():
    """At a thousand items, for lists, dicts and sets."""
    assert snapshot(list(range(MAX_ITEMS + 5)))[MAX_ITEMS - 1 :] == [MAX_ITEMS - 1, "… 5 more items"]
    copied = snapshot({str(number): number for number in range(MAX_ITEMS + 5)})
    assert (len(copied), copied["…"]) == (MAX_ITEMS + 1, "5 more items")
    assert len(snapshot(set(range(MAX_ITEMS + 5)))) == MAX_ITEMS + 1


def size(value: Any) -> int:
    """How many values there are in plain data."""
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(size, below))


def test_a_wide_tree_is_bounded_as_a_whole():
    """Twelve levels of a thousand items would be more than all memory."""
    value: Any = 0
    for _ in range(MAX_DEPTH):
        value = [value] * MAX_ITEMS
    assert size(snapshot(value)) <= MAX_NODES + 2 * MAX_ITEMS


def test_a_container_that_changes_meanwhile():
    """Other threads of the program may be at it: the copy is right or older, and never raises."""
    value: dict[int, list[int]] = {}
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            value[number % 500] = [number]
            value.pop((number * 7) % 500, None)
            number += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            assert isinstance(snapshot(value), dict)
    finally:
        stop.set()
        thread.join()


def test_numbers_that_json_has_no_words_for():
    """Not a number, infinities, and integers that no backend's 64 bits hold."""
    assert trim([float("nan"), float("inf"), -float("inf"), 2**63 - 1, 2**63], 9) == [
        "nan", "inf", "-inf", 2**63 - 1, "<integer of 64 bits>",
    ]  # fmt: skip


def never(*_: Any) -> Any:
    raise SystemExit(3)


class Descriptor:
    __get__ = __set__ = never


@dataclasses.dataclass
class Computed:
    """As SQLAlchemy's are: to look at a field may ask a database."""

    a: int
    b: str = "b"


class Shy(enum.Enum):
    ONE = 1
    name = property(never)  # type: ignore[assignment]


class Zone(datetime.tzinfo):
    utcoffset = tzname = dst = never


def test_no_code_of_the_program_runs():
    """Not for a dataclass's fields, an enum's name, a time's zone or anything that a metaclass may say."""

    class Secretive(type):  # in here: pytest looks at a module's classes
        __getattribute__ = __eq__ = __hash__ = never  # type: ignore[assignment]

    class OfSecretive(metaclass=Secretive):
        __call__ = __getattribute__ = never

    computed = Computed(1)
    Computed.a = Descriptor()  # type: ignore[assignment]
    noon = datetime.datetime(2024, 5, 1, 12)
    values = [
        computed, Slotted(1), Shy.ONE, noon.replace(tzinfo=Zone()), noon.replace(tzinfo=datetime.timezone.utc),
        OfSecretive(), [OfSecretive], types.MethodType(OfSecretive(), 1),
    ]  # fmt: skip
    here = f"{__name__}.test_no_code_of_the_program_runs.<locals>"
    assert snapshot(values) == [
        {"a": 1, "b": "b"}, {"x": 1}, "Shy.ONE", "2024-05-01 12:00:00", "2024-05-01 12:00:00+00:00",
        f"<{here}.OfSecretive>", [f"<class {here}.OfSecretive>"], "<builtins.method>",
    ]  # fmt: skip


def test_code_of_the_program_that_exits_ends_nothing():
    """A class's own `model_fields`, say, for which there is no other way."""
    assert snapshot([1, 2], [never]) == [1, 2]
    assert snapshot([Zone(), 2], [never]) == [f"<{__name__}.Zone>", 2]


def test_a_key_that_is_bytes_is_readable():
    """It may be the name of a secret."""
    assert snapshot({b"password": 1, "password": 2}) == {"b'password'": 1, "password": 2}
