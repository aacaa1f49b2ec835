"""`dspy.Evaluate` as a trace: the run's score, each example's own, and what happens when there is none."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import dspy
import pytest

import spanhook
from doubles import WAIT_S, Memory, messages, tracer_of
from lm_server import LMServer, Reply
from programs import Answerer
from spanhook import Span, evaluations
from spanhook.testing import capture_spans


def devset(size: int) -> list[dspy.Example]:
    return [dspy.Example(question=f"q{i}", number=i).with_inputs("question") for i in range(size)]


def evaluate(program: Any, metric: Callable[..., Any], size: int = 6, threads: int = 4) -> Any:
    run = dspy.Evaluate(devset=devset(size), metric=metric, num_threads=threads, display_progress=False)
    return run(program)


def by_number(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
    """A score that belongs to this example alone."""
    return example.number / 10


def examples(spans: list[Span], name: str = "Answerer") -> dict[str, Span]:
    """The spans of the program's calls, by their question."""
    (root,) = [span for span in spans if span.kind == "evaluate"]
    return {s.inputs["question"]: s for s in spans if s.parent_id == root.span_id and s.name == name}


@pytest.mark.parametrize("threads", [1, 4])
def test_each_example_has_its_own_score(server: LMServer, threads: int) -> None:
    """One trace; the run's span with the whole score, each example's with its own, its calls under it, in order."""
    with dspy.context(lm=server.lm()), capture_spans() as spans:
        result = evaluate(Answerer(), by_number, 12, threads)
    root = spans[-1]
    assert (root.kind, root.parent_id, root.attributes["score"]) == ("evaluate", None, result.score)
    assert (root.inputs["devset"], root.outputs) == ("12 examples", {"score": result.score})
    assert len({span.trace_id for span in spans}) == 1
    found = examples(spans)
    assert {question: span.attributes["score"] for question, span in found.items()} == {
        f"q{i}": i / 10 for i in range(12)
    }
    by_id = {span.span_id: span for span in spans}
    for lm in (span for span in spans if span.kind == "lm"):
        example = by_id[by_id[lm.parent_id or ""].parent_id or ""]
        assert example.inputs["question"] in lm.inputs["messages"][-1]["content"]
        assert spans.index(lm) < spans.index(example) < spans.index(root)


def test_a_score_with_feedback(server: LMServer) -> None:
    """A metric that returns a Prediction, as GEPA wants it: the score and the text; no text with metadata alone."""

    def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> dspy.Prediction:
        return dspy.Prediction(score=0.5, feedback=f"{example.question} was short")

    for capture, told in (("full", "q1 was short"), ("metadata", None)):
        memory = Memory()
        tracer = tracer_of(memory, tracing={"capture": capture})
        with dspy.context(lm=server.lm()):
            evaluate(Answerer(), metric, 2)
        assert tracer.flush()
        scored = [span for span in memory.spans if span.name == "Answerer"]
        assert [span.attributes["score"] for span in scored] == [0.5, 0.5]
        assert told in {span.attributes.get("feedback") for span in scored}


def test_a_metric_that_raises_gives_no_score(server: LMServer) -> None:
    """The others keep theirs, and the span says what happened."""

    def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
        if example.number == 2:
            raise LookupError("no such label")
        return example.number % 2 == 0

    with dspy.context(lm=server.lm()), capture_spans() as spans:
        evaluate(Answerer(), metric)
    found = {question: span.attributes for question, span in examples(spans).items()}
    assert found.pop("q2").items() >= {"score_unknown": "its metric raised, or its result is no example's"}.items()
    assert {question: attributes["score"] for question, attributes in found.items()} == {
        "q0": True,
        "q1": False,
        "q3": False,
        "q4": True,
        "q5": False,
    }


def test_a_program_that_fails_has_its_error_and_no_score() -> None:
    """DSPy counts it with a score of its own; that is no score of the metric's."""

    def respond(body: dict[str, Any]) -> Reply | None:
        return Reply(status=401) if "q0" in str(body["messages"][-1]) else None

    with LMServer(respond) as server, dspy.context(lm=server.lm()), capture_spans() as spans:
        evaluate(Answerer(), by_number, 2)
    found = examples(spans)
    assert found["q0"].error is not None
    assert "score" not in found["q0"].attributes
    assert found["q1"].attributes["score"] == 0.1


