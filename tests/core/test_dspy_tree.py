"""DSPy's events as spans: kinds, names, parents, content, errors; sync, async and over threads."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

import spanhook
from doubles import WAIT_S, Memory, tracer_of
from lm_server import API_KEY, LMServer, Reply
from programs import Answerer, FanOut
from spanhook import Span
from spanhook.testing import capture_spans


@pytest.fixture
def spans(server: LMServer) -> Iterator[list[Span]]:
    with dspy.context(lm=server.lm()), capture_spans() as captured:
        yield captured


def tree(spans: list[Span]) -> list[str]:
    """The spans as indented `kind name` lines, in the order in which they started."""
    depth: dict[str | None, int] = {None: -1}
    lines = []
    for span in sorted(spans, key=lambda span: span.start_ns):
        depth[span.span_id] = depth[span.parent_id] + 1
        lines.append(f"{'  ' * depth[span.span_id]}{span.kind} {span.name}")
    return lines


def only(spans: list[Span], kind: str) -> Span:
    """The one span of a kind."""
    (found,) = [span for span in spans if span.kind == kind]
    return found


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


def test_spans_carry_what_went_in_and_out(spans: list[Span], server: LMServer) -> None:
    """Keyword arguments, messages, the answer; the class name and the signature; the model and the provider."""
    prediction = Answerer()(question="Why?")
    root = spans[-1]
    assert root.inputs == {"question": "Why?"}
    assert root.outputs == {"answer": prediction.answer}
    predict = next(span for span in spans if span.name == "Predict")
    assert predict.attributes["dspy.signature"] == "question -> answer"
    lm = only(spans, "lm")
    assert (lm.model, lm.provider) == ("openai/test-model", "openai")
    assert lm.inputs["messages"][-1]["role"] == "user"
    assert "Why?" in lm.inputs["messages"][-1]["content"]
    assert server.answered[1].text in lm.outputs
    assert only(spans, "adapter_format").inputs["inputs"] == {"question": "Why?"}
    assert only(spans, "adapter_parse").outputs == {"answer": prediction.answer}


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()])
def test_an_adapter_formats_once_and_parses_once(server: LMServer, adapter: dspy.Adapter) -> None:
    """One span each, with the arguments by name, also where DSPy reports the inherited method as a second call."""
    with dspy.context(lm=server.lm(), adapter=adapter), capture_spans() as spans:
        Answerer()(question="Why?")
    assert only(spans, "adapter_format").inputs == {
        "signature": "question -> answer",
        "demos": [],
        "inputs": {"question": "Why?"},
    }
    assert set(only(spans, "adapter_parse").inputs) == {"signature", "completion"}


class Stripping(dspy.TwoStepAdapter):
    """Overrides a method and calls the inherited one, which calls a model."""

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        return super().parse(signature, completion.strip())


class Lowering(Stripping):
    """Once more."""

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        return super().parse(signature, completion.lower())


@pytest.mark.parametrize("kind", [dspy.TwoStepAdapter, Stripping, Lowering])
def test_what_an_inherited_method_of_an_adapter_calls(server: LMServer, kind: type[dspy.TwoStepAdapter]) -> None:
    """It hangs under the one span of the method, and counts in every sum above."""
    lm = server.lm()
    with dspy.context(lm=lm, adapter=kind(lm)), capture_spans() as spans:
        Answerer()(question="Why?")
    assert tree(spans) == [
        "module Answerer",
        "  module Predict",
        f"    adapter_format {kind.__name__}.format",
        "    lm LM",
        f"    adapter_parse {kind.__name__}.parse",
        "      adapter_format ChatAdapter.format",
        "      lm LM",
        "      adapter_parse ChatAdapter.parse",
    ]
    told = [answer.tokens.prompt for answer in server.answered.values() if answer.tokens]
    assert len(told) == 2
    assert spans[-1].usage is not None
    assert spans[-1].usage.input_tokens == sum(told)


def test_a_method_of_an_adapter_at_shutdown(server: LMServer, caplog: pytest.LogCaptureFixture) -> None:
    """However often DSPy reports it, it is one call that still runs; its end and what it raises change nothing."""

    class Stopping(dspy.JSONAdapter):
        def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
            return super().parse(signature, completion)

    class Last(Stopping):
        def user_message_output_requirements(self, signature: type[dspy.Signature]) -> str:
            tracer.shutdown()
            raise ValueError("stop")

    tracer = tracer_of(Memory())
    with dspy.context(lm=server.lm(), adapter=Last()), pytest.raises(ValueError, match="stop"):
        dspy.Predict("question -> answer")(question="Why?")
    assert "2 spans that were still running" in caplog.text
    assert not tracer.stats().errors


def test_positional_arguments_are_inputs_too(spans: list[Span]) -> None:
    """What a module is given by position is not lost."""

    class Echo(dspy.Module):
        def forward(self, first: str, second: int = 0) -> str:
            return first

    Echo()("one", second=2)
    assert spans[-1].inputs == {"args": ["one"], "second": 2}
    assert spans[-1].outputs == "one"


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


def test_an_evaluation_is_one_trace_with_its_score(spans: list[Span]) -> None:
    """dspy.Evaluate: a span of the run with the score, the programs' calls under it."""
    devset = [dspy.Example(question=f"q{i}", answer="?").with_inputs("question") for i in range(5)]
    evaluate = dspy.Evaluate(devset=devset, metric=lambda example, prediction, trace=None: 1.0, num_threads=2)
    evaluate(Answerer(), display_progress=False)
    root = spans[-1]
    assert (root.kind, root.parent_id) == ("evaluate", None)
    assert root.outputs == {"score": 100.0}
    assert root.inputs["devset"] == "5 examples"
    assert Counter(span.name for span in spans if span.parent_id == root.span_id) == {"Answerer": 5}
    assert len({span.trace_id for span in spans}) == 1


