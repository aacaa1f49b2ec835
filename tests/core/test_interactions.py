"""Interactions: one root with its user, id, input and output, whatever runs inside and wherever they are entered."""

from __future__ import annotations

import asyncio
import copy
import uuid
from concurrent.futures import ThreadPoolExecutor

import dspy
import pytest

import spanhook
from doubles import Memory
from programs import Answerer, FanOut
from spanhook import Interaction, Tracer


def test_an_interaction_is_the_root_with_the_users_identity(tracer: Tracer, memory: Memory) -> None:
    """One trace; user, conversation and event id on every span of it; the event is its name."""
    with tracer.interaction(user_id="u1", convo_id="c1", event="chat", properties={"plan": "pro"}) as interaction:
        Answerer()(question="Why?")
        Answerer()(question="And?")
    assert tracer.flush()
    root = memory.spans[-1]
    assert (root.kind, root.name, root.parent_id) == ("interaction", "chat", None)
    assert {(s.user_id, s.convo_id, s.event_id, s.trace_id) for s in memory.spans} == {
        ("u1", "c1", interaction.event_id, interaction.trace_id)
    }
    assert root.attributes["properties.plan"] == "pro"
    assert uuid.UUID(interaction.event_id).version == 7
    assert [s.name for s in memory.spans if s.parent_id == root.span_id] == ["Answerer", "Answerer"]


def test_an_interaction_shows_the_first_input_and_the_last_output(tracer: Tracer, memory: Memory) -> None:
    """Of the calls directly inside; what the program sets itself goes before."""
    with tracer.interaction():
        Answerer()(question="first")
        last = Answerer()(question="last")
    with tracer.interaction() as interaction:
        interaction.inputs, interaction.outputs = "own input", {"own": "output"}
        Answerer()(question="first")
    tracer.flush()
    plain, own = [span for span in memory.spans if span.kind == "interaction"]
    assert (plain.inputs, plain.outputs) == ({"question": "first"}, {"answer": last.answer})
    assert (own.inputs, own.outputs) == ("own input", {"own": "output"})


def test_a_span_of_ones_own_is_shown_only_where_there_is_no_dspy_call(tracer: Tracer, memory: Memory) -> None:
    """The interaction is what the user asked, not what was looked up on the way."""
    with tracer.interaction(), tracer.span("retrieve", query="documents") as own:
        own.outputs = ["a document"]
    with tracer.interaction():
        with tracer.span("retrieve", query="documents"):
            pass
        answer = Answerer()(question="Why?").answer
        with tracer.span("log") as own:
            own.outputs = "logged"
    tracer.flush()
    alone, both = [span for span in memory.spans if span.kind == "interaction"]
    assert (alone.inputs, alone.outputs) == ({"query": "documents"}, ["a document"])
    assert (both.inputs, both.outputs) == ({"question": "Why?"}, {"answer": answer})


def test_identity_reaches_the_threads_of_parallel_and_tasks(tracer: Tracer, memory: Memory) -> None:
    """Also where dspy.Parallel is called with no module around it, and in asyncio tasks."""

    async def tasks() -> None:
        await asyncio.gather(*(asyncio.create_task(Answerer().acall(question="q")) for _ in range(4)))

    with tracer.interaction(user_id="u1"):
        pairs = [(Answerer(), {"question": f"q{i}"}) for i in range(8)]
        dspy.Parallel(num_threads=4, disable_progress_bar=True)(pairs)
        FanOut()(questions=["a", "b"])
        asyncio.run(tasks())
    tracer.flush()
    assert {span.user_id for span in memory.spans} == {"u1"}
    assert len({span.trace_id for span in memory.spans}) == 1
    assert [span.kind for span in memory.spans if span.parent_id is None] == ["interaction"]


def test_concurrent_interactions_stay_apart(tracer: Tracer, memory: Memory) -> None:
    """In one event loop, each task's calls belong to its own user."""

    async def converse(user: str) -> None:
        with tracer.interaction(user_id=user):
            await Answerer().acall(question=user)

    async def everyone() -> None:
        await asyncio.gather(*(converse(f"u{i}") for i in range(20)))

    asyncio.run(everyone())
    tracer.flush()
    asked = [span for span in memory.spans if span.name == "Answerer"]
    assert len(asked) == 20
    assert all(span.user_id == span.inputs["question"] for span in asked)


