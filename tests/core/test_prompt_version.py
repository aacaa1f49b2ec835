"""`prompt_version`: the same as long as the prompt is, another when any part of it changes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Literal, Optional

import dspy
import pytest
from dspy.utils import DummyLM
from pydantic import BaseModel, Field

from doubles import Memory, tracer_of
from spanhook.prompt_version import type_text
from spanhook.testing import capture_spans


class Place(BaseModel):
    name: str = Field(description="as on the map")


os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or LiteLLM looks for prices on the network


@pytest.fixture(autouse=True)
def _model() -> Iterator[None]:
    with dspy.context(lm=DummyLM([{"answer": "a", "reasoning": "r"}] * 50)):
        yield


def version(predictor: dspy.Predict, **arguments: Any) -> str:
    """What the span of a call says."""
    with capture_spans() as spans:
        predictor(question="Why?", **arguments)
    (found,) = [span.attributes["prompt_version"] for span in spans if span.name == "Predict"]
    assert isinstance(found, str)
    assert len(found) == 12
    assert int(found, 16) >= 0
    return found


def demo(**more: Any) -> dspy.Example:
    return dspy.Example(question="Who?", answer="Me.", **more)


def test_only_predictors_have_one() -> None:
    """Not the module around, whose prompt is that of its predictors."""
    with capture_spans() as spans:
        dspy.ChainOfThought("question -> answer")(question="Why?")
    assert {span.name for span in spans if "prompt_version" in span.attributes} == {"Predict"}


def test_it_is_metadata() -> None:
    """It stays where no content is captured."""
    memory = Memory()
    tracer = tracer_of(memory, tracing={"capture": "metadata"})
    dspy.Predict("question -> answer")(question="Why?")
    assert tracer.flush()
    (span,) = [span for span in memory.spans if span.kind == "module"]
    assert len(span.attributes["prompt_version"]) == 12


def test_the_same_prompt_has_the_same_version() -> None:
    """In every call, in a copy, after a reload, in another object with an equal prompt."""
    predictor = dspy.Predict("question -> answer")
    predictor.demos = [demo(tags=["a"], place=Place(name="x"))]
    first = version(predictor)
    assert version(predictor) == first
    assert version(predictor.deepcopy()) == first
    other = dspy.Predict("question -> answer")
    other.demos = [demo(place=Place(name="x"), tags=["a"]).toDict() | {"place": Place(name="x")}]
    assert version(other) == first
    predictor.demos = [demo()]
    loaded = dspy.Predict("question -> answer")
    loaded.load_state(predictor.dump_state())
    assert version(loaded) == version(predictor) != first


def _demo_added(predictor: Any) -> None:
    predictor.demos.append(demo(more=1))


def _demo_changed(predictor: Any) -> None:
    predictor.demos[0].answer = "You."


def _list_in_a_demo_changed(predictor: Any) -> None:
    predictor.demos[0].tags.append("b")


def _model_in_a_demo_changed(predictor: Any) -> None:
    predictor.demos[0].place.name = "y"


def _object_in_a_demo_replaced(predictor: Any) -> None:
    predictor.demos[0].odd = {"x", "z"}


def _demos_swapped(predictor: Any) -> None:
    predictor.demos.reverse()


def _instructions_replaced(predictor: Any) -> None:
    predictor.signature = predictor.signature.with_instructions("Be brief.")


def _instructions_set(predictor: Any) -> None:
    predictor.signature.instructions = "Be brief."


def _description_replaced(predictor: Any) -> None:
    predictor.signature = predictor.signature.with_updated_fields("answer", desc="one word")


def _description_set(predictor: Any) -> None:
    predictor.signature.fields["answer"].json_schema_extra["desc"] = "one word"


def _prefix_replaced(predictor: Any) -> None:
    predictor.signature = predictor.signature.with_updated_fields("answer", prefix="A:")


def _type_replaced(predictor: Any) -> None:
    predictor.signature = predictor.signature.with_updated_fields("answer", type_=Literal["a", "b"])


def _field_added(predictor: Any) -> None:
    predictor.signature = predictor.signature.append("reasoning", dspy.OutputField(), type_=str)


def _order_changed(predictor: Any) -> None:
    predictor.signature = dspy.Signature("question, other -> answer", predictor.signature.instructions)


@pytest.mark.parametrize(
    "change",
    [
        _demo_added,
        _demo_changed,
        _list_in_a_demo_changed,
        _model_in_a_demo_changed,
        _object_in_a_demo_replaced,
        _demos_swapped,
        _instructions_replaced,
        _instructions_set,
        _description_replaced,
        _description_set,
        _prefix_replaced,
        _type_replaced,
        _field_added,
        _order_changed,
    ],
)
def test_each_change_shows(change: Callable[[Any], None]) -> None:
    """Whether a part is replaced or changed in place, also after calls that remember the version."""
    predictor = dspy.Predict(dspy.Signature("other, question -> answer", "Answer the question."))
    predictor.demos = [demo(tags=["a"], place=Place(name="x")), demo(other="o")]
    if change is _object_in_a_demo_replaced:
        predictor.demos[0].odd = {"x", "y"}
    before = version(predictor, other="o")
    assert version(predictor, other="o") == before
    change(predictor)
    assert version(predictor, other="o") != before


def test_what_a_call_brings_along_counts() -> None:
    """Demos and a signature as arguments stand in for the predictor's own, for this call only."""
    predictor = dspy.Predict("question -> answer")
    plain = version(predictor)
    assert version(predictor, demos=[demo()]) != plain
    assert version(predictor, signature="question -> answer, reasoning") != plain
    assert version(predictor) == plain


