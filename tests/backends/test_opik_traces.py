"""Programs, and what Opik gets of them: the tree, the LM calls' numbers, who it was for."""

from __future__ import annotations

import asyncio
import datetime
import inspect
import uuid
from collections.abc import Iterator
from typing import Any

import dspy
import pytest
from opik_case import PROJECT, OpikCase, opik_case
from opik_server import Trace

import lm_wire
from lm_server import LMServer, Reply, Tokens
from programs import Answerer, FanOut

NATIVE = "engine" in inspect.signature(dspy.LM.__init__).parameters
ENGINES = ["lm15", "litellm"] if NATIVE else ["litellm"]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def case(engine: str) -> Iterator[OpikCase]:
    with opik_case(engine=engine) as running:
        yield running


@pytest.fixture
def any_case() -> Iterator[OpikCase]:
    with opik_case() as running:
        yield running


def lm_spans(trace: Trace) -> list[dict[str, Any]]:
    return [span for span in trace.spans if span["type"] == "llm"]


def failing_tool(city: str) -> str:
    """Looks up the weather."""
    raise ValueError(f"no weather for {city}")


def test_a_program_is_one_trace_with_its_calls_under_it(any_case: OpikCase) -> None:
    """The root call is the trace, everything else its spans, typed as Opik knows them."""
    Answerer()(question="Why?")
    trace = any_case.trace()
    assert trace.fields["name"] == "Answerer"
    assert trace.fields["project_name"] == PROJECT
    assert trace.fields["input"] == {"question": "Why?"}
    assert trace.fields["output"] == {"output": {"answer": "answer-1"}}
    assert trace.fields["metadata"]["created_from"] == "dspy"
    assert trace.tree() == [
        "general Predict",
        "  general ChatAdapter.format",
        "  llm LM: openai - test-model",
        "  general ChatAdapter.parse",
    ]


def test_the_trace_has_the_id_that_everything_else_knows_it_by(any_case: OpikCase) -> None:
    """The event id is the trace's id in Opik; the spans' ids are of the time of their start."""
    with any_case.tracer.interaction(event="chat") as interaction:
        Answerer()(question="Why?")
    trace = any_case.trace("chat")
    assert trace.fields["id"] == interaction.event_id
    for span in trace.spans:
        started = datetime.datetime.fromisoformat(span["start_time"].replace("Z", "+00:00"))
        assert uuid.UUID(span["id"]).int >> 80 == int(started.timestamp() * 1_000_000) // 1_000


def test_an_lm_call_has_its_own_numbers(case: OpikCase) -> None:
    """Usage in Opik's form, provider, model, cost, cache hit and finish reason are those that the server sent."""
    with dspy.context(lm=case.lm.lm("openai/gpt-4o-mini")):
        dspy.Predict("question -> answer")(question="Why?")
    (span,) = lm_spans(case.trace())
    sent = case.lm.answered[1]
    assert sent.tokens is not None
    assert span["name"] == "LM: openai - gpt-4o-mini"
    assert span["provider"] == "openai"
    assert span["model"] == sent.response_model
    assert span["total_estimated_cost"] > 0
    counts = {
        "prompt_tokens": sent.tokens.prompt,
        "completion_tokens": sent.tokens.completion,
        "total_tokens": sent.tokens.total,
    }
    assert span["usage"] == {
        **counts,
        **{f"original_usage.{name}": count for name, count in counts.items()},
        "original_usage.prompt_tokens_details.cached_tokens": sent.tokens.cached,
        "original_usage.completion_tokens_details.reasoning_tokens": sent.tokens.reasoning,
    }
    assert span["metadata"]["cache_hit"] is False
    assert span["metadata"]["finish_reason"] == sent.finish_reason
    assert span["metadata"]["original_model"] == "gpt-4o-mini"


def test_every_count_of_the_usage_arrives(any_case: OpikCase) -> None:
    """Cached, written, reasoning and audio tokens each have their place."""
    any_case.lm.script([Reply(content="hi", tokens=Tokens(100, 50, 3, 4, 5, 6, 7))])
    any_case.lm.lm()("hello")
    (span,) = lm_spans(any_case.trace())
    details = {name.removeprefix("original_usage."): n for name, n in span["usage"].items() if "_details." in name}
    assert details == {
        "prompt_tokens_details.cached_tokens": 3,
        "prompt_tokens_details.cache_creation_tokens": 4,
        "prompt_tokens_details.audio_tokens": 6,
        "completion_tokens_details.reasoning_tokens": 5,
        "completion_tokens_details.audio_tokens": 7,
    }


