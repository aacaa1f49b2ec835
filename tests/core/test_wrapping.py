"""`tracer.wrap` and `instrument = "wrapped"`: the wrapped programs are traced, once, and nothing else is."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
from typing import Any

import cloudpickle
import dspy
import pytest
from dspy.utils.callback import BaseCallback
from dspy.utils.dummies import DummyLM

from doubles import Memory, tracer_of
from programs import Answerer, FanOut

pytestmark = pytest.mark.usefixtures("dummy_lm")

# DSPy asks for it from 3.1 on.
ALLOW_PICKLE = {"allow_pickle": True} if "allow_pickle" in inspect.signature(dspy.load).parameters else {}


def test_wrapped_programs_alone(memory: Memory) -> None:
    """instrument = "wrapped": a wrapped program is traced with all that it calls, and nothing else is."""
    tracer = tracer_of(memory, tracing={"instrument": "wrapped"})
    program = tracer.wrap(Answerer())
    assert tracer.wrap(program) is program
    assert len(program.callbacks) == 1
    program(question="traced")
    asyncio.run(program.acall(question="traced"))
    Answerer()(question="not traced")
    tracer.wrap(FanOut())(questions=["a", "b"])
    tracer.flush()
    assert sum(span.kind == "lm" for span in memory.spans) == 4
    assert len({span.trace_id for span in memory.spans}) == 3


def test_what_is_no_module_is_not_wrapped(memory: Memory) -> None:
    """Other things of DSPy's have callbacks too; of a class it says that an instance is wanted."""
    tracer = tracer_of(memory, tracing={"instrument": "wrapped"})
    lm = DummyLM([{"answer": "a"}])
    for wrong in (len, lm, dspy.ChatAdapter()):
        with pytest.raises(TypeError, match=rf"wrap takes a dspy\.Module, not {type(wrong).__name__}"):
            tracer.wrap(wrong)
    with pytest.raises(TypeError, match=r"wrap takes a dspy\.Module; Predict is a class: give an instance"):
        tracer.wrap(dspy.Predict)
    assert tracer.callback not in lm.callbacks


def test_wrapping_one_of_two_programs_that_share_their_callbacks(memory: Memory) -> None:
    """The list that the program gave to both stays as it is; the other one is not traced."""
    tracer = tracer_of(memory, tracing={"instrument": "wrapped"})
    shared: list[Any] = [BaseCallback()]
    one, other = (dspy.Predict("question -> answer", callbacks=shared) for _ in range(2))
    tracer.wrap(one)(question="traced")
    other(question="not traced")
    tracer.flush()
    assert len(shared) == 1
    assert [span.inputs["question"] for span in memory.spans if span.kind == "module"] == ["traced"]


def test_wrapping_where_all_is_traced_counts_nothing_twice(memory: Memory) -> None:
    """The callback of the module and that of DSPy's settings are one."""
    tracer = tracer_of(memory)
    tracer.wrap(Answerer())(question="Why?")
    tracer.flush()
    assert [span.name for span in memory.spans].count("Answerer") == 1


def test_a_wrapped_program_can_be_copied_saved_and_compiled(memory: Memory, tmp_path: Any) -> None:
    """deepcopy, pickle, save and an optimizer do what they do without the tracer; what comes out can be wrapped."""
    tracer = tracer_of(memory, tracing={"instrument": "wrapped"})
    program = tracer.wrap(Answerer())
    assert isinstance(copy.deepcopy(program), Answerer)
    assert isinstance(pickle.loads(cloudpickle.dumps(program)), Answerer)
    program.save(str(tmp_path / "program"), save_program=True)
    assert isinstance(dspy.load(str(tmp_path / "program"), **ALLOW_PICKLE), Answerer)
    trainset = [dspy.Example(question=f"q{i}", answer="?").with_inputs("question") for i in range(2)]
    compiled = dspy.LabeledFewShot(k=2).compile(program, trainset=trainset)
    assert len(compiled.respond.demos) == 2
    assert tracer.wrap(compiled).callbacks == [tracer.callback]