def test_what_can_not_be_hashed_harms_nothing() -> None:
    """Demos with values that are no plain data: the version goes by their class."""

    class Odd:
        def __eq__(self, other: object) -> bool:
            raise ValueError("never ask")

        __hash__ = None  # type: ignore[assignment]

    predictor = dspy.Predict("question -> answer")
    predictor.demos = [demo(odd=Odd())]
    assert version(predictor) == version(predictor)


def test_demos_are_not_asked_whether_they_are_equal() -> None:
    """Values of the program's classes may take any time for it, or raise."""
    asked = []

    class Asking:
        def __eq__(self, other: object) -> bool:
            asked.append(other)
            raise SystemExit(3)

        __hash__ = object.__hash__

    predictor = dspy.Predict("question -> answer")
    predictor.demos = [demo()]
    first = version(predictor)
    predictor.demos[0]["question"] = Asking()
    assert version(predictor) != first
    assert asked == []


def test_it_keeps_no_predictor_alive() -> None:
    """What is remembered of a predictor does not hold it."""
    predictor = dspy.Predict("question -> answer")
    predictor.demos = [demo()]
    reference = weakref.ref(predictor)
    with dspy.context(trace=[], max_trace_size=0):  # DSPy's own trace holds predictors
        version(predictor)
    del predictor
    gc.collect()
    assert reference() is None


SCRIPT = """
import enum, typing
import dspy
from dspy.utils import DummyLM
from pydantic import BaseModel, Field
from spanhook.testing import capture_spans

class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"

class Place(BaseModel):
    name: str = Field(description="as on the map")
    near: typing.Optional["Place"] = None

class Find(dspy.Signature):
    '''Find the place.

        Indented, and more.
    '''
    question: typing.Optional[str] = dspy.InputField(desc="what is asked")
    moods: typing.List[Mood] = dspy.InputField()
    answer: typing.Dict[str, Place] = dspy.OutputField()
    grade: typing.Literal["a", "b"] = dspy.OutputField()

predictor = dspy.Predict(Find)
predictor.demos = [dspy.Example(question="q", tags={"x", "y", "z"}, weight=0.1, answer={"p": Place(name="here")})]
with dspy.context(lm=DummyLM([{"answer": "{}", "grade": "a"}])), capture_spans() as spans:
    predictor(question="Where?", moods=[Mood.GOOD])
print(next(span.attributes["prompt_version"] for span in spans if span.kind == "module"))
"""


def test_it_is_the_same_in_every_process(tmp_path: Any) -> None:
    """Whatever the seed of Python's hashes, and whether the signature is in `__main__` or imported."""
    (tmp_path / "script_of_the_test.py").write_text(textwrap.dedent(SCRIPT))
    found = set()
    for seed, how in (("1", ["script_of_the_test.py"]), ("2", ["-c", "import script_of_the_test"])):
        environ = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": str(tmp_path),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        done = subprocess.run(
            [sys.executable, *how], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True, timeout=120
        )
        found.add(done.stdout.strip().splitlines()[-1])
    assert len(found) == 1
    assert len(found.pop()) == 12


class Mood(Enum):
    GOOD = "good"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (str, "str"),
        (None, "None"),
        (Any, "Any"),
        (Optional[int], "int | None"),  # noqa: UP045
        (list[dict[str, float]], "list[dict[str, float]]"),
        (Callable[[int], str], "Callable[[int], str]"),
        (Literal["a", 1], "Literal['a', 1]"),
        (Mood, "Mood(GOOD='good')"),
        (Place, "Place(name: str as on the map)"),
    ],
)
def test_types_as_text(kind: Any, text: str) -> None:
    """One spelling for each type, whatever Python's own is."""
    assert type_text(kind) == text
