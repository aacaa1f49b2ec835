"""All ways to call a model: each call is an LM span with the numbers of its own answer."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import dspy
import pytest
from dspy.utils.dummies import DummyLM

from exact import (
    ENGINES,
    HAS_ENGINES,
    HAS_MCP,
    PRICED,
    RELEASE,
    assert_exact,
    assert_none_lost_none_wrong,
    cost_of,
    lm_spans,
)
from lm_server import API_KEY, LMServer, Reply, Tokens
from programs import Answerer
from spanhook import Span
from spanhook.testing import capture_spans

engines = pytest.mark.parametrize("engine", ENGINES)
with_engines = pytest.mark.skipif(not HAS_ENGINES, reason="before 3.4 DSPy has no engines and no requests")


@pytest.fixture
def spans() -> Iterator[list[Span]]:
    with capture_spans() as captured:
        yield captured


EVERY_COUNT = Tokens(1_000, 500, cached=300, cache_write=200, reasoning=100, audio_in=50, audio_out=25)


@engines
@pytest.mark.parametrize("tokens", [EVERY_COUNT, Tokens(17, 4), Tokens(17, 0), Tokens(0, 4)], ids=str)
def test_every_count_that_a_provider_reports(server: LMServer, spans: list[Span], engine: str, tokens: Tokens) -> None:
    """All of them, and of those that it doesn't report none: no zero in their place."""
    server.script([Reply(content="hi", tokens=tokens)])
    server.lm(engine=engine)("hello")
    (span,) = spans
    assert_exact(span, server.answered[1])


@engines
def test_a_name_without_a_slash(server: LMServer, spans: list[Span], engine: str) -> None:
    """The model as asked for; it names no provider, so there is none."""
    server.lm("gpt-4o-mini", engine=engine)("hello")
    (span,) = spans
    sent = server.answered[1].tokens
    assert (span.model, span.provider) == ("gpt-4o-mini", None)
    assert span.usage is not None
    assert sent is not None
    assert span.usage.input_tokens == sent.prompt
    assert span.cost_usd == pytest.approx(cost_of(sent))


@engines
def test_a_copy_of_an_lm(server: LMServer, spans: list[Span], engine: str) -> None:
    """`lm.copy()`: the same as the LM itself, with its own parameters."""
    lm = server.lm(PRICED, engine=engine)
    lm("hello")
    lm.copy(temperature=0.7, rollout_id=1)("hello")
    assert_none_lost_none_wrong(spans, server, 2)
    assert [span.attributes.get("request.temperature") for span in spans] == [None, 0.7]