def test_a_score_that_is_no_number_is_refused(server: LMServer, caplog: pytest.LogCaptureFixture) -> None:
    """The span goes out without it and says why; it is counted, and logged once."""
    memory = Memory()
    tracer = tracer_of(memory)
    with dspy.context(lm=server.lm()):
        evaluate(Answerer(), lambda example, prediction, trace=None: float("nan"), 3, threads=1)
    assert tracer.flush()
    attributes = [span.attributes for span in memory.spans if span.name == "Answerer"]
    assert [a["score_unknown"] for a in attributes] == ["its metric returned NaN or infinity, no finite number"] * 3
    assert not any("score" in a for a in attributes)
    assert "score" not in memory.spans[-1].attributes
    assert sum(count for place, count in tracer.stats().errors.items() if "scores of an evaluation" in place) == 3
    assert len([m for m in messages(caplog.records) if "scores of an evaluation" in m]) == 1


def test_one_result_for_several_examples(server: LMServer) -> None:
    """A program that returns the same object each time: told apart by what it was given."""

    class Constant(dspy.Module):
        answer = dspy.Prediction(answer="always")

        def forward(self, question: str) -> dspy.Prediction:
            return self.answer

    with capture_spans() as spans:
        evaluate(Constant(), by_number)
    assert {q: span.attributes["score"] for q, span in examples(spans, "Constant").items()} == {
        f"q{i}": i / 10 for i in range(6)
    }


def test_results_that_are_no_predictions(server: LMServer) -> None:
    """Strings and None: found again too."""

    class Words(dspy.Module):
        def forward(self, question: str) -> str | None:
            return None if question == "q1" else "same"

    with capture_spans() as spans:
        evaluate(Words(), by_number, 4)
    assert {q: span.attributes["score"] for q, span in examples(spans, "Words").items()} == {
        f"q{i}": i / 10 for i in range(4)
    }


def test_a_program_that_is_a_plain_function(server: LMServer) -> None:
    """The module that made the result has the score; another that the metric calls has none and is in the trace."""
    judge = dspy.Predict("question, answer -> verdict")

    def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        judge(question=example.question, answer=prediction.answer)
        return by_number(example, prediction)

    answerer = Answerer()
    with dspy.context(lm=server.lm()), capture_spans() as spans:
        evaluate(lambda question: answerer(question=question), metric, 3)
    assert {q: span.attributes["score"] for q, span in examples(spans).items()} == {"q0": 0.0, "q1": 0.1, "q2": 0.2}
    judges = examples(spans, "Predict")
    assert len(judges) == 3
    assert not any({"score", "score_unknown"} & span.attributes.keys() for span in judges.values())
    assert len({span.trace_id for span in spans}) == 1


def test_a_plain_function_of_several_steps(server: LMServer) -> None:
    """Its last step made the result and has the score; of the others, and of a result that it makes itself, nothing."""
    draft, respond = Answerer("question -> draft"), Answerer("draft -> answer")
    with dspy.context(lm=server.lm()), capture_spans() as spans:
        evaluate(lambda question: respond(draft=draft(question=question).draft), by_number, 2)
    steps = [span for span in spans if span.name == "Answerer"]
    assert Counter((*s.inputs, s.attributes.get("score"), s.attributes.get("score_unknown")) for s in steps) == {
        ("question", None, None): 2, ("draft", 0.0, None): 1, ("draft", 0.1, None): 1,
    }  # fmt: skip
    with dspy.context(lm=server.lm()), capture_spans() as spans:
        evaluate(lambda question: dspy.Prediction(answer=draft(question=question).draft), by_number, 2)
    assert not any({"score", "score_unknown"} & span.attributes.keys() for span in spans if span.kind == "module")


def test_a_program_that_its_metric_calls_again(server: LMServer) -> None:
    """That call is no example's: it has no score, and is not said to have failed."""
    program = Answerer()

    def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        program(question=f"{example.question}, once more")
        return by_number(example, prediction)

    with dspy.context(lm=server.lm()), capture_spans() as spans:
        evaluate(program, metric, 2)
    found = {question: span.attributes for question, span in examples(spans).items()}
    assert [found[f"q{i}"]["score"] for i in range(2)] == [0.0, 0.1]
    assert [found[f"q{i}, once more"]["score_unknown"] for i in range(2)] == [
        "its metric raised, or its result is no example's"
    ] * 2


def test_an_evaluation_that_fails_loses_no_span(server: LMServer) -> None:
    """Too many errors: DSPy raises, and the examples that had ended are delivered, with the reason."""

    def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        if example.number == 2:
            raise LookupError("no such label")
        return 1.0

    run = dspy.Evaluate(devset=devset(3), metric=metric, num_threads=1, max_errors=1, display_progress=False)
    with dspy.context(lm=server.lm()), capture_spans() as spans, pytest.raises(Exception, match="cancelled"):
        run(Answerer())
    assert spans[-1].kind == "evaluate"
    assert spans[-1].error is not None
    assert "score" not in spans[-1].attributes
    assert [s.attributes["score_unknown"] for s in examples(spans).values()] == ["the evaluation did not end"] * 3