def test_an_lm_error_is_on_all_levels_and_goes_on_unchanged(server: LMServer) -> None:
    """A 500 from the model: LM, predictor and module failed, with type, message and traceback; no tokens anywhere."""
    server.script([Reply(status=500)] * 8)
    with dspy.context(lm=server.lm()), capture_spans() as spans, pytest.raises(Exception) as caught:  # noqa: PT011
        Answerer()(question="Why?")
    failed = [span for span in spans if span.kind in ("lm", "module")]
    assert {span.kind for span in failed} == {"lm", "module"}
    for span in failed:
        assert span.error is not None
        assert span.usage is None
        assert span.outputs is None
    for span in (spans[-1], spans[-2]):  # before 3.3 DSPy tries twice, with another adapter and another error
        assert span.error is not None
        assert span.error.type.endswith(type(caught.value).__qualname__)
        assert span.error.message == str(caught.value)
    assert [span.name for span in spans if span.parent_id is None] == ["Answerer"]


def test_cancellation_ends_every_span(server: LMServer) -> None:
    """A cancelled task: its spans end as cancelled, and the cancellation goes on."""

    async def cancelled() -> None:
        task = asyncio.ensure_future(Answerer().acall(question="Why?"))
        await asyncio.to_thread(server.wait_received, 1)
        task.cancel()
        await task

    hold = threading.Event()
    server.script([Reply(hold=hold)])
    try:
        with dspy.context(lm=server.lm()), capture_spans() as spans, pytest.raises(asyncio.CancelledError):
            asyncio.run(cancelled())
    finally:
        hold.set()
    assert {span.name for span in spans if span.error is not None} >= {"Answerer", "Predict", "LM"}
    for span in (s for s in spans if s.kind in ("lm", "module")):
        assert span.error is not None
        assert span.error.type == "asyncio.exceptions.CancelledError"