@engines
def test_two_lms_and_one_of_a_predictor(server: LMServer, spans: list[Span], engine: str) -> None:
    """Each span has the model that ran; on the module above, the usage is told for each model."""

    class Two(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cheap, self.dear = dspy.Predict("question -> answer"), dspy.Predict("question -> answer")
            self.dear.lm = server.lm("openai/dear-model", engine=engine)

        def forward(self, question: str) -> None:
            self.cheap(question=question)
            self.dear(question=question)
            with dspy.context(lm=server.lm("openai/third-model", engine=engine)):
                self.cheap(question=question)

    with dspy.context(lm=server.lm(engine=engine)):
        Two()(question="Why?")
    assert_none_lost_none_wrong(spans, server, 3)
    models = ["openai/test-model", "openai/dear-model", "openai/third-model"]
    assert [span.model for span in lm_spans(spans)] == models
    by_model = spans[-1].attributes["usage_by_model"]
    assert {model: usage["input_tokens"] for model, usage in by_model.items()} == {
        span.model: span.usage.input_tokens for span in lm_spans(spans) if span.usage
    }


@engines
def test_several_completions(server: LMServer, spans: list[Span], engine: str) -> None:
    """n=3: tokens and cost of all of them; finish reason and model where they agree."""
    server.lm(PRICED, engine=engine)("hello", n=3)
    (span,) = spans
    sent = [answered.tokens for answered in server.answered.values() if answered.tokens]
    assert len(sent) == (3 if engine == "lm15" else 1)
    assert len(span.outputs) == 3
    assert span.usage is not None
    assert span.usage.to_dict() == {
        "input_tokens": sum(tokens.prompt for tokens in sent),
        "output_tokens": sum(tokens.completion for tokens in sent),
        "total_tokens": sum(tokens.total for tokens in sent),
        "cached_input_tokens": sum(tokens.cached or 0 for tokens in sent),
        "reasoning_output_tokens": sum(tokens.reasoning or 0 for tokens in sent),
    }
    assert span.cost_usd == pytest.approx(sum(cost_of(tokens) for tokens in sent))
    assert len(span.attributes["finish_reasons"]) == 3
    reasons = {answered.finish_reason for answered in server.answered.values()}
    assert span.finish_reason == (reasons.pop() if len(reasons) == 1 else None)
    models = {answered.response_model for answered in server.answered.values()}
    assert span.response_model == (models.pop() if len(models) == 1 else None)


@with_engines
def test_completions_of_which_one_reports_no_usage(server: LMServer, spans: list[Span]) -> None:
    """Three requests for n=3, one without usage: what the other two used is not what the call used."""
    server.script(
        [Reply(content="a", model="m"), Reply(content="b", model="m", tokens=None), Reply(content="c", model="m")]
    )
    server.lm(PRICED, engine="lm15")("hello", n=3)
    (span,) = spans
    assert (span.usage, span.cost_usd) == (None, None)
    assert (span.finish_reason, span.response_model) == ("stop", "m")


def test_text_completions(server: LMServer, spans: list[Span]) -> None:
    """`model_type="text"`, which only LiteLLM speaks."""
    server.lm(model_type="text")("hello")
    assert_none_lost_none_wrong(spans, server, 1)


@pytest.mark.parametrize("engine", [e for e in ENGINES if e == "lm15" or HAS_MCP])
@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
def test_responses(server: LMServer, spans: list[Span], engine: str, reason: str) -> None:
    """`model_type="responses"`: its finish reason in chat's words."""
    server.script([Reply(content="answer-1", finish_reason=reason)])
    server.lm(model_type="responses", engine=engine)("hello")
    assert_none_lost_none_wrong(spans, server, 1)
    assert spans[0].finish_reason == reason


@pytest.mark.parametrize("engine", [e for e in ENGINES if e == "lm15" or HAS_MCP])
def test_a_tool_call_of_responses(server: LMServer, spans: list[Span], engine: str) -> None:
    """The model wants a tool: `tool_calls` as in chat."""
    server.script([Reply(tool_calls=[("weather", {"city": "Rome"})])])
    server.lm(model_type="responses", engine=engine)("hello")
    assert_exact(spans[0], server.answered[1])
    assert spans[0].finish_reason == "tool_calls"


@with_engines
@engines
def test_a_request(server: LMServer, spans: list[Span], engine: str) -> None:
    """`lm(Request)`, called plainly and awaited: the answer is a Response, and its span as exact as any.

    The LM's own temperature is not sent with it, and is not in the span.
    """
    from dspy.lm15 import Config, Message, Request

    lm = server.lm(engine=engine, temperature=0.9)
    request = Request(model=lm.model, messages=(Message.user("hello"),), config=Config(seed=3))
    response = lm(request)
    again = asyncio.run(lm.acall(request))
    assert [span.outputs for span in spans] == [[response.text], [again.text]]
    for span, answered in zip(spans, server.answered.values(), strict=True):
        assert_exact(span, answered)
        assert span.inputs["messages"] == answered.body["messages"]
        assert span.attributes == {"request.seed": answered.body["seed"]}
        assert "temperature" not in answered.body


@with_engines
def test_a_custom_engine(server: LMServer, spans: list[Span]) -> None:
    """`dspy.LM(engine=…)` of one's own: tokens, finish reason and model as the engine tells; the cost nobody knows."""
    from dspy.lm15 import Message, Request, Response, Usage

    class Posting:
        def complete(self, request: Request) -> Response:
            asked = {"model": request.model, "messages": [{"role": "user", "content": request.messages[-1].text}]}
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {API_KEY}"}
            http = urllib.request.Request(f"{server.url}/chat/completions", json.dumps(asked).encode(), headers)
            with urllib.request.urlopen(http) as answer:
                body = json.load(answer)
            choice, usage = body["choices"][0], body["usage"]
            return Response(
                id=body["id"],
                model=body["model"],
                message=Message.assistant(choice["message"]["content"]),
                finish_reason=choice["finish_reason"],
                usage=Usage(
                    input_tokens=usage["prompt_tokens"],
                    output_tokens=usage["completion_tokens"],
                    cache_read_tokens=usage["prompt_tokens_details"]["cached_tokens"],
                    reasoning_tokens=usage["completion_tokens_details"]["reasoning_tokens"],
                ),
            )

        def stream(self, request: Request) -> Iterator[Any]:
            raise NotImplementedError

        def close(self) -> None:
            return None

    lm = dspy.LM("acme/own", engine=Posting(), cache=False)
    with dspy.context(lm=lm):
        Answerer()(question="Why?")
    assert_none_lost_none_wrong(spans, server, 1)
    (span,) = lm_spans(spans)
    assert (span.model, span.provider) == ("acme/own", None)  # the slash may mean anything there


def test_a_dummy(spans: list[Span]) -> None:
    """`DummyLM` counts nothing: no usage and no cost, instead of zeros."""
    with dspy.context(lm=DummyLM([{"answer": "a"}])):
        Answerer()(question="Why?")
    calls = lm_spans(spans)
    assert calls or dspy.__version__ < "3.1"  # before, DSPy calls no callback for it
    for span in calls:
        assert (span.model, span.provider, span.usage, span.cost_usd) == ("dummy", None, None, None)
        assert span.cache_hit is not True


@engines
def test_an_lm_and_a_tool_that_calls_one_with_no_module_around(
    server: LMServer, spans: list[Span], engine: str
) -> None:
    """Traces of their own, the tool with the sum of what it called."""
    lm = server.lm(PRICED, engine=engine)
    lm("hello")

    def ask(question: str) -> str:
        return str(lm(question)[0]) + str(lm(messages=[{"role": "user", "content": question}])[0])

    dspy.Tool(ask)(question="Why?")
    assert_none_lost_none_wrong(spans, server, 3)
    tool = spans[-1]
    assert (tool.kind, tool.name, tool.parent_id) == ("tool", "ask", None)
    assert tool.usage is not None
    assert tool.usage.input_tokens == sum(server.answered[i].tokens.prompt for i in (2, 3))  # type: ignore[union-attr]


@engines
def test_an_adapter_that_falls_back(server: LMServer, spans: list[Span], engine: str) -> None:
    """An answer that ChatAdapter can't read, then JSONAdapter: two exact LM spans under one Predict."""
    server.script([Reply(content="no field in here, number-1")])
    with dspy.context(lm=server.lm(PRICED, engine=engine)):
        Answerer()(question="Why?")
    assert_none_lost_none_wrong(spans, server, 2)
    first, second = lm_spans(spans)
    assert first.parent_id == second.parent_id
    predict = next(span for span in spans if span.span_id == first.parent_id)
    assert (predict.name, predict.error) == ("Predict", None)
    assert predict.usage is not None
    assert predict.usage.output_tokens == sum(span.usage.output_tokens or 0 for span in (first, second) if span.usage)
    assert predict.cost_usd == pytest.approx((first.cost_usd or 0) + (second.cost_usd or 0))
    (failed,) = [span for span in spans if span.kind == "adapter_parse" and span.error]
    assert failed.error is not None
    assert failed.error.type.endswith("AdapterParseError")


class Tooled(dspy.Signature):  # type: ignore[misc]
    question: str = dspy.InputField()
    tools: list[dspy.Tool] = dspy.InputField()
    outputs: dspy.ToolCalls = dspy.OutputField()


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@engines
def test_native_tool_calls(server: LMServer, spans: list[Span], engine: str) -> None:
    """The provider's own tool calls: the same reason on both engines, and the call in the outputs."""
    server.script([Reply(tool_calls=[("weather", {"city": "Rome"})])])
    adapter = dspy.ChatAdapter(use_native_function_calling=True)
    with dspy.context(lm=server.lm(PRICED, engine=engine), adapter=adapter):
        prediction = dspy.Predict(Tooled)(question="Weather in Rome?", tools=[dspy.Tool(weather)])
    (span,) = lm_spans(spans)
    assert_exact(span, server.answered[1])
    assert span.finish_reason == "tool_calls"
    assert span.outputs[0]["tool_calls"][0]["function"]["name"] == "weather"
    assert prediction.outputs.tool_calls[0].args == {"city": "Rome"}


@engines
def test_what_a_model_thought(server: LMServer, spans: list[Span], engine: str) -> None:
    """Reasoning beside the text stands in the outputs, and its tokens in the usage."""
    server.script([Reply(content="answer-1", reasoning_content="thought {serial}")])
    server.lm(PRICED, engine=engine)("hello")
    assert_none_lost_none_wrong(spans, server, 1)
    if RELEASE >= (3, 1):  # before, DSPy's outputs have no place for it
        assert spans[0].outputs == [{"text": "answer-1", "reasoning_content": "thought 1"}]


class Shown(dspy.Signature):  # type: ignore[misc]
    question: str = dspy.InputField()
    image: dspy.Image = dspy.InputField()
    answer: str = dspy.OutputField()


@engines
def test_an_image_in_the_input(server: LMServer, spans: list[Span], engine: str) -> None:
    """600 kB of it: the numbers are exact, and no string in any span is longer than its bound and the mark."""
    image = dspy.Image(f"data:image/png;base64,{base64.b64encode(bytes(450_000)).decode()}")
    with dspy.context(lm=server.lm(PRICED, engine=engine)):
        dspy.Predict(Shown)(question="What is it?", image=image)
    assert_none_lost_none_wrong(spans, server, 1)
    assert "image" in json.dumps(lm_spans(spans)[0].inputs)
    strings = [text for span in spans for text in strings_of([span.inputs, span.outputs])]
    longest = max(strings, key=len)
    assert 100_000 < len(longest) < 100_100
    assert longest.endswith("more characters]")


def strings_of(value: Any) -> Iterator[str]:
    """Every string in plain data."""
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings_of(item)


@engines
def test_retries_inside_one_call(server: LMServer, spans: list[Span], engine: str) -> None:
    """500, then an answer: one span, with the numbers of the answer."""
    server.script([Reply(status=500, retry_after_s=0.01)])
    server.lm(PRICED, engine=engine, num_retries=2)("hello")
    (span,) = spans
    assert_exact(span, server.answered[len(server.answered)])
    assert len(server.answered) == 2
