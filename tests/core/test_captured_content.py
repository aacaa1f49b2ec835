"""What of a call is in its span: arguments, messages, answers, parameters; no key, and with `metadata` no content."""

from __future__ import annotations

import dspy
import pytest

import spanhook
from doubles import WAIT_S, Memory, tracer_of
from lm_server import API_KEY, LMServer
from programs import Answerer
from spanhook import Span
from spanhook.testing import capture_spans
from trees import only


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


def test_positional_arguments_are_inputs_too(spans: list[Span]) -> None:
    """What a module is given by position is not lost."""

    class Echo(dspy.Module):
        def forward(self, first: str, second: int = 0) -> str:
            return first

    Echo()("one", second=2)
    assert spans[-1].inputs == {"args": ["one"], "second": 2}
    assert spans[-1].outputs == "one"


@pytest.mark.parametrize("given", ["question -> city", dspy.Signature("question -> city")])
def test_a_signature_that_a_call_brings_along(spans: list[Span], server: LMServer, given: str | type) -> None:
    """It is what the prompt was made of, and stands in the trace as text."""
    with dspy.context(lm=server.lm()):
        dspy.Predict("question -> answer")(question="Why?", signature=given)
    predict = only(spans, "module")
    assert predict.attributes["dspy.signature"] == "question -> city"
    assert predict.inputs == {"question": "Why?", "signature": "question -> city"}


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


def test_a_key_never_reaches_a_span(server: LMServer) -> None:
    """The LM's key, given at construction or with a call, stands in no span."""
    with capture_spans() as spans:
        server.lm()("hello", temperature=0.5)
        server.lm()("hello", api_key="sk-other-secret", extra_headers={"x-token": "sk-header-secret"})
    assert spans[0].attributes["request.temperature"] == 0.5
    shown = repr([span.to_dict() for span in spans])
    assert API_KEY not in shown
    assert "secret" not in shown


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


def test_only_a_signature_is_shown_as_one() -> None:
    """A text of the program's by that name is none, in a module that happens to hold demos: it is content."""

    class Letter(dspy.Module):  # type: ignore[misc]  # DSPy is untyped
        def __init__(self) -> None:
            super().__init__()
            self.signature, self.demos = "Kind regards, Ada", ["Dear Sir"]

        def forward(self, signature: str) -> None: ...

    memory = Memory()
    tracer = tracer_of(memory, tracing={"capture": "metadata"})
    Letter()(signature="Yours, Bob")
    assert tracer.flush()
    assert [span.attributes for span in memory.spans] == [{}]
