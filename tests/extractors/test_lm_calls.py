"""What the four extractors of the default list know of an LM call, against what the server sent for that very call."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

from doubles import Memory, tracer_of
from exact import ENGINES, HAS_ENGINES, assert_exact, lm_spans
from lm_server import API_KEY, LMServer, Reply
from programs import Answerer
from spanhook.testing import capture_spans


@pytest.fixture
def server() -> Iterator[LMServer]:
    with LMServer() as running:
        yield running


def test_the_sources_are_named(server: LMServer) -> None:
    """`span.sources` says which extractor gave which field: the first in the list that knew it."""
    with capture_spans() as spans:
        server.lm()("hello")
    (span,) = spans
    assert span.sources["usage"] == "history"
    assert span.sources["cache_hit"] == "history"
    assert span.sources["response_model"] == "history"
    assert span.sources["finish_reason"] == "finish_reason"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cached_call_has_no_usage_and_costs_nothing(server: LMServer, engine: str) -> None:
    """Cache on: the first call is a miss with usage, the second a hit without; one request in all."""
    lm = server.lm(engine=engine, cache=True, model="openai/gpt-4o-mini")
    prompt = f"hello {uuid.uuid4()}"  # in nobody's cache
    with capture_spans() as spans:
        lm(prompt)
        lm(prompt)
    first, second = spans
    assert_exact(first, server.answer_to(first.outputs[0]))
    assert len(server.answered) == 1
    assert (second.cache_hit, second.usage, second.cost_usd) == (True, None, 0.0)
    assert second.outputs == first.outputs
    assert second.attributes["cost_avoided_usd"] == first.cost_usd
    assert first.cost_usd


@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_server_does_not_say_is_none(server: LMServer, engine: str) -> None:
    """An answer without usage: no usage and no cost, not zero; without a cache it is still known to be no hit."""
    server.script([Reply(content="hi", tokens=None)])
    with capture_spans() as spans:
        server.lm(engine=engine)("hello")
    (span,) = spans
    assert span.usage is None
    assert span.cost_usd is None
    assert span.cache_hit is False


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("off", [{"disable_history": True}, {"max_history_size": 0}])
def test_usage_is_exact_with_history_off(server: LMServer, engine: str, off: dict[str, Any]) -> None:
    """DSPy's usage tracker knows it then, and still tells the program's own; what nobody knows is None."""
    lm = server.lm(engine=engine)
    with dspy.context(**off), dspy.context(lm=lm, track_usage=True), capture_spans() as spans:
        prediction = Answerer()(question="Why?")
    (span,) = lm_spans(spans)
    sent = server.answered[1].tokens
    assert sent is not None
    assert span.usage is not None
    assert (span.usage.input_tokens, span.usage.output_tokens) == (sent.prompt, sent.completion)
    assert span.sources["usage"] == "lm_usage"
    assert (span.finish_reason, span.cost_usd, span.cache_hit) == (None, None, None)
    assert prediction.get_lm_usage()["openai/test-model"]["prompt_tokens"] == sent.prompt


def test_a_failed_call_has_no_tokens_of_an_earlier_one(server: LMServer) -> None:
    """The same prompt, first answered and then refused: the failed span knows nothing."""
    lm = server.lm()
    server.script([{"answer": "fine"}, Reply(status=500)])
    with capture_spans() as spans:
        lm("the same prompt")
        with pytest.raises(Exception, match=r"."):
            lm("the same prompt")
    failed = spans[-1]
    assert failed.error is not None
    assert (failed.usage, failed.finish_reason, failed.cost_usd, failed.cache_hit) == (None, None, None, None)


def test_an_lm_of_ones_own(server: LMServer) -> None:
    """A BaseLM subclass, whose model's name has a slash that is no provider: everything but what nobody knows."""

    class OwnLM(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return _completion("mine")

    with capture_spans() as spans:
        OwnLM(model="acme/own-7b")("hello")
    if not spans:  # DSPy before 3.1 calls no callback for it
        pytest.skip("this release of DSPy tells nothing of such LMs")
    (span,) = spans
    assert (span.model, span.provider, span.response_model) == ("acme/own-7b", None, "own-7b-1")
    assert span.usage is not None
    assert (span.usage.input_tokens, span.usage.output_tokens) == (11, 7)
    assert (span.finish_reason, span.cost_usd) == ("stop", None)


def test_an_lm_that_calls_another_lm_has_its_own_record(server: LMServer) -> None:
    """Two LM spans, one under the other, each with the numbers of its own call."""

    class Router(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            inner("hello")
            return _completion("routed")

    inner = server.lm()
    with capture_spans() as spans:
        Router(model="router")("hello")
    if len(spans) < 2:
        pytest.skip("this release of DSPy tells nothing of such LMs")
    below, above = spans
    assert below.parent_id == above.span_id
    assert_exact(below, server.answered[1])
    assert above.usage is not None
    assert above.usage.input_tokens == 11


class Logged(dspy.LM):
    """An LM that does something of its own around each call."""

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return super().forward(prompt=prompt, messages=messages, **kwargs)


class Borrowed(dspy.BaseLM):
    """An LM that has another one answer, by its `forward`."""

    def __init__(self, lm: dspy.LM) -> None:
        super().__init__(lm.model, cache=False)
        self.lm = lm

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return self.lm.forward(prompt=prompt, messages=messages, **kwargs)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [Logged, Borrowed])
@pytest.mark.parametrize("reply", [Reply(content="half", finish_reason="length"), Reply(tool_calls=[("f", {"x": 1})])])
def test_a_finish_reason_that_dspy_loses(server: LMServer, engine: str, kind: type[Any], reply: Reply) -> None:
    """DSPy's own engine gives such LMs "stop" for whatever the provider said: that is none. All else is exact."""
    lm: Any = Borrowed(server.lm(engine=engine))
    if kind is Logged:
        chosen = {"engine": engine} if HAS_ENGINES else {}
        lm = Logged("openai/test-model", api_base=server.url, api_key=API_KEY, cache=False, **chosen)
    server.script([reply])
    with capture_spans() as spans:
        lm("hello")
    if not spans:  # DSPy before 3.1 calls no callback for it
        pytest.skip("this release of DSPy tells nothing of such LMs")
    (span,) = spans
    (sent,) = server.answered.values()
    assert span.finish_reason == (None if engine == "lm15" else sent.finish_reason)
    assert (span.response_model, span.usage and span.usage.input_tokens) == (
        sent.response_model,
        sent.tokens and sent.tokens.prompt,
    )


def test_a_model_of_typesafe(monkeypatch: pytest.MonkeyPatch) -> None:
    """DSPy's client for it writes an entry of another shape: the model that answered is in the answer alone."""
    typesafe = pytest.importorskip("dspy.clients.typesafe")

    class Client:
        def __init__(self, **_: Any) -> None:
            return None

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def system_one(self, state: Any, questions: Any) -> Any:
            answers = {name: SimpleNamespace(noul=False, choice="billing") for name in questions}
            return SimpleNamespace(
                model="jev-2026", usage=SimpleNamespace(input_tokens=11, output_tokens=5), answers=answers
            )

    monkeypatch.setitem(sys.modules, "typesafe_sdk", SimpleNamespace(TypeSafeClient=Client))
    lm, state = typesafe.TypeSafe(api_key=API_KEY), f"hello {uuid.uuid4()}"  # in nobody's cache
    with capture_spans() as spans:
        for _ in range(2):
            lm(state, {"topic": {"question": "what?"}})
    assert [(span.model, span.response_model, span.cache_hit) for span in spans] == [
        ("jev-latest", "jev-2026", False), ("jev-latest", "jev-2026", True),
    ]  # fmt: skip
    assert [span.usage and span.usage.input_tokens for span in spans] == [11, None]


def test_usage_without_a_truth_value() -> None:
    """A tool that returns a table with a column of that name: no usage, and no word of a failure."""

    class Column:
        def __bool__(self) -> bool:
            raise ValueError("the truth value of a column is ambiguous")

    def measure() -> Any:
        """Measure."""
        return SimpleNamespace(usage=Column())

    tracer = tracer_of(Memory(), tracing={"extractors": ["usage_attribute"]})
    with capture_spans(tracer) as spans:
        dspy.Tool(measure)()
    (span,) = spans
    assert span.usage is None
    assert not tracer.stats().errors


def test_nothing_of_the_recorder_stays_in_a_history(server: LMServer) -> None:
    """The LM's and the module's histories have DSPy's own entries, one a call, and keep their bound."""
    lm, program = server.lm(), Answerer()
    with dspy.context(lm=lm, max_history_size=3), capture_spans():
        for _ in range(5):
            program(question="Why?")
        assert dspy.settings.caller_modules in (None, [])
    assert len(lm.history) == 3
    assert len(program.history) == 3


def _completion(text: str) -> Any:
    """An answer of OpenAI's shape, as a BaseLM's `forward` has to return it."""
    message = SimpleNamespace(content=text, reasoning_content=None, tool_calls=None, provider_specific_fields=None)
    return SimpleNamespace(
        model="own-7b-1",
        choices=[SimpleNamespace(message=message, finish_reason="stop", logprobs=None)],
        usage={"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    )
