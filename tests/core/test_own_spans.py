"""Spans of the program's own, as blocks and as decorators, and `current_span()`."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest
from dspy.utils.dummies import DummyLM

import spanhook
from doubles import Memory
from programs import Answerer
from spanhook import Tracer


def test_a_span_of_ones_own(tracer: Tracer, memory: Memory) -> None:
    """As a block: under the module that runs, with DSPy's calls inside it under itself, in Parallel's threads too."""

    class Retrieving(dspy.Module):
        def forward(self, question: str) -> Any:
            with tracer.span("retrieve", query=question) as span:
                Answerer()(question=question)
                dspy.Parallel(num_threads=2, disable_progress_bar=True)([(Answerer(), {"question": "p"})])
                span.outputs = {"documents": 2}
                span.attributes["index"] = "docs"
            return Answerer()(question=question)

    Retrieving()(question="Why?")
    tracer.flush()
    by_id = {span.span_id: span for span in memory.spans}
    own = next(span for span in memory.spans if span.name == "retrieve")
    assert (own.kind, own.inputs, own.outputs) == ("custom", {"query": "Why?"}, {"documents": 2})
    assert own.attributes["index"] == "docs"
    assert by_id[own.parent_id or ""].name == "Retrieving"
    answerers = [by_id[s.parent_id or ""].name for s in memory.spans if s.name == "Answerer"]
    assert sorted(answerers) == ["Retrieving", "retrieve", "retrieve"]


def test_a_decorated_function(tracer: Tracer, memory: Memory) -> None:
    """Plain and async: arguments in, result out, errors on; name and docstring stay; each call is a span."""

    @tracer.span("add")
    def add(left: int, right: int = 1) -> int:
        """Adds."""
        return left + right

    @tracer.span("double")
    async def double(value: int) -> int:
        return add(value, right=value)

    @tracer.span("fail", kind="tool")
    def fail() -> None:
        raise LookupError("nothing")

    assert add(1) == 2
    assert asyncio.run(double(3)) == 6
    with pytest.raises(LookupError):
        fail()
    assert (add.__name__, add.__doc__) == ("add", "Adds.")
    tracer.flush()
    first, inner, outer, failed = memory.spans
    assert (first.inputs, first.outputs) == ({"left": 1}, 2)
    assert (inner.inputs, inner.outputs, inner.parent_id) == ({"left": 3, "right": 3}, 6, outer.span_id)
    assert (outer.name, outer.outputs) == ("double", 6)
    assert failed.kind == "tool"
    assert failed.error is not None
    with pytest.raises(TypeError, match="generator"):
        tracer.span("each")(lambda: (yield))


def test_the_current_span_is_known(tracer: Tracer) -> None:
    """`current_span()` inside a module, a block of one's own, and nowhere."""
    seen = []

    class Looking(dspy.Module):
        def forward(self) -> None:
            seen.append(spanhook.current_span())
            with tracer.span("inner"):
                seen.append(spanhook.current_span())

    Looking()()
    assert [span.name for span in seen if span is not None] == ["Looking", "inner"]
    assert spanhook.current_span() is None


def test_an_lm_whose_attributes_raise_does_not_raise_through_current_span(tracer: Tracer) -> None:
    """To put a call into words may run code of its LM's class: the program gets no span, and no exception."""

    class Unconnected(DummyLM):
        @property
        def engine(self) -> Any:
            raise RuntimeError("not connected")

        @engine.setter
        def engine(self, value: Any) -> None:
            pass

        def forward(self, *arguments: Any, **more: Any) -> Any:
            seen.append(spanhook.current_span())
            seen.append(spanhook.add_trace_ids(None, "info", {"event": "x"}))
            return super().forward(*arguments, **more)

    seen: list[Any] = []
    with dspy.context(lm=Unconnected([{"answer": "a"}])):
        assert dspy.Predict("question -> answer")(question="?").answer == "a"
    if not seen:
        pytest.skip("the DummyLM of this release of DSPy has no forward")
    assert seen[-1]["event"] == "x"