def test_a_compilation_is_a_span(spans: list[Span]) -> None:
    """`compile`, where the release tells of it, holds the calls that it makes; the program is compiled."""
    trainset = [dspy.Example(question=f"q{i}", answer="?").with_inputs("question") for i in range(3)]
    optimizer = dspy.BootstrapFewShot(metric=lambda example, prediction, trace=None: True, max_bootstrapped_demos=2)
    program = optimizer.compile(Answerer(), trainset=trainset)
    assert len(program.respond.demos) == 3
    if any(span.kind == "compile" for span in spans):
        assert (spans[-1].kind, spans[-1].name) == ("compile", "BootstrapFewShot")
        assert len({span.trace_id for span in spans}) == 1


def test_an_interpreter_is_a_span_where_the_release_tells(spans: list[Span]) -> None:
    """DSPy's interpreter events become spans named after the operation."""
    callback = next(c for c in dspy.settings.callbacks if hasattr(c, "on_interpreter_execute_start"))
    interpreter = type("Interpreter", (), {})()
    callback.on_interpreter_execute_start(call_id="i1", instance=interpreter, inputs={"code": "1 + 1"})
    callback.on_interpreter_execute_end(call_id="i1", outputs="2", exception=None)
    (span,) = spans
    assert (span.kind, span.name, span.inputs, span.outputs) == (
        "interpreter",
        "Interpreter.execute",
        {"code": "1 + 1"},
        "2",
    )


def test_a_key_never_reaches_a_span(server: LMServer) -> None:
    """The LM's key, given at construction or with a call, stands in no span."""
    with capture_spans() as spans:
        server.lm()("hello", temperature=0.5)
        server.lm()("hello", api_key="sk-other-secret", extra_headers={"x-token": "sk-header-secret"})
    assert spans[0].attributes["request.temperature"] == 0.5
    shown = repr([span.to_dict() for span in spans])
    assert API_KEY not in shown
    assert "secret" not in shown


def test_an_adapter_that_the_program_calls_itself() -> None:
    """Its result is that of the interaction around it, like any call's."""
    memory = Memory()
    tracer = tracer_of(memory)
    with tracer.interaction():
        written = dspy.ChatAdapter().format(dspy.Signature("question -> answer"), [], {"question": "Why?"})
    assert tracer.flush(WAIT_S)
    assert memory.spans[-1].kind == "interaction"
    assert memory.spans[-1].outputs == written


@pytest.mark.parametrize("capture", ["full", "metadata"])
def test_parameters_are_those_of_the_call(server: LMServer, capture: str) -> None:
    """How the model was asked, though the program changes its LM right afterwards."""
    memory = Memory()
    tracer = tracer_of(memory, tracing={"capture": capture}, delivery={"interval_s": WAIT_S})
    lm = server.lm(max_tokens=50)
    lm("hello", temperature=0.5)
    lm.kwargs["max_tokens"] = 99
    assert tracer.flush(WAIT_S)
    (span,) = memory.spans
    assert (span.attributes["request.max_tokens"], span.attributes["request.temperature"]) == (50, 0.5)


def test_metadata_only_keeps_content_out(server: LMServer) -> None:
    """capture = "metadata": no input, output, message or error text is in any span; numbers and names are."""
    tracer = spanhook.configure({"tracing": {"capture": "metadata"}})
    spans: list[Span] = []
    server.script([{"answer": "the secret answer"}])

    def converse() -> None:
        with tracer.interaction(event="chat") as interaction:
            interaction.inputs = "the secret input"
            Answerer()(question="the secret question")
            with tracer.span("look", query="the secret query") as own:
                own.outputs = "the secret result"
            raise ValueError("the secret error")

    with dspy.context(lm=server.lm()), tracer.listen(spans.append), pytest.raises(ValueError, match="secret"):
        converse()
    tracer.shutdown()
    assert "secret" not in repr([span.to_dict() for span in spans])
    lm = only(spans, "lm")
    assert lm.usage is not None
    assert lm.finish_reason == "stop"
    assert spans[-1].error is not None
    assert spans[-1].error.type == "ValueError"
