"""Adapters: a span for each call of `format` and `parse`, also of inherited ones, and what they call below it."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from doubles import WAIT_S, Memory, tracer_of
from lm_server import LMServer
from programs import Answerer
from spanhook.testing import capture_spans
from trees import only, tree


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


def test_an_adapter_that_the_program_calls_itself() -> None:
    """Its result is that of the interaction around it, like any call's."""
    memory = Memory()
    tracer = tracer_of(memory)
    with tracer.interaction():
        written = dspy.ChatAdapter().format(dspy.Signature("question -> answer"), [], {"question": "Why?"})
    assert tracer.flush(WAIT_S)
    assert memory.spans[-1].kind == "interaction"
    assert memory.spans[-1].outputs == written


@pytest.mark.parametrize("kind", [dspy.ChatAdapter, dspy.JSONAdapter, dspy.TwoStepAdapter, Stripping, Lowering])
def test_adapters_without_spans(server: LMServer, kind: type[dspy.Adapter]) -> None:
    """What they call is under the module, with the messages that were written, and counts in every sum above."""
    memory = Memory()
    tracer = tracer_of(memory, tracing={"adapter_spans": False, "extractors": ["history"]})
    lm = server.lm()
    adapter = kind(lm) if issubclass(kind, dspy.TwoStepAdapter) else kind()
    calls = 2 if issubclass(kind, dspy.TwoStepAdapter) else 1
    with dspy.context(lm=lm, adapter=adapter):
        Answerer()(question="Why?")
    assert tracer.flush(WAIT_S)
    assert tree(memory.spans) == ["module Answerer", "  module Predict", *["    lm LM"] * calls]
    assert "Why?" in str(memory.spans[0].inputs["messages"])
    told = [answer.tokens.prompt for answer in server.answered.values() if answer.tokens]
    assert len(told) == calls
    assert memory.spans[-1].usage is not None
    assert memory.spans[-1].usage.input_tokens == sum(told)
    assert not tracer.stats().errors


def test_what_the_program_does_in_an_adapter_without_spans(server: LMServer) -> None:
    """A span of its own and a tool's call are under the module, a failure is the module's; with no module, roots."""
    memory = Memory()
    tracer = tracer_of(memory, tracing={"adapter_spans": False})
    clean = dspy.Tool(lambda text: text.strip(), name="clean")

    class Cleaning(dspy.Adapter):
        def format(self, signature: type[dspy.Signature], demos: Any, inputs: Any) -> list[dict[str, Any]]:
            return [{"role": "user", "content": str(inputs)}]

        def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
            with tracer.span("look"):
                clean(text=completion)
            raise ValueError("no")

    adapter = Cleaning()
    with dspy.context(lm=server.lm(), adapter=adapter), pytest.raises(ValueError, match="no"):
        dspy.Predict("question -> answer")(question="Why?")
    with pytest.raises(ValueError, match="no"):
        adapter.parse(dspy.Signature("question -> answer"), "text")
    assert tracer.flush(WAIT_S)
    assert tree(memory.spans[:4]) == ["module Predict", "  lm LM", "  custom look", "    tool clean"]
    assert tree(memory.spans[4:]) == ["custom look", "  tool clean"]
    assert [span.error is not None for span in memory.spans[:4]] == [False, False, False, True]
    assert tracer.shutdown(WAIT_S)


@pytest.mark.parametrize("is_coroutine", [True, False])
def test_what_an_adapter_without_a_span_makes(is_coroutine: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A coroutine or a generator is its own affair: the module around it has returned, whatever becomes of that."""
    memory = Memory()
    tracer = tracer_of(memory, tracing={"adapter_spans": False})

    async def wait() -> None:
        raise NotImplementedError

    class Making(dspy.ChatAdapter):
        def parse(self, signature: type[dspy.Signature], completion: str) -> Any:
            made.append(wait() if is_coroutine else (part for part in completion))
            return made[-1]

    class Reading(dspy.Module):  # type: ignore[misc]  # DSPy is untyped
        def forward(self) -> dspy.Prediction:
            Making().parse(dspy.Signature("question -> answer"), "text")
            return dspy.Prediction(answer="Yes.")

    made: list[Any] = []
    Reading()()
    assert tracer.shutdown(WAIT_S)
    assert [(span.outputs, span.attributes) for span in memory.spans] == [({"answer": "Yes."}, {})]
    assert not caplog.text
    made[0].close()
