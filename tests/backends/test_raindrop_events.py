"""What Raindrop knows of an interaction: one event, with its texts, its model, its tokens, its error."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import dspy
import pytest

import spanhook
from lm_server import LMServer, Reply
from programs import Answerer, FanOut

pytest.importorskip("raindrop")

from raindrop_server import RaindropServer
from raindrop_tracing import traced, tracing

HAS_ENGINES = hasattr(dspy, "__version__") and tuple(map(int, dspy.__version__.split(".")[:2])) >= (3, 4)
ENGINES = ["lm15", "litellm"] if HAS_ENGINES else ["litellm"]


@pytest.fixture
def server() -> Iterator[LMServer]:
    with LMServer() as server:
        yield server


def lm(server: LMServer, engine: str, **options: Any) -> Any:
    return server.lm(**({"engine": engine} if HAS_ENGINES else {}), **options)


def usage_of(event: dict[str, Any]) -> tuple[Any, Any]:
    """Prompt and completion tokens as the event says."""
    properties = event["properties"]
    return properties.get("ai.usage.prompt_tokens"), properties.get("ai.usage.completion_tokens")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_call_is_one_event(raindrop: RaindropServer, server: LMServer, engine: str) -> None:
    """Input, output, model, tokens and finish reason, on both of DSPy's engines; who it was is not known."""
    before = datetime.now(timezone.utc)
    with dspy.context(lm=lm(server, engine)), traced(raindrop):
        prediction = dspy.Predict("question, hint -> answer")(question="Why?", hint="Because.")
    (event,) = raindrop.events
    answered = server.answer_to(prediction.answer)
    assert event["event_id"] == spanhook.event_id_of(prediction)
    assert event["user_id"] == "unknown"
    assert event["event"] == "ai_generation"
    assert event["ai_data"] == {"model": "openai/test-model", "input": "Why?\nBecause.", "output": prediction.answer}
    assert usage_of(event) == (answered.tokens.prompt, answered.tokens.completion)
    assert event["properties"]["dspy.finish_reason"] == answered.finish_reason
    assert before <= datetime.fromisoformat(event["timestamp"].replace("Z", "+00:00")) <= datetime.now(timezone.utc)


def test_an_interaction_is_one_event(raindrop: RaindropServer, server: LMServer) -> None:
    """Several calls in one interaction: its user, conversation, name and properties, and the tokens of all of them."""
    with dspy.context(lm=server.lm()), traced(raindrop) as tracer:
        properties = {"plan": "pro", "seats": 3, "beta": True, "tags": ["a", "b"]}
        with tracer.interaction("u1", "c1", "chat", properties, event_id="my-id") as interaction:
            Answerer()(question="First?")
            last = Answerer()(question="Second?")
    (event,) = raindrop.events
    assert (event["event_id"], interaction.event_id) == ("my-id", "my-id")
    assert (event["user_id"], event["event"]) == ("u1", "chat")
    assert event["ai_data"]["convo_id"] == "c1"
    assert event["ai_data"]["input"] == "First?"
    assert event["ai_data"]["output"] == last.answer
    assert usage_of(event) == tuple(
        sum(getattr(answered.tokens, kind) for answered in server.answered.values())
        for kind in ("prompt", "completion")
    )
    given = {key: event["properties"][key] for key in properties}
    assert given == {"plan": "pro", "seats": 3, "beta": True, "tags": '["a", "b"]'}
    assert event["properties"]["dspy.finish_reason"] == server.answer_to(last.answer).finish_reason


@pytest.mark.parametrize("style", ["acall", "aforward"])
def test_async_calls_are_events(raindrop: RaindropServer, server: LMServer, style: str) -> None:
    """`acall` of a module with `aforward`, several at once: an event each, with its own tokens."""

    async def run() -> list[Any]:
        call = Answerer().acall if style == "acall" else dspy.Predict("question -> answer").acall
        return await asyncio.gather(*(call(question=f"{number}?") for number in range(5)))

    with dspy.context(lm=server.lm()), traced(raindrop):
        predictions = asyncio.run(run())
    assert len(raindrop.events) == 5
    for prediction in predictions:
        event = raindrop.event(spanhook.event_id_of(prediction) or "")
        answered = server.answer_to(prediction.answer)
        assert event["ai_data"]["output"] == prediction.answer
        assert usage_of(event) == (answered.tokens.prompt, answered.tokens.completion)


def ask(program: Any) -> Any:
    return asyncio.run(program(question="Why?"))


