"""The tree of spans that DSPy's events make: kinds, names and parents; sync, async and over threads."""

from __future__ import annotations

import asyncio
from collections import Counter

import dspy

from lm_server import LMServer
from programs import Answerer, FanOut
from spanhook import Span
from spanhook.testing import capture_spans
from trees import only, tree

PREDICT = """\
module Answerer
  module Predict
    adapter_format ChatAdapter.format
    lm LM
    adapter_parse ChatAdapter.parse""".splitlines()


def test_a_module_call_is_one_tree(spans: list[Span]) -> None:
    """Module, predictor, adapter and LM hang under each other, in one trace whose ids fit together."""
    Answerer()(question="Why?")
    assert tree(spans) == PREDICT
    root = spans[-1]
    assert {span.trace_id for span in spans} == {root.trace_id}
    assert root.parent_id is None
    assert root.event_id.replace("-", "") == root.trace_id
    assert root.trace_id[12] == "7"
    assert all(len(span.span_id) == 16 and int(span.span_id, 16) for span in spans)


def test_an_async_call_is_the_same_tree(spans: list[Span]) -> None:
    """`acall` with `aforward` gives what a plain call gives."""
    asyncio.run(Answerer().acall(question="Why?"))
    assert tree(spans) == PREDICT


def test_children_run_within_their_parents(spans: list[Span]) -> None:
    """No span starts before or ends after the one that it is under."""
    Answerer()(question="Why?")
    by_id = {span.span_id: span for span in spans}
    for span in spans:
        assert span.end_ns is not None
        assert span.start_ns <= span.end_ns
        if span.parent_id is not None:
            parent = by_id[span.parent_id]
            assert parent.start_ns <= span.start_ns
            assert parent.end_ns is not None
            assert span.end_ns <= parent.end_ns


def test_an_lm_and_a_tool_with_no_module_around_are_traces(spans: list[Span], server: LMServer) -> None:
    """A direct `lm(…)` and a direct tool call have spans with everything."""
    server.lm()("hello")
    dspy.Tool(lambda city: f"sunny in {city}", name="weather", desc="")(city="Rome")
    lm, tool = spans
    assert lm.inputs["prompt"] == "hello"
    assert lm.usage is not None
    assert (tool.name, tool.inputs, tool.outputs) == ("weather", {"city": "Rome"}, "sunny in Rome")
    assert lm.parent_id is tool.parent_id is None
    assert lm.trace_id != tool.trace_id


def test_an_agent_and_its_failing_tool(server: LMServer) -> None:
    """ReAct: every LM call with its own tokens; a tool that raises has the error, and the agent goes on."""

    def weather(city: str) -> str:
        """The weather in a city."""
        raise LookupError(f"no station in {city}")

    server.script(
        [
            {"next_thought": "look", "next_tool_name": "weather", "next_tool_args": {"city": "Rome"}},
            {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": {}},
            {"reasoning": "no data", "answer": "unknown"},
        ]
    )
    with dspy.context(lm=server.lm()), capture_spans() as spans:
        dspy.ReAct("question -> answer", tools=[weather])(question="Weather in Rome?")
    assert Counter(span.kind for span in spans)["lm"] == 3
    (tool,) = [span for span in spans if span.kind == "tool" and span.name == "weather"]
    assert tool.error is not None
    assert (tool.error.type, tool.error.message) == ("LookupError", "no station in Rome")
    assert "in weather" in (tool.error.traceback or "")
    assert spans[-1].name == "ReAct"
    assert spans[-1].error is None
    for lm in (span for span in spans if span.kind == "lm"):
        assert lm.usage is not None
        assert lm.usage.input_tokens == server.answer_to(lm.outputs[0]).tokens.prompt


def test_parallel_is_one_trace(spans: list[Span]) -> None:
    """A module that runs dspy.Parallel over 8 questions: one root, and every call under it."""
    FanOut()(questions=[f"q{i}" for i in range(8)])
    assert [span.name for span in spans if span.parent_id is None] == ["FanOut"]
    assert len({span.trace_id for span in spans}) == 1
    root = spans[-1]
    workers = [span for span in spans if span.parent_id == root.span_id]
    assert Counter(span.name for span in workers) == {"Answerer": 8}
    assert Counter(span.kind for span in spans)["lm"] == 8


def test_gathered_calls_keep_their_parents(spans: list[Span]) -> None:
    """64 `acall`s in one event loop: 64 trees, none mixed up."""

    async def many() -> None:
        await asyncio.gather(*(Answerer().acall(question=f"q{i}") for i in range(64)))

    asyncio.run(many())
    by_trace: dict[str, list[Span]] = {}
    for span in spans:
        by_trace.setdefault(span.trace_id, []).append(span)
    assert len(by_trace) == 64
    assert all(tree(one) == PREDICT for one in by_trace.values())
    assert all(
        only(one, "lm").inputs["messages"][-1]["content"].count(one[-1].inputs["question"]) for one in by_trace.values()
    )
