"""DSPy calls among the program's own Opik traces and spans: each hangs under the other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import dspy
import pytest

pytest.importorskip("opik")

import opik
from opik import opik_context
from opik_case import PROJECT, OpikCase, opik_case, options

from programs import Answerer
from spanhook import Span
from spanhook_backends.opik.places import Places


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpikCase]:
    """With the program's own Opik client on the same server."""
    with opik_case() as running:
        settings = options(running.opik)
        client = opik.Opik(**settings)
        before = opik.get_global_client()
        opik.set_global_client(client)
        yield running
        client.end(timeout=5)
        opik.set_global_client(before)
        before.end(flush=False)


def tree_of(case: OpikCase, name: str) -> list[str]:
    """A trace's tree without the adapters' spans, after everyone has sent everything."""
    opik.flush_tracker()
    return [line for line in case.trace(name).tree() if "Adapter" not in line]


@opik.track
def helper(question: str) -> str:
    return question + "!"


class Asker(dspy.Module):
    """Calls a function that Opik tracks, then a predictor."""

    def __init__(self) -> None:
        super().__init__()
        self.respond = dspy.Predict("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.respond(question=helper(question))


def test_a_call_inside_a_tracked_function_hangs_under_it(case: OpikCase) -> None:
    """No trace of its own: the tracked function's span is its parent, in the same project."""

    @opik.track(project_name="other-project")
    def outer() -> None:
        Answerer()(question="Why?")

    outer()
    assert tree_of(case, "outer") == [
        "general outer",
        "  general Answerer",
        "    general Predict",
        "      llm LM: openai - test-model",
    ]
    assert {span["project_name"] for span in case.traces[0].spans} == {"other-project"}


def test_a_call_inside_an_open_trace_hangs_under_it(case: OpikCase) -> None:
    """A trace without a span: the call is at its top."""
    with opik.start_as_current_trace("manual", project_name=PROJECT):
        Answerer()(question="Why?")
    assert tree_of(case, "manual")[0] == "general Answerer"


def test_a_tracked_function_inside_a_call_hangs_under_it(case: OpikCase) -> None:
    """Also in two levels: a DSPy call inside a tracked function inside a DSPy call."""

    class Outer(dspy.Module):
        def forward(self, question: str) -> dspy.Prediction:
            return middle(question)

    @opik.track
    def middle(question: str) -> dspy.Prediction:
        return Asker()(question=question)

    Outer()(question="Why?")
    assert tree_of(case, "Outer") == [
        "general middle",
        "  general Asker",
        "    general helper",
        "    general Predict",
        "      llm LM: openai - test-model",
    ]
    assert opik_context.get_current_span_data() is None
    assert opik_context.get_current_trace_data() is None


def test_threads_of_dspy_keep_it_together(case: OpikCase) -> None:
    """What Opik tracks on a thread of `dspy.Parallel` belongs to the trace that the thread works for."""

    class Both(dspy.Module):
        def forward(self) -> None:
            pairs = [(Asker(), {"question": "a"}), (Asker(), {"question": "b"})]
            dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs)

    Both()()
    lines = tree_of(case, "Both")
    assert lines.count("general Asker") == 2
    assert lines.count("  general helper") == 2
    assert len(case.traces) == 1


def test_what_the_program_tells_opik_of_its_call_arrives(case: OpikCase) -> None:
    """`update_current_trace` and `update_current_span` work in a DSPy module as in a tracked function."""

    class Telling(dspy.Module):
        def forward(self) -> str:
            opik_context.update_current_trace(
                tags=["vip"], metadata={"plan": "pro"}, thread_id="t1", feedback_scores=[{"name": "good", "value": 0.5}]
            )
            return "told"

    class Caller(dspy.Module):
        def forward(self) -> None:
            self.inner = Inner()
            self.inner()
            Telling()()

    class Inner(dspy.Module):
        def forward(self) -> None:
            opik_context.update_current_span(tags=["deep"], metadata={"depth": 2})

    Caller()()
    trace = case.trace("Caller")
    assert trace.fields["tags"] == ["vip"]
    assert trace.fields["thread_id"] == "t1"
    assert trace.fields["metadata"]["plan"] == "pro"
    assert trace.scores["good"]["value"] == 0.5
    assert trace.span("Inner")["tags"] == ["deep"]
    assert trace.span("Inner")["metadata"]["depth"] == 2


def test_a_joined_trace_gets_the_signals_and_its_span_says_whose_it_is(case: OpikCase) -> None:
    """What Opik has open is the program's: it goes out without redaction, so nothing of ours is put into it."""

    @opik.track
    def handler() -> str:
        with case.tracer.interaction(user_id="u1", convo_id="c1", event="chat") as interaction:
            Answerer()(question="Why?")
        return interaction.event_id

    event_id = handler()
    case.tracer.track_signal(event_id, "thumbs_up", sentiment="POSITIVE")
    opik.flush_tracker()
    trace = case.trace("handler")
    assert "thread_id" not in trace.fields
    assert "metadata" not in trace.fields
    assert trace.scores["thumbs_up"]["value"] == 1.0
    told = trace.span("chat")["metadata"]
    assert (told["user_id"], told["thread_id"], told["event_id"]) == ("u1", "c1", event_id)


def test_the_project_of_the_context_counts(case: OpikCase) -> None:
    """Inside `opik.project_context` a trace and its score go to that project."""
    with opik.project_context("context-project"), case.tracer.interaction(event="chat") as interaction:
        Answerer()(question="Why?")
    case.tracer.track_signal(interaction.event_id, "thumbs_up")
    trace = case.trace("chat")
    records = [trace.fields, *trace.spans, trace.scores["thumbs_up"]]
    assert {record["project_name"] for record in records} == {"context-project"}


def test_opiks_context_is_left_alone_on_request() -> None:
    """With `share_context = false` calls still join what is open in Opik, and put nothing there themselves."""
    seen = []

    class Looking(dspy.Module):
        def forward(self) -> None:
            seen.append(opik_context.get_current_span_data())
            seen.append(opik_context.get_current_trace_data())

    with opik_case(share_context=False) as running:
        Looking()()
        assert running.trace().fields["name"] == "Looking"
    assert seen == [None, None]


def held(places: Places) -> int:
    """The most that it holds of anything."""
    return max(len(kept) for kept in vars(places).values() if isinstance(kept, dict))


def some_span(parent_id: str | None = None) -> Span:
    return Span(f"01a202a5f84379e78d56{os.urandom(6).hex()}", os.urandom(8).hex(), parent_id, "own-id", "lm", "LM", 1)


def test_what_is_noted_of_a_call_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its end; and beyond a bound, where the end never comes because the span was dropped."""
    for bound in ("MAX_OPEN", "MAX_EVENTS", "MAX_TRACES"):
        monkeypatch.setattr(f"spanhook_backends.opik.places.{bound}", 10)
    places = Places()
    spans = [some_span() for _ in range(100)]
    for span in spans:
        places.note(span)
    assert held(places) == 10
    for span in spans:
        places.take(span)
    assert held(places) == 1  # the event with its id of the caller's own