def test_an_interrupt_loses_no_span(server: LMServer) -> None:
    """KeyboardInterrupt in a metric: the evaluation's span has the error, the example is delivered before it."""

    def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        raise KeyboardInterrupt

    with dspy.context(lm=server.lm()), capture_spans() as spans, pytest.raises(KeyboardInterrupt):
        evaluate(Answerer(), metric, 2, threads=1)
    assert spans[-1].error is not None
    assert spans[-1].error.type == "KeyboardInterrupt"
    assert [span.attributes["score_unknown"] for span in examples(spans).values()] == ["the evaluation did not end"]


def test_what_waits_is_delivered_at_shutdown(server: LMServer) -> None:
    """The tracer is shut down while a metric runs: the example's span goes out before, and the evaluation goes on."""
    memory = Memory()
    tracer = tracer_of(memory)

    def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        if example.number == 1:
            tracer.shutdown()
        return 1.0

    with dspy.context(lm=server.lm()):
        assert evaluate(Answerer(), metric, 3, threads=1).score == 100.0
    waiting = [span for span in memory.spans if span.name == "Answerer"]
    assert [span.attributes["score_unknown"] for span in waiting] == [
        "the tracer was shut down before the evaluation ended"
    ] * 2


def test_the_number_that_waits_is_bounded(server: LMServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it spans go out at once, without a score, and say so."""
    monkeypatch.setattr(evaluations, "MAX_HELD", 4)
    with dspy.context(lm=server.lm()), capture_spans() as spans:
        evaluate(Answerer(), by_number, 6, threads=1)
    reasons = Counter(span.attributes.get("score_unknown") for span in examples(spans).values())
    assert reasons == {None: 4, "more than 4 calls in one evaluation": 2}


def test_nothing_is_kept_alive(server: LMServer) -> None:
    """With the result of the evaluation the predictions are gone, those whose metric raised too."""
    seen: list[weakref.ref[Any]] = []

    def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        seen.append(weakref.ref(prediction))
        return 1 / example.number

    with capture_spans() as spans:
        with dspy.context(lm=server.lm(), trace=[], max_trace_size=0):  # DSPy's own trace keeps predictions too
            evaluate(Answerer(), metric, 3, threads=1)
        gc.collect()
        assert [reference() for reference in seen] == [None] * 3
    assert len(examples(spans)) == 3


def test_an_evaluation_inside_an_interaction_and_a_task(server: LMServer) -> None:
    """Under `asyncify`, in a task: still one trace, with the scores."""
    run = dspy.Evaluate(devset=devset(4), metric=by_number, num_threads=2, display_progress=False)

    async def work(tracer: spanhook.Tracer) -> None:
        with tracer.interaction(user_id="u1"):
            await dspy.asyncify(run)(Answerer())

    memory = Memory()
    tracer = tracer_of(memory)
    with dspy.context(lm=server.lm()):
        asyncio.run(work(tracer))
    assert tracer.flush()
    spans = memory.spans
    assert [span.kind for span in spans if span.parent_id is None] == ["interaction"]
    assert {span.attributes["score"] for span in examples(spans).values()} == {0.0, 0.1, 0.2, 0.3}
    assert {span.user_id for span in spans} == {"u1"}


@pytest.mark.parametrize("is_module", [False, True])
def test_a_call_that_outlives_its_evaluation_goes_out_at_once(server: LMServer, is_module: bool) -> None:
    """A thread of the metric's that is still at work afterwards; where it runs the program itself, its span says so."""
    hold, threads = threading.Event(), []

    class Slow(dspy.Module):
        def forward(self, question: str) -> str:
            assert question != "late" or hold.wait(WAIT_S)
            return question

    slow = Slow()

    def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        context = __import__("contextvars").copy_context()
        thread = threading.Thread(target=context.run, args=(lambda: slow(question="late"),))
        threads.append(thread)
        thread.start()
        return 1.0

    with dspy.context(lm=server.lm()), capture_spans() as spans:
        answerer = Answerer()
        evaluate(slow if is_module else lambda question: answerer(question=question), metric, 1, threads=1)
        ended = len(spans)
        hold.set()
        for thread in threads:
            thread.join()
    (late,) = spans[ended:]
    assert (late.name, late.outputs) == ("Slow", "late")
    assert late.attributes.get("score_unknown") == ("the evaluation had ended" if is_module else None)


def test_logging_is_quiet_when_all_is_well(server: LMServer, caplog: pytest.LogCaptureFixture) -> None:
    """No word of ours about an evaluation that went well."""
    caplog.set_level(logging.WARNING, "spanhook")
    with dspy.context(lm=server.lm()), capture_spans():
        evaluate(Answerer(), by_number)
    assert not [record for record in caplog.records if record.name == "spanhook"]