def test_own_event_ids(tracer: Tracer, memory: Memory) -> None:
    """A string, or a function that makes one; a UUIDv7 is the trace's id too; a function that fails is survived."""
    given = str(uuid.UUID("01890000-0000-7000-8000-000000000001"))
    with tracer.interaction(event_id="order-17") as own, tracer.span("work"):
        pass
    with tracer.interaction(event_id=lambda: given) as made:
        pass
    with tracer.interaction(event_id=lambda: 1 / 0) as failed:  # type: ignore[arg-type,return-value]
        pass
    tracer.flush()
    assert {span.event_id for span in memory.spans[:2]} == {own.event_id} == {"order-17"}
    assert made.event_id == given
    assert made.trace_id == given.replace("-", "")
    assert uuid.UUID(failed.event_id).version == 7
    assert tracer.stats().errors == {"interaction: event_id(): ZeroDivisionError": 1}


def test_a_nested_interaction_joins_the_trace(tracer: Tracer, memory: Memory) -> None:
    """It keeps what it does not say itself."""
    with tracer.interaction(user_id="u1", convo_id="c1") as outer, tracer.interaction(convo_id="c2") as inner:
        Answerer()(question="Why?")
    tracer.flush()
    assert inner.event_id == outer.event_id
    assert inner.trace_id == outer.trace_id
    answerer = next(span for span in memory.spans if span.name == "Answerer")
    assert (answerer.user_id, answerer.convo_id) == ("u1", "c2")


def test_an_exception_leaves_the_interaction_unchanged(tracer: Tracer, memory: Memory) -> None:
    """The very same object comes out, and the span has its type, message and traceback."""
    problem = KeyError("order")
    with pytest.raises(KeyError) as caught, tracer.interaction():
        raise problem
    tracer.flush()
    assert caught.value is problem
    error = memory.spans[-1].error
    assert error is not None
    assert (error.type, error.message) == ("KeyError", "'order'")
    assert "raise problem" in (error.traceback or "")


def test_the_handle_of_a_prediction(tracer: Tracer, memory: Memory) -> None:
    """`event_id_of` works from the prediction alone, for as long as that lives; None for others."""
    with tracer.interaction() as interaction:
        prediction = Answerer()(question="Why?")
    alone = Answerer()(question="Why?")
    assert spanhook.event_id_of(prediction) == interaction.event_id
    assert spanhook.event_id_of(alone) not in (None, interaction.event_id)
    assert spanhook.event_id_of(copy.deepcopy(prediction)) is None
    assert spanhook.event_id_of(dspy.Prediction(answer="x")) is None
    assert spanhook.event_id_of("text") is None
    assert vars(prediction).keys() == vars(dspy.Prediction(answer="x")).keys()
    tracer.shutdown()
    assert spanhook.event_id_of(Answerer()(question="Why?")) is None


def enter(interaction: Interaction, question: str) -> None:
    with interaction:
        dspy.Predict("question -> answer")(question=question)


def test_a_job_that_is_handed_to_a_thread(tracer: Tracer, memory: Memory) -> None:
    """It is under the interaction that it was made in, as often as it is entered, and counts in its sums."""
    lm = dspy.settings.lm

    def work(question: str) -> None:
        with dspy.context(lm=lm):
            enter(job, question)

    with tracer.interaction(event="request"):
        job = tracer.interaction(event="job")
        with ThreadPoolExecutor(1) as pool:
            list(pool.map(work, ("one", "two")))
    assert tracer.flush()
    request = memory.spans[-1]
    jobs = [span for span in memory.spans if span.name == "job"]
    modules = [span for span in memory.spans if span.kind == "module"]
    assert len({span.span_id for span in memory.spans}) == len(memory.spans)
    assert [span.parent_id for span in jobs] == [request.span_id] * 2
    assert [span.parent_id for span in modules] == [span.span_id for span in jobs]
    assert {(span.trace_id, span.event_id, span.local_root_id) for span in memory.spans} == {
        (request.trace_id, request.event_id, request.span_id)
    }
    assert request.usage is not None
    assert request.usage.input_tokens == sum(span.usage.input_tokens or 0 for span in jobs if span.usage)


def test_an_interaction_that_is_entered_twice(tracer: Tracer, memory: Memory) -> None:
    """Each time is a root of its own in the one trace, with its own calls below; its figures are those of both."""
    interaction = tracer.interaction(event="session")
    for question in ("one", "two"):
        enter(interaction, question)
    assert tracer.flush()
    roots = [span for span in memory.spans if span.kind == "interaction"]
    modules = [span for span in memory.spans if span.kind == "module"]
    assert len({span.span_id for span in memory.spans}) == len(memory.spans)
    assert [(span.parent_id, span.local_root_id) for span in roots] == [(None, span.span_id) for span in roots]
    assert [(span.parent_id, span.local_root_id) for span in modules] == [
        (span.span_id, span.span_id) for span in roots
    ]
    assert {(span.trace_id, span.event_id) for span in memory.spans} == {(interaction.trace_id, interaction.event_id)}
    assert interaction.usage is not None
    assert interaction.usage.input_tokens == sum(span.usage.input_tokens or 0 for span in roots if span.usage)
