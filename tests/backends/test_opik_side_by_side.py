"""The same programs through Opik's own DSPy callback and through Spanhook: equal, but for what the docs list.

`comparable` takes out of what theirs sends what docs/reference/opik.md names as a difference, each at its number.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM

pytest.importorskip("opik")

import opik
from opik.integrations.dspy.callback import OpikCallback as TheirCallback
from opik_case import options
from opik_server import OpikServer, Trace

from lm_server import LMServer, Reply
from programs import FanOut
from spanhook_backends.opik.drop_in import OpikCallback

NATIVE = "engine" in inspect.signature(dspy.LM.__init__).parameters
ENGINES = ["lm15", "litellm"] if NATIVE else ["litellm"]
COMPARED = ("created_from", "cache_hit", "original_model", "llm_router")
QUESTION = f"a question in nobody's cache {uuid.uuid4()}"

Program = Callable[[LMServer], Any]


class Two(dspy.Module):
    """Two predictors, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict("question -> thought")
        self.second = dspy.ChainOfThought("thought -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.second(thought=self.first(question=question).thought)

    async def aforward(self, question: str) -> dspy.Prediction:
        return await self.second.acall(thought=(await self.first.acall(question=question)).thought)


def failing(city: str) -> str:
    """Looks up the weather."""
    raise ValueError(f"no weather for {city}")


def predict(server: LMServer) -> None:
    dspy.Predict("question -> answer")(question="Why?")


def chain_of_thought(server: LMServer) -> None:
    dspy.ChainOfThought("question -> answer")(question="Why?")


def two_predictors(server: LMServer) -> None:
    Two()(question="Why?")


def react_with_a_failing_tool(server: LMServer) -> None:
    server.script(
        [
            {"next_thought": "look", "next_tool_name": "failing", "next_tool_args": {"city": "Oslo"}},
            {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": {}},
            {"reasoning": "I could not look.", "answer": "unknown"},
        ]
    )
    dspy.ReAct("question -> answer", tools=[failing])(question="The weather in Oslo?")


def an_lm_error(server: LMServer) -> None:
    server.script([Reply(status=500)] * 2)  # DSPy before 3.3 asks again, in JSON
    with suppress(Exception):
        dspy.ChainOfThought("question -> answer")(question="Why?")


def a_cached_call(server: LMServer) -> None:
    for _ in range(2):
        dspy.Predict("question -> answer")(question=QUESTION)


def asynchronous(server: LMServer) -> None:
    asyncio.run(Two().acall(question="Why?"))


PROGRAMS = [
    predict,
    chain_of_thought,
    two_predictors,
    react_with_a_failing_tool,
    an_lm_error,
    a_cached_call,
    asynchronous,
]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run_both(program: Program, engine: str | None, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Trace], list[Trace]]:
    """What a program makes in Opik through theirs, and through ours."""
    temperatures = iter((0.25, 0.75))  # so that the two runs don't share DSPy's cache

    def run(callback: Any) -> None:
        with LMServer() as lm_server:
            more = {} if engine is None else {"engine": engine}
            cache = program is a_cached_call
            lm = lm_server.lm("openai/gpt-4o-mini", cache=cache, temperature=next(temperatures), **more)
            with dspy.context(lm=lm, callbacks=[callback]):
                program(lm_server)

    before = opik.get_global_client()
    with OpikServer() as server:
        client = opik.Opik(**options(server))
        opik.set_global_client(client)
        run(TheirCallback(project_name="p"))
        client.end(timeout=10)
        opik.set_global_client(before)
        before.end(flush=False)
        theirs = server.traces
        assert not server.refused
    with OpikServer() as server:
        for name, value in options(server).items():
            monkeypatch.setenv({"host": "OPIK_URL_OVERRIDE"}.get(name, f"OPIK_{name.upper()}"), value)
        callback = OpikCallback(project_name="p")
        run(callback)
        assert callback.flush(30.0)
        callback.tracer.shutdown()
        assert not server.refused
        assert not server.lost_spans
        return theirs, server.traces


@pytest.fixture(params=PROGRAMS, ids=lambda program: program.__name__)
def both(
    request: pytest.FixtureRequest, engine: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Trace], list[Trace]]:
    return run_both(request.param, engine, monkeypatch)


def comparable(trace: Trace) -> dict[str, Any]:
    """A trace without ids, times and adapters' spans (1), as one tree."""
    nodes: dict[str | None, dict[str, Any]] = {None: _comparable(trace.fields)}
    del nodes[None]["output"], nodes[None]["error"]  # (2)
    for span in trace.spans:
        nodes[span["id"]] = _comparable(span)
    for span in trace.spans:
        if "Adapter." not in span["name"]:
            nodes[span.get("parent_span_id")]["below"].append(nodes[span["id"]])
    return nodes[None]