def ask_inside(program: Any) -> Any:
    async def main() -> Any:
        return await program(question="Why?")

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("run", "in_interaction", "knows_the_output"),
    [(ask, False, True), (ask_inside, False, False), (ask, True, True), (ask_inside, True, False)],
)
def test_an_async_forward_is_an_event(
    raindrop: RaindropServer, server: LMServer, run: Any, in_interaction: bool, knows_the_output: bool
) -> None:
    """A module whose `forward` is a coroutine function: one event; what only its awaiter has is left out."""

    class Slow(dspy.Module):
        async def forward(self, question: str) -> Any:
            return await dspy.Predict("question -> answer").acall(question=question)

    with contextlib.ExitStack() as around:
        around.enter_context(dspy.context(lm=server.lm()))
        tracer = around.enter_context(traced(raindrop))
        if in_interaction:
            around.enter_context(tracer.interaction(user_id="u1"))
        prediction = run(Slow())
    (event,) = raindrop.events
    answered = server.answer_to(prediction.answer)
    assert event["ai_data"]["input"] == "Why?"
    assert event["ai_data"].get("output") == (prediction.answer if knows_the_output else None)
    assert usage_of(event) == (answered.tokens.prompt, answered.tokens.completion)


def test_tokens_of_many_threads_are_whole(raindrop: RaindropServer, server: LMServer) -> None:
    """A module that fans out over threads: one event, with the tokens of all its calls."""
    with dspy.context(lm=server.lm()), traced(raindrop):
        FanOut()(questions=[f"{number}?" for number in range(8)])
    (event,) = raindrop.events
    counted = [answered.tokens for answered in server.answered.values()]
    assert len(counted) == 8
    assert usage_of(event) == (sum(t.prompt for t in counted), sum(t.completion for t in counted))
    assert event["properties"]["spanhook.lm_calls"] == 8


@pytest.mark.parametrize("wrapped", [False, True], ids=["root", "in an interaction"])
@pytest.mark.parametrize("shape", ["dict", "object"])
def test_tokens_from_the_usage_attribute(raindrop: RaindropServer, shape: str, wrapped: bool) -> None:
    """A module that asks a model without DSPy: the tokens that its result carries, as dict or as object."""

    class Own(dspy.Module):
        def forward(self, question: str) -> Any:
            counted = {"prompt_tokens": 11, "completion_tokens": 7}
            result = dspy.Prediction(answer="Yes.")
            result.usage = counted if shape == "dict" else type("Usage", (), counted)()
            return result

    with traced(raindrop) as tracer:
        if wrapped:
            with tracer.interaction():
                Own()(question="Why?")
        else:
            Own()(question="Why?")
    assert usage_of(raindrop.events[0]) == (11, 7)


def test_tokens_from_dspys_tracker(raindrop: RaindropServer, server: LMServer) -> None:
    """With history off and `track_usage` on, several calls, two models: the sum, and none of it twice."""
    two = dspy.context(lm=server.lm(), disable_history=True, track_usage=True)
    with two, traced(raindrop) as tracer, tracer.interaction():
        Answerer()(question="First?")
        with dspy.context(lm=server.lm(model="openai/other")):
            Answerer()(question="Second?")
    counted = [answered.tokens for answered in server.answered.values()]
    assert usage_of(raindrop.events[0]) == (sum(t.prompt for t in counted), sum(t.completion for t in counted))


def test_what_is_not_known_of_every_call_is_left_out(raindrop: RaindropServer, server: LMServer) -> None:
    """One of two answers says nothing of its tokens: no sum of the other alone."""
    server.script([Reply(fields={"answer": "a"}, tokens=None), Reply(fields={"answer": "b"})])
    with dspy.context(lm=server.lm()), traced(raindrop) as tracer, tracer.interaction():
        Answerer()(question="First?")
        Answerer()(question="Second?")
    assert usage_of(raindrop.events[0]) == (None, None)


def test_a_cached_call_has_no_tokens(raindrop: RaindropServer, server: LMServer) -> None:
    """The second time nothing was asked: no tokens, no cost, and the event says that it came from the cache."""
    question = f"Again and again, {uuid.uuid4()}?"  # DSPy's cache outlives the test
    with dspy.context(lm=server.lm(cache=True)), traced(raindrop):
        for _ in range(2):
            Answerer()(question=question)
    first, second = sorted(raindrop.events, key=lambda event: str(event["timestamp"]))
    assert None not in usage_of(first)
    assert first["properties"]["spanhook.cache_hits"] == 0
    assert usage_of(second) == (None, None)
    assert second["properties"]["spanhook.cache_hits"] == 1
    assert second["properties"]["spanhook.cost_usd"] == 0


def test_the_model_is_the_one_that_ran(raindrop: RaindropServer, server: LMServer) -> None:
    """A predictor with an LM of its own: its model, not the one that DSPy is configured with."""
    predict = dspy.Predict("question -> answer")
    predict.lm = server.lm(model="openai/pinned")
    with dspy.context(lm=server.lm(model="openai/general")), traced(raindrop):
        predict(question="Why?")
    assert raindrop.events[0]["ai_data"]["model"] == "openai/pinned"


