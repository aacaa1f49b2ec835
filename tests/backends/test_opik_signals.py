"""Users' feedback as scores on Opik's traces."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

pytest.importorskip("opik")

from opik import opik_context
from opik_case import OpikCase, opik_case

from programs import Answerer


@pytest.fixture
def case() -> Iterator[OpikCase]:
    with opik_case() as running:
        yield running


def scored(case: OpikCase, **signal: Any) -> dict[str, Any]:
    """The score that a signal becomes."""
    with case.tracer.interaction(event="chat") as interaction:
        Answerer()(question="Why?")
    assert case.tracer.track_signal(interaction.event_id, "verdict", **signal)
    return case.trace("chat").scores["verdict"]


@pytest.mark.parametrize(
    ("signal", "value", "reason"),
    [
        ({"sentiment": "POSITIVE", "comment": "Great!"}, 1.0, "Great!"),
        ({"sentiment": "NEGATIVE", "comment": "Wrong."}, 0.0, "Wrong."),
        ({"properties": {"score": 0.25}, "sentiment": "POSITIVE"}, 0.25, None),
        ({"properties": {"score": 3}}, 3.0, None),
        ({"properties": {"score": 10**12}}, 999_999_999.0, "score: 1000000000000"),
        ({"properties": {"score": -1e300}}, -999_999_999.0, "score: -1e+300"),
        ({}, 1.0, None),
        ({"signal_type": "edit", "after": "Rome"}, 1.0, "after: Rome"),
        (
            {"comment": "Hm.", "properties": {"score": "high", "by": ["Ann"]}, "attachment_id": "a1"},
            1.0,
            'Hm.\nattachment_id: a1\nscore: high\nby: ["Ann"]',
        ),
    ],
)
def test_a_signal_is_a_score_on_its_trace(
    case: OpikCase, signal: dict[str, Any], value: float, reason: str | None
) -> None:
    """The score or the sentiment is its value, the comment its reason; nothing that was said is left out."""
    score = scored(case, **signal)
    assert (score["value"], score.get("reason"), score["source"]) == (value, reason, "sdk")


def test_an_event_id_of_the_callers_own_leads_to_its_trace(case: OpikCase) -> None:
    """Opik's ids are UUIDv7, so one that is none is looked up, also while the interaction still runs."""
    with case.tracer.interaction(event="chat", event_id="order-4711"):
        case.tracer.track_signal("order-4711", "early")
        Answerer()(question="Why?")
    case.tracer.track_signal("order-4711", "late")
    trace = case.trace("chat")
    assert set(trace.scores) == {"early", "late"}
    assert trace.fields["metadata"]["event_id"] == "order-4711"


def test_an_event_id_that_redaction_changes_leads_to_its_trace() -> None:
    """The signal has it as redaction has left it, and so has the trace."""
    with opik_case(redact={"patterns": [r"\S+@\S+"]}) as case:
        with case.tracer.interaction(event="chat", event_id="order 7 of alice@example.com") as interaction:
            Answerer()(question="Why?")
        case.tracer.track_signal(interaction.event_id, "thumbs_up")
        trace = case.trace("chat")
    assert trace.fields["metadata"]["event_id"] == "order 7 of [redacted]"
    assert set(trace.scores) == {"thumbs_up"}


def test_a_signal_for_an_unknown_event_is_a_failure_that_is_told(
    case: OpikCase, caplog: pytest.LogCaptureFixture
) -> None:
    """It can't be delivered: counted, said once with what to do, and the flush knows."""
    with caplog.at_level(logging.WARNING, "spanhook"):
        assert case.tracer.track_signal("nobody-knows-it", "thumbs_up")
        assert not case.tracer.flush(30.0)
    assert case.tracer.stats().backends["opik"].failed == 1
    (record,) = [record for record in caplog.records if record.name == "spanhook"]
    assert "'nobody-knows-it'" in record.getMessage()
    assert "UUIDv7" in record.getMessage()
    assert not case.opik.scores


def test_a_signal_from_another_process_reaches_the_trace(case: OpikCase) -> None:
    """The default event id is the trace's own: feedback needs nothing but the id."""
    event_id = "01a2029b-f08b-77b3-b0ff-b9cb2977e083"
    case.tracer.track_signal(event_id, "thumbs_up")
    assert case.tracer.flush(30.0)
    assert [score["id"] for score in case.opik.scores] == [event_id]


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"name": "x", "value": float("nan")}, "the value of 'x' is no finite number"),
        ({"name": "x", "value": True}, "the value of 'x' is no finite number"),
        ({"name": " ", "value": 1}, "it has no name"),
        ({"name": "x", "value": 1, "reason": 5}, "reason of 'x' is no string"),
        ({"name": "x", "value": 1, "weight": 2}, "unknown keys: weight"),
        ("x", "it is no dict"),
    ],
)
def test_a_score_that_opik_would_refuse_loses_nothing_else(
    case: OpikCase, caplog: pytest.LogCaptureFixture, wrong: Any, problem: str
) -> None:
    """The program told Opik something odd: its trace and the other scores arrive, and a line says what is left out."""
    scores = [wrong, {"name": "big", "value": 1e300}, {"name": "good", "value": 0.5, "reason": "so"}]

    class Telling(dspy.Module):
        def forward(self) -> None:
            opik_context.update_current_trace(feedback_scores=scores)

    with caplog.at_level(logging.WARNING, "spanhook"):
        Telling()()
        trace = case.trace("Telling")
    assert {name: score["value"] for name, score in trace.scores.items()} == {"big": 999_999_999.0, "good": 0.5}
    assert trace.scores["good"]["reason"] == "so"
    assert problem in caplog.text
    assert case.tracer.stats().backends["opik"].failed == 0


def test_scores_of_an_evaluation_are_feedback_scores(case: OpikCase) -> None:
    """Of each example on its span, with the metric's feedback as the reason; of the whole run on the trace."""

    def metric(example: Any, prediction: Any, trace: Any = None) -> dspy.Prediction:
        return dspy.Prediction(score=example.number / 4, feedback=f"number {example.number}")

    devset = [dspy.Example(question=f"q{i}", number=i).with_inputs("question") for i in range(3)]
    dspy.Evaluate(devset=devset, metric=metric, num_threads=2, display_progress=False)(Answerer())
    trace = case.trace("Evaluate")
    assert trace.scores["score"]["value"] == 25.0
    examples = {span["id"]: span["input"]["question"] for span in trace.spans if span["name"] == "Answerer"}
    scores = {examples[score["id"]]: (score["value"], score["reason"]) for score in case.opik.span_scores}
    assert scores == {f"q{i}": (i / 4, f"number {i}") for i in range(3)}