def _comparable(record: dict[str, Any]) -> dict[str, Any]:
    error, usage, output = record.get("error_info"), record.get("usage"), record.get("output")
    kind = record.get("type")
    return {
        "name": record["name"],
        "project": record["project_name"],
        "type": kind if record.get("model") or kind != "llm" else "general",  # (3)
        "input": _arguments(record.get("input")),
        "output": None if output == {"output": None} else _plain(output),
        "error": error and (error["exception_type"], error["message"]),
        "model": record.get("model"),
        "provider": record.get("provider"),
        "usage": {name: n for name, n in usage.items() if NATIVE or "_details." not in name} if usage else None,  # (8)
        "cost": record.get("total_estimated_cost") or None,  # (6)
        "metadata": {name: value for name, value in record["metadata"].items() if name in COMPARED},
        "below": [],
    }


def _arguments(given: Any) -> Any:
    """Arguments as one flat object (4)."""
    if isinstance(given, dict) and "kwargs" in given:
        rest = {name: value for name, value in given.items() if name not in ("args", "kwargs")}
        given = {**rest, **given["kwargs"]}
    # A class among them is printed, and not alike.
    known = {name: value for name, value in (given or {}).items() if not str(value).startswith("<class ")}
    return {name: value for name, value in known.items() if value is not None} or None


def _plain(output: Any) -> Any:
    """A prediction's printed form as the fields that it prints (5)."""
    text = output and output["output"]
    if isinstance(text, str) and text.startswith("Prediction("):
        fields = eval(text, {"Prediction": dict})
        return {"output": json.loads(json.dumps(fields))}
    return output


def test_what_arrives_is_equal_where_theirs_is_right(both: tuple[list[Trace], list[Trace]]) -> None:
    """Names, tree, inputs, outputs, errors, models, providers, tokens, costs and cache hits."""
    theirs, ours = ([comparable(trace) for trace in traces] for traces in both)
    assert ours == theirs


def test_what_differs_differs_as_the_docs_say(both: tuple[list[Trace], list[Trace]]) -> None:
    """Each row of the table, in each program that shows it; a row that theirs mends has to go."""
    for their, our in zip(*both, strict=True):
        assert not any("Adapter" in span["name"] for span in their.spans)  # 1
        assert any("Adapter" in span["name"] for span in our.spans)
        assert "output" not in their.fields  # 2
        assert "error_info" not in their.fields
        assert ("output" in our.fields) != ("error_info" in our.fields)
        for span in their.spans:
            if span["name"] == "Predict":
                assert span["type"] == "llm"  # 3
                assert "args" in span["input"]  # 4
                assert span["output"]["output"] is None or span["output"]["output"].startswith("Prediction(")  # 5
            if (span["metadata"] or {}).get("cache_hit"):
                assert "total_estimated_cost" not in span  # 6
            assert "finish_reason" not in span["metadata"]  # 7
        for span in our.spans:
            if span["name"] == "Predict":
                assert span["type"] == "general"
                assert "args" not in span["input"]
                assert "error_info" in span or isinstance(span["output"]["output"], dict)
            if span["metadata"].get("cache_hit"):
                assert span["total_estimated_cost"] == 0.0
            if span["type"] == "llm" and "error_info" not in span:
                assert span["metadata"]["finish_reason"]


def an_lm_alone(server: LMServer) -> None:
    server.lm()("hello")


def a_model_without_a_slash(server: LMServer) -> None:
    with dspy.context(lm=DummyLM([{"answer": "Rome"}])):
        dspy.Predict("question -> answer")(question="Why?")


def a_fan_out(server: LMServer) -> None:
    FanOut()(questions=["a?", "b?", "c?"])


def well_then_badly(server: LMServer) -> None:
    dspy.Predict("question -> answer")(question="Why?")
    server.script([Reply(status=500)] * 2)  # DSPy before 3.3 asks again, in JSON
    with suppress(Exception):
        dspy.Predict("question -> answer")(question="Why?")


def without_history(server: LMServer) -> None:
    with dspy.context(disable_history=True):
        dspy.Predict("question -> answer")(question="Why?")


def lm_calls(traces: list[Trace]) -> list[dict[str, Any]]:
    return [span for trace in traces for span in trace.spans if span["name"].startswith(("LM", "DummyLM"))]


@pytest.mark.parametrize(
    ("program", "traces", "calls", "with_usage"),
    [
        (an_lm_alone, (0, 1), (0, 1), (0, 1)),
        (a_model_without_a_slash, (1, 1), (0, 1), (0, 0)),
        (a_fan_out, (4, 1), (3, 3), (3, 3)),
        pytest.param(
            *(well_then_badly, (2, 2), (2, 2), (2, 1)),
            marks=pytest.mark.skipif(not NATIVE, reason="DSPy before 3.3 asks again after an error"),
        ),
        (without_history, (1, 1), (1, 1), (0, 1)),
    ],
)
def test_what_theirs_loses_or_mixes_up_is_right(
    program: Program,
    traces: tuple[int, int],
    calls: tuple[int, int],
    with_usage: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Theirs and ours: how many traces, how many LM calls in them, and how many of these have usage."""
    both = run_both(program, None, monkeypatch)
    assert tuple(len(found) for found in both) == traces
    assert tuple(len(lm_calls(found)) for found in both) == calls
    assert tuple(sum("usage" in span for span in lm_calls(found)) for found in both) == with_usage