def test_tokens_beyond_opiks_own_limit_lose_nothing_else(any_case: OpikCase) -> None:
    """Its counts are int32: a total above that is left out, and the span arrives."""
    most = 2**31 - 1
    any_case.lm.script([Reply(content="hi", tokens=Tokens(most, most))])
    any_case.lm.lm()("hello")
    (span,) = lm_spans(any_case.trace())
    assert (span["usage"]["prompt_tokens"], span["usage"]["completion_tokens"]) == (most, most)
    assert "total_tokens" not in span["usage"]


def test_the_cache_shows(case: OpikCase, engine: str) -> None:
    """Off: usage, no hit. On and asked first: the same. On and asked again: a hit without usage that costs nothing."""
    prompt = f"a prompt in nobody's cache {uuid.uuid4()}"
    case.lm.lm(engine=engine)(prompt)
    cached = case.lm.lm(engine=engine, cache=True)
    cached(prompt)
    cached(prompt)
    spans = [lm_spans(trace)[0] for trace in case.traces]
    assert [span["metadata"]["cache_hit"] for span in spans] == [False, False, True]
    assert ["usage" in span for span in spans] == [True, True, False]
    assert spans[2]["total_estimated_cost"] == 0.0


def test_react_has_its_tools_and_each_lm_call_its_own_usage(case: OpikCase) -> None:
    """A tool that fails is a tool span with its error, and the program goes on; no LM call has another's numbers."""
    case.lm.script(
        [
            {"next_thought": "look", "next_tool_name": "failing_tool", "next_tool_args": {"city": "Oslo"}},
            {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": {}},
            {"reasoning": "I could not look.", "answer": "unknown"},
        ]
    )
    dspy.ReAct("question -> answer", tools=[failing_tool])(question="The weather in Oslo?")
    trace = case.trace()
    sent = [case.lm.answered[serial].tokens for serial in (1, 2, 3)]
    assert [span["usage"]["total_tokens"] for span in lm_spans(trace)] == [tokens.total for tokens in sent if tokens]
    tool = trace.span("failing_tool")
    assert tool["type"] == "tool"
    assert tool["input"] == {"city": "Oslo"}
    assert tool["error_info"]["exception_type"] == "ValueError"
    assert tool["error_info"]["message"] == "no weather for Oslo"
    assert 'raise ValueError(f"no weather for {city}")' in tool["error_info"]["traceback"]
    assert trace.span("finish")["output"] == {"output": "Completed."}
    assert "error_info" not in trace.fields


def test_an_error_is_on_every_level_and_goes_on(case: OpikCase) -> None:
    """The LM's error stands on its span, on those above and on the trace; the program gets the exception itself."""
    case.lm.script([Reply(status=401)] * 2)  # DSPy before 3.3 asks again, in JSON
    with pytest.raises(Exception, match="scripted error") as raised:
        Answerer()(question="Why?")
    trace = case.trace()
    kinds = {span["name"]: span["error_info"]["exception_type"] for span in trace.spans if "error_info" in span}
    assert set(kinds) == {"Predict", "LM: openai - test-model"}
    assert set(kinds.values()) == {type(raised.value).__name__} == {trace.fields["error_info"]["exception_type"]}
    assert trace.fields["input"] == {"question": "Why?"}
    assert "usage" not in lm_spans(trace)[0]


def test_a_call_of_the_lm_alone_is_a_trace_with_its_span(any_case: OpikCase) -> None:
    """A trace has no place for usage, so an LM that is called with no module around it has a span, too."""
    any_case.lm.lm()("hello")
    trace = any_case.trace()
    assert trace.fields["output"] == {"output": ["answer-1"]}
    (span,) = lm_spans(trace)
    assert span.get("parent_span_id") is None
    assert span["usage"]["prompt_tokens"] == 10_007


def test_async_and_parallel_calls_stay_in_their_trace(any_case: OpikCase) -> None:
    """`acall` gives what a call gives, and a module that fans out over threads is one trace."""
    asyncio.run(Answerer().acall(question="Why?"))
    FanOut()(questions=[f"{n}?" for n in range(4)])
    first, second = any_case.traces
    assert first.tree()[0] == "general Predict"
    assert second.fields["name"] == "FanOut"
    assert [line for line in second.tree() if line.startswith("general")] == ["general Answerer"] * 4
    assert len({span["usage"]["total_tokens"] for span in lm_spans(second)}) == 4


def test_the_time_to_the_first_token(case: OpikCase) -> None:
    """A streaming program's LM span says how long its first chunk took, in seconds."""
    stream = dspy.streamify(Answerer(), stream_listeners=[])

    async def read() -> None:
        async for _ in stream(question="Why?"):
            pass

    asyncio.run(read())
    (span,) = lm_spans(case.trace())
    seconds = span["metadata"]["time_to_first_token_s"]
    duration = datetime.datetime.fromisoformat(span["end_time"][:-1]) - datetime.datetime.fromisoformat(
        span["start_time"][:-1]
    )
    assert 0 < seconds <= duration.total_seconds() + 0.001


@pytest.mark.skipif(not NATIVE, reason="the LiteLLM of these releases of DSPy fetches a tokenizer for OpenRouter")
def test_behind_a_router_the_serving_provider_and_model_count(
    case: OpikCase, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who served and what it cost come from the router's answer; who was asked is in the metadata."""
    chat_body = lm_wire.chat_body

    def routed(answer: Any) -> Any:
        body = chat_body(answer)
        return {**body, "provider": "Novita", "usage": {**body["usage"], "cost": 0.00123}}

    monkeypatch.setattr(lm_wire, "chat_body", routed)
    case.lm.script([Reply(content="hi", model="qwen/qwen3-235b-a22b-2507")])
    case.lm.lm("openrouter/@preset/qwen", engine=engine)("hello")
    (span,) = lm_spans(case.trace())
    assert span["name"] == "LM: openrouter - @preset/qwen"
    assert (span["provider"], span["model"]) == ("novita", "qwen/qwen3-235b-a22b-2507")
    assert span["metadata"]["llm_router"] == "openrouter"
    assert span["metadata"]["original_model"] == "@preset/qwen"
    assert span["total_estimated_cost"] == pytest.approx(0.00123)


def test_an_interaction_is_the_trace_with_its_conversation_and_user(any_case: OpikCase) -> None:
    """The conversation is Opik's thread, the user and the properties are metadata."""
    with any_case.tracer.interaction(user_id="u1", convo_id="c1", event="chat", properties={"plan": "pro"}):
        Answerer()(question="Why?")
    trace = any_case.trace()
    assert trace.fields["name"] == "chat"
    assert trace.fields["thread_id"] == "c1"
    assert trace.fields["metadata"]["user_id"] == "u1"
    assert trace.fields["metadata"]["properties.plan"] == "pro"
    assert trace.fields["input"] == {"question": "Why?"}
    assert trace.fields["output"] == {"output": {"answer": "answer-1"}}
    assert trace.tree()[0] == "general Answerer"


def test_what_is_known_of_a_user_is_on_the_later_traces(any_case: OpikCase) -> None:
    """`identify` adds up, for the user's own traces only."""

    def ask(user_id: str) -> None:
        with any_case.tracer.interaction(user_id=user_id, event=user_id):
            Answerer()(question="Why?")

    any_case.tracer.identify("u1", {"plan": "free", "seats": 3})
    any_case.tracer.identify("u1", {"plan": "pro"})
    ask("u1")
    ask("u2")
    assert any_case.trace("u1").fields["metadata"]["user"] == {"plan": "pro", "seats": 3}
    assert "user" not in any_case.trace("u2").fields["metadata"]


def test_a_long_trace_is_seen_before_it_ends(any_case: OpikCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its first spans, a trace that has run for a while is there already; its end completes it.

    Until then it has the name of its kind, as what the program calls it, and whose it is, is redacted with its end.
    """
    monkeypatch.setattr("spanhook_backends.opik.places.SHOW_AFTER_S", 0.0)
    with any_case.tracer.interaction(event="long", convo_id="c1"):
        Answerer()(question="Why?")
        trace = any_case.trace()
        assert trace.fields["name"] == "interaction"
        assert "thread_id" not in trace.fields
        assert "end_time" not in trace.fields
        assert trace.tree()[0] == "general Answerer"
    trace = any_case.trace()
    assert (trace.fields["name"], trace.fields["thread_id"]) == ("long", "c1")
    assert trace.fields["end_time"]


def test_without_content_nothing_of_it_leaves_the_process() -> None:
    """`capture = "metadata"`: numbers and kinds of errors, no text of the program, also not in error_info."""
    with opik_case(tracing={"capture": "metadata"}) as case, LMServer() as lm_server:
        lm_server.script([Reply(status=400)] * 2)
        with dspy.context(lm=lm_server.lm()), pytest.raises(Exception, match="scripted"):
            Answerer()(question="my secret")
        trace = case.trace()
        assert "secret" not in str(trace)
        assert "scripted" not in str(trace)
        assert trace.fields["error_info"]["traceback"].startswith("  File ")
