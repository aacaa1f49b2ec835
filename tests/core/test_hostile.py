"""Whatever a program hands around: a traced program does what it does untraced, and every span goes out as JSON.

The objects go through the real tracer as a DSPy module's arguments and result, a span's content and
attributes, and exceptions. DSPy's tools look at objects themselves.
"""

from __future__ import annotations

import gc
import io
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles import WAIT_S, Memory, tracer_of
from spanhook import Tracer
from spanhook.config.settings import TracingSettings

HALF = "\ud83d"


class Echo(dspy.Module):
    """Returns what it is given."""

    def forward(self, value: Any) -> Any:
        return value


class Failing(dspy.Module):
    """Raises what it is given."""

    def forward(self, error: BaseException) -> None:
        raise error


@pytest.fixture
def traced() -> Callable[[Any], list[dict[str, Any]]]:
    """A function: what the spans of a program look like that hands this object around, with the default extractors."""
    memory = Memory()
    tracer = tracer_of(memory, tracing={"extractors": TracingSettings().extractors})

    def run(value: Any) -> list[dict[str, Any]]:
        memory.calls.clear()
        hand_around(tracer, value)
        assert tracer.flush(WAIT_S)
        assert tracer.stats().errors == {}
        spans = [span.to_dict() for span in memory.spans]
        assert [span["kind"] for span in spans] == ["module", "custom", "interaction"]
        json.dumps(spans, allow_nan=False, ensure_ascii=False).encode()
        return spans

    return run


def hand_around(tracer: Tracer, value: Any) -> None:
    with tracer.interaction(properties={"value": value}), tracer.span("own", value=value) as span:
        result = Echo()(value=value)
        assert result is value
        span.outputs = value
        span.attributes["value"] = [value, {"deep": value}]


def fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("hostile")


def hang(*_: Any, **__: Any) -> Any:
    time.sleep(WAIT_S * 10)


def grab(*_: Any, **__: Any) -> Any:
    return [0] * 10**12


def recurse(*_: Any, **__: Any) -> Any:
    return recurse()