def test_an_error_is_told_and_goes_on(raindrop: RaindropServer) -> None:
    """The exception reaches the program unchanged; its type and message reach Raindrop, with the input."""

    class TooBusy(Exception):
        pass

    raised = TooBusy("come back at noon")

    class Failing(dspy.Module):
        def forward(self, question: str) -> None:
            raise raised

    with traced(raindrop), pytest.raises(TooBusy) as caught:
        Failing()(question="Why?")
    assert caught.value is raised
    (event,) = raindrop.events
    assert event["properties"]["error.type"] == "TooBusy"
    assert event["properties"]["error.message"] == "come back at noon"
    assert event["ai_data"] == {"input": "Why?"}


def test_an_lm_error_has_the_model(raindrop: RaindropServer, server: LMServer) -> None:
    """The provider answers 500: error, model and input, but no tokens and no finish reason."""
    server.script([Reply(status=500)] * 2)  # older releases of DSPy ask twice
    with dspy.context(lm=server.lm()), traced(raindrop), pytest.raises(Exception, match="scripted error"):
        dspy.Predict("question -> answer")(question="Why?")
    (event,) = raindrop.events
    assert "scripted error" in event["properties"]["error.message"]
    assert event["ai_data"] == {"model": "openai/test-model", "input": "Why?"}
    assert usage_of(event) == (None, None)
    assert "dspy.finish_reason" not in event["properties"]


def test_a_direct_lm_call_is_an_event(raindrop: RaindropServer, server: LMServer) -> None:
    """No module around it: what the user asked and what the model said."""
    with traced(raindrop):
        server.lm()("Just a prompt")
        server.lm()(messages=[{"role": "system", "content": "Be short."}, {"role": "user", "content": "A message"}])
    assert [event["ai_data"]["input"] for event in raindrop.events] == ["Just a prompt", "A message"]
    assert [event["ai_data"]["output"] for event in raindrop.events] == ["answer-1", "answer-2"]


def test_a_direct_lm_call_in_an_interaction(raindrop: RaindropServer, server: LMServer) -> None:
    """The interaction's text is what a person said, and not what else the model was asked with."""
    with traced(raindrop) as tracer:
        with tracer.interaction("u1"):
            server.lm()("Just a prompt", temperature=0.5)
        with tracer.interaction("u1"):
            server.lm()(messages=[{"role": "system", "content": "Be short."}, {"role": "user", "content": "First"}])
            server.lm()(messages=[{"role": "user", "content": "Second"}])
    assert [event["ai_data"]["input"] for event in raindrop.events] == ["Just a prompt", "First"]
    assert [event["ai_data"]["output"] for event in raindrop.events] == ["answer-1", "answer-3"]


def test_without_content_no_text_leaves_the_process(raindrop: RaindropServer, server: LMServer) -> None:
    """`capture = "metadata"`: the event has model and tokens, and neither it nor a span has any of the texts."""
    server.script([Reply(status=500)])
    with dspy.context(lm=server.lm()), tracing(raindrop, section={"capture": "metadata"}) as tracer:
        with pytest.raises(Exception, match="scripted error"):
            server.lm()("secret-question")
        Answerer()(question="secret-question")
        assert tracer.flush()
    assert raindrop.problems == []
    assert usage_of(raindrop.events[1]) == (server.answered[2].tokens.prompt, server.answered[2].tokens.completion)
    everything = b"".join(request.body for request in raindrop.requests)
    assert raindrop.spans
    for secret in (b"secret-question", b"answer-2", b"scripted error"):
        assert secret not in everything


def test_scores_budgets_and_prompt_versions_are_properties(raindrop: RaindropServer, server: LMServer) -> None:
    """Of an evaluation its score, of a predictor its prompt's version, of an interaction its budget."""
    devset = [dspy.Example(question="Why?").with_inputs("question")]
    with dspy.context(lm=server.lm(model="openai/gpt-4o-mini")), traced(raindrop) as tracer:
        dspy.Evaluate(devset=devset, metric=lambda *_: 0.5, num_threads=1, display_progress=False)(Answerer())
        dspy.Predict("question -> answer")(question="Why?")
        with tracer.interaction(budget_usd=0.0):
            Answerer()(question="Why?")
    evaluated, predicted, budgeted = (event["properties"] for event in raindrop.events)
    assert evaluated["spanhook.score"] == 50.0
    assert len(predicted["spanhook.prompt_version"]) == 12
    assert (budgeted["spanhook.budget_usd"], budgeted["spanhook.over_budget"]) == (0.0, True)
