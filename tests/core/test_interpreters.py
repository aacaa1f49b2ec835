"""Code interpreters: a span for each operation, named after it, and what code calls on the host is in the same tree."""

from __future__ import annotations

import dspy
import pytest
from dspy.utils import DummyLM

from spanhook import Span
from trees import tree

local = pytest.importorskip("dspy.primitives.local_interpreter", reason="this DSPy has only a sandbox of Deno's")


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


def test_an_interpreter_alone(spans: list[Span]) -> None:
    """Its start, each piece of code with what it gave or how it failed, the tools that it called, its end."""
    with local.LocalInterpreter(tools={"add": dspy.Tool(add)}) as interpreter:
        interpreter.execute("print(add(a=1, b=2))")
        with pytest.raises(Exception, match="division"):
            interpreter.execute("1 / 0")
        interpreter.execute("SUBMIT({'sum': 3})")
    name = "interpreter LocalInterpreter"
    assert tree(spans) == [
        f"{name}.startup",
        f"{name}.execute",
        f"  {name}.tool_call",
        "    tool add",
        f"{name}.execute",
        f"{name}.execute",
        f"{name}.shutdown",
    ]
    _, tool, call, first, failed, last, _ = spans
    assert tool.outputs == 3
    assert call.inputs == {"tool_name": "add", "a": 1, "b": 2}
    assert first.inputs["code"] == "print(add(a=1, b=2))"
    assert str(first.outputs).strip() == "3"
    assert failed.error is not None
    assert last.outputs == {"output": {"sum": 3}}


def test_a_program_that_writes_code(spans: list[Span]) -> None:
    """`dspy.RLM` is one trace: its predictors, the code that it runs, and the model that the code asks."""
    answers = [
        {"reasoning": "ask", "code": "print(llm_query('How?'))"},
        {"answer": "so"},
        {"reasoning": "done", "code": "SUBMIT(answer='Rome')"},
    ]
    with dspy.context(lm=DummyLM(answers)):
        program = dspy.RLM("question -> answer", interpreter_factory=local.LocalInterpreter, max_iters=3)
        assert program(question="Why?").answer == "Rome"
    assert len({span.trace_id for span in spans}) == 1
    asked = next(span for span in spans if span.kind == "lm" and "How?" in str(span.inputs))
    around = next(span for span in spans if span.span_id == asked.parent_id)
    assert around.name == "LocalInterpreter.tool_call"
    assert spans[-1].name == "RLM"
    predictor = next(span for span in spans if span.name == "Predict")
    assert predictor.attributes["dspy.signature"] == predictor.inputs["signature"]