METHODS = [
    "__repr__", "__str__", "__eq__", "__hash__", "__len__", "__iter__", "__bool__", "__getattr__", "__format__",
    "__reduce_ex__", "__getitem__", "__contains__", "__next__", "__index__", "__int__", "__float__", "__del__",
    "__deepcopy__", "__copy__", "__call__", "__enter__", "keys", "items", "model_dump", "dict", "toDict",
    "get", "usage", "values", "copy",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("misdeed", [fail, hang, grab, recurse])
def test_hostile_methods(traced, misdeed):
    """Objects of which any method raises, hangs, takes all memory or recurses without end: none of them is called."""
    for method in METHODS:
        if method == "__del__" and misdeed is not fail:
            continue  # Python itself calls it
        kinds = [object] if method in ("__eq__", "__hash__", "__bool__", "__len__") else [object, dict, list, str, int]
        for base in kinds:
            value = type("Hostile", (base,), {method: misdeed})()
            traced(value)
            del value
    gc.collect()


@pytest.mark.parametrize("misdeed", [fail, hang, grab, recurse])
def test_hostile_properties(traced, misdeed):
    """Attributes that are computed: only what an object's own dict has is read."""
    names = [
        "usage",
        "signature",
        "callbacks",
        "name",
        "value",
        "history",
        "__dict__",
        "__class__",
        "items",
        "model_fields",
    ]
    for name in (*names, "model_fields"):
        traced(type("Hostile", (), {name: property(misdeed)})())


def test_a_result_that_cannot_be_copied_leaves_its_span():
    """The span goes out without the content, and the failure is counted."""

    class Broken(dspy.Module):
        def forward(self) -> dspy.Prediction:
            made = dspy.Prediction(answer="Rome")
            made.__dict__["_store"] = None
            return made

    memory = Memory()
    tracer = tracer_of(memory)
    Broken()()
    assert tracer.flush(WAIT_S)
    (span,) = memory.spans
    assert (span.name, span.outputs, span.error) == ("Broken", None, None)
    assert any("copying a call's content" in place for place in tracer.stats().errors)


def test_what_is_read_once_or_holds_a_resource(traced):
    """Generators, files, sockets, locks, threads, iterators: named, not touched."""
    numbers, lines, text, lock = (n for n in range(3)), iter("ab"), io.StringIO("abc"), threading.Lock()
    with socket.socket() as connection:
        for value in (numbers, lines, text, lock, connection, threading.Thread(), memoryview(b"x")):
            (module, *_) = traced(value)
            assert module["outputs"].startswith("<")
    assert (list(numbers), list(lines), text.read(), lock.locked()) == ([0, 1, 2], ["a", "b"], "abc", False)


def deep(levels: int) -> Any:
    value: Any = "bottom"
    for number in range(levels):
        value = [value] if number % 2 else {"a": value}
    return value


def ring() -> Any:
    value: dict[str, Any] = {}
    value["self"] = [value, (value,)]
    return value


@pytest.mark.parametrize(
    "value",
    [
        deep(10_000), ring(), [[0] * 2_000] * 2_000, {number: number for number in range(5_000)}, "x" * 1_000_000,
        b"x" * 1_000_000, 10**5_000, -(2**63) - 1, float("nan"), [float("inf"), -float("inf")], HALF, {HALF: HALF},
        {float("nan"): 1}, {(): {frozenset({1}): 2}}, {None: 1, "None": 2}, complex("nan"), range(10**20), ..., type,
        {1, "a", None},
        {"…": 1}, "\x00", {"": ""}, [[]], ((),), object, NotImplemented, Exception("x"), dspy, dspy.Predict, len,
    ],
    ids=lambda value: f"{type(value).__name__}",
)  # fmt: skip
def test_odd_data(traced, value):
    """Too deep, too wide, too long, in itself, no number, no text: bounded, with a mark, valid JSON."""
    spans = traced(value)
    assert len(json.dumps(spans)) < 6_000_000


class Evil(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Endless(Exception):
    def __str__(self) -> str:
        return str(self)


def chained() -> Exception:
    one, two = ValueError("one"), KeyError("two")
    one.__cause__, two.__context__ = two, one
    return one


@pytest.mark.parametrize(
    "error",
    [
        Evil(), Leaving(), Endless(), chained(), ValueError("x" * 1_000_000), ValueError(HALF), KeyError(ring()),
        UnicodeDecodeError("u", b"x", 0, 1, "y"), RecursionError(), KeyboardInterrupt(), SystemExit(3),
        GeneratorExit(), StopIteration(1), MemoryError(), OSError(2, "x"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_odd_exceptions(error):
    """The program gets the very exception that it raised; the span goes out and has its type."""
    memory = Memory()
    tracer = tracer_of(memory)
    raised = None
    try:
        Failing()(error=error)
    except BaseException as caught:
        raised = caught
    assert raised is error
    assert tracer.flush(WAIT_S)
    (span,) = memory.spans
    assert span.error is not None
    assert span.error.type.rpartition(".")[2] == type(error).__name__
    json.dumps(span.to_dict(), allow_nan=False, ensure_ascii=False).encode()


def test_endless_recursion_of_the_program():
    """A RecursionError of its own comes out as it is, from the depth where it happened, and says that it was cut."""
    memory = Memory()
    tracer = tracer_of(memory)

    def down() -> None:
        down()

    with pytest.raises(RecursionError), tracer.span("deep"):
        down()
    assert tracer.flush(WAIT_S)
    (span,) = memory.spans
    assert span.error is not None
    assert span.error.traceback is not None
    assert "more calls" in span.error.traceback
    assert span.error.traceback.count("\n") < 250


def test_spans_close_to_the_recursion_limit():
    """Where the program has hardly any stack left, tracing may fail, but not the program."""
    memory = Memory()
    tracer = tracer_of(memory)

    def down(levels: int) -> int:
        try:
            with tracer.span("level", value=deep(30)):
                return 1
        finally:
            if levels:
                down(levels - 1)

    def dive(depth: int) -> int:
        try:
            return dive(depth + 1)
        except RecursionError:
            return depth

    depth = dive(0)

    def at(left: int) -> Any:
        return down(0) if left <= 0 else at(left - 1)

    for margin in range(0, 60, 3):
        with suppress(RecursionError):  # the program's own
            at(depth - margin - 30)
    with tracer.span("afterwards"):
        pass
    assert tracer.flush(WAIT_S)
    assert memory.spans[-1].name == "afterwards"
    assert memory.spans[-1].parent_id is None


ATOMS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(codec=None), max_size=20),
    st.binary(max_size=20), st.dates(), st.uuids(), st.sampled_from([len, object, Echo, Exception("x"), ..., HALF]),
)  # fmt: skip
KEYS = st.one_of(st.text(max_size=5), st.integers(), st.none(), st.floats(), st.tuples(st.integers()))
DATA = st.recursive(
    ATOMS,
    lambda below: st.one_of(
        st.lists(below, max_size=4),
        st.dictionaries(KEYS, below, max_size=4),
        st.lists(below, max_size=3).map(tuple),
        st.builds(dspy.Prediction, a=below),
        st.builds(lambda x: type("Slots", (), {"__slots__": ("x",)})(), below),
    ),
    max_leaves=15,
)


@given(DATA)
def test_any_data_through_a_real_program(traced, value):
    """A bounded fuzz run: what goes in comes out the same, and every span is valid JSON."""
    traced(value)
