"""Optimizers: one trace with its trials, as much of it as `[tracing] compile` says, and the same compiled program."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import dspy
import pytest

import spanhook
from doubles import Memory, tracer_of
from lm_replies import Reply, asked_fields
from lm_server import LMServer
from programs import Answerer
from spanhook import Span, Usage, dspy_compat

MODEL = "openai/gpt-4o-mini"  # DSPy knows its price
TELLS = dspy_compat.CARRIES_CALL_ID  # from 3.3 on DSPy tells its callbacks of compilations


def scripted(body: dict[str, Any]) -> Any:
    """An answer that follows from the question alone."""
    asked = json.dumps(body["messages"], sort_keys=True)
    mark = hashlib.sha256(asked.encode()).hexdigest()
    _, fields = asked_fields(body)
    if "answer" in fields and len(fields) == 1:
        return {"answer": "yes" if int(mark, 16) % 2 else "no"}
    if not fields:  # GEPA asks for new instructions in plain words
        return Reply(f"```\nAnswer with one word ({mark[:4]}).\n```")
    return {name: 1 if kind == "int" else f"{name} {mark[:6]}" for name, kind in fields.items()}


@pytest.fixture
def server() -> Iterator[LMServer]:
    with LMServer(scripted) as running, dspy.context(lm=running.lm(model=MODEL), trace=[]):
        yield running


def examples(size: int = 6) -> list[dspy.Example]:
    return [dspy.Example(question=f"q{i}", answer=("yes", "no")[i % 2]).with_inputs("question") for i in range(size)]


def metric(example: Any, prediction: Any, trace: Any = None, *_: Any, **__: Any) -> float:
    return float(example.answer == prediction.answer)


def with_feedback(example: Any, prediction: Any, trace: Any = None, *_: Any, **__: Any) -> Any:
    """As GEPA wants it."""
    return dspy.Prediction(score=metric(example, prediction), feedback=f"It is {example.answer}.")


def bootstrap() -> Any:
    optimizer = dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=2, max_labeled_demos=1)
    return optimizer.compile(Answerer(), trainset=examples())


def random_search() -> Any:
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=metric, max_bootstrapped_demos=1, max_labeled_demos=1, num_candidate_programs=1, num_threads=1
    )
    return optimizer.compile(Answerer(), trainset=examples(4))


def mipro() -> Any:
    pytest.importorskip("optuna")
    optimizer = dspy.MIPROv2(
        metric=metric, auto=None, num_candidates=2, num_threads=1, max_bootstrapped_demos=1, max_labeled_demos=1
    )
    data = examples()
    return optimizer.compile(
        Answerer(), trainset=data[:3], valset=data[3:], num_trials=2, minibatch=False, requires_permission_to_run=False
    )


def gepa() -> Any:
    optimizer = dspy.GEPA(
        metric=with_feedback,
        max_metric_calls=14,
        num_threads=1,
        reflection_lm=dspy.settings.lm,
        reflection_minibatch_size=2,
    )
    return optimizer.compile(Answerer(), trainset=examples(), valset=examples(4))


def simba() -> Any:
    optimizer = dspy.SIMBA(metric=metric, bsize=2, num_candidates=2, max_steps=1, max_demos=1, num_threads=1)
    return optimizer.compile(Answerer(), trainset=examples(4), seed=0)


OPTIMIZERS = {bootstrap: "BootstrapFewShot", mipro: "MIPROv2", gepa: "GEPA", simba: "SIMBA"}


def asked_since(server: LMServer, serial: int) -> int:
    """The input tokens of the requests after this one."""
    return sum(a.tokens.prompt for n, a in server.answered.items() if n > serial and a.tokens is not None)


def traced(compile_program: Callable[[], Any], **tracing: Any) -> tuple[Any, list[Span], spanhook.Tracer]:
    memory = Memory()
    tracer = tracer_of(memory, tracing={"extractors": ["history", "lm_usage", "finish_reason"], **tracing})
    compiled = compile_program()
    assert tracer.flush()
    tracer.shutdown()
    return compiled, memory.spans, tracer


@pytest.mark.parametrize("mode", ["full", "summary", "off"])
@pytest.mark.parametrize("compile_program", OPTIMIZERS)
def test_a_compiled_program_is_the_same(server: LMServer, compile_program: Callable[[], Any], mode: str) -> None:
    """With and without a tracer, whatever it keeps."""
    alone = compile_program().dump_state()
    requests = [answered.body for answered in server.answered.values()]
    compiled, _, tracer = traced(compile_program, compile=mode)
    assert compiled.dump_state() == alone
    assert [answered.body for answered in server.answered.values()][len(requests) :] == requests
    assert tracer.stats().errors == {}


@pytest.mark.skipif(not TELLS, reason="this DSPy tells nobody of a compilation")
@pytest.mark.parametrize("compile_program", OPTIMIZERS)
def test_a_compilation_is_one_trace(server: LMServer, compile_program: Callable[[], Any]) -> None:
    """One root, named after the optimizer, with the sum of all calls; its evaluations are numbered, examples scored."""
    _, spans, _ = traced(compile_program)
    (root,) = [span for span in spans if span.parent_id is None]
    assert (root.kind, root.name) == ("compile", OPTIMIZERS[compile_program])
    assert {span.trace_id for span in spans} == {root.trace_id}
    calls = [span for span in spans if span.kind == "lm"]
    assert len(calls) == len(server.answered)
    assert root.usage == Usage.sum(span.usage for span in calls if span.usage is not None)
    assert root.cost_usd == pytest.approx(sum(span.cost_usd or 0 for span in calls))
    trials = [span for span in spans if span.kind == "evaluate"]
    assert sorted(span.attributes["compile.trial"] for span in trials) == list(range(1, len(trials) + 1))
    assert bool(trials) == (compile_program in (mipro, gepa))
    for trial in trials:
        scored = [s.attributes["score"] for s in spans if s.parent_id == trial.span_id and s.name == "Answerer"]
        assert trial.attributes["score"] == pytest.approx(100 * sum(scored) / len(scored), abs=0.01)


@pytest.mark.skipif(not TELLS, reason="this DSPy tells nobody of a compilation")
@pytest.mark.parametrize("compile_program", [bootstrap, random_search, mipro])
def test_a_summary_has_the_sums_and_the_scores(server: LMServer, compile_program: Callable[[], Any]) -> None:
    """The compilation and its evaluations, the same as in full but for what is below them."""
    _, full, _ = traced(compile_program)
    _, summary, tracer = traced(compile_program, compile="summary")
    assert {span.kind for span in summary} <= {"compile", "evaluate"}
    (root,) = [span for span in summary if span.kind == "compile"]
    assert all(span.parent_id == root.span_id for span in summary if span is not root)
    assert summary[-1] is root

    def told(spans: list[Span]) -> list[Any]:
        top = next(span for span in spans if span.parent_id is None)
        runs = sorted((s for s in spans if s.kind == "evaluate"), key=lambda s: s.attributes["compile.trial"])
        return [(s.attributes.get("compile.trial"), s.attributes.get("score"), s.outputs) for s in runs] + [top.name]

    assert told(summary) == told(full)
    assert root.usage is not None
    assert root.usage.input_tokens == asked_since(server, len(server.answered) // 2)
    assert root.cost_usd is not None
    stats = tracer.stats()
    assert (stats.errors, stats.sampled_out) == ({}, 0)
    assert {b.lost() for b in stats.backends.values()} == {""}


@pytest.mark.skipif(not TELLS, reason="this DSPy tells nobody of a compilation")
def test_off_keeps_nothing_and_counts_it_all_the_same(server: LMServer) -> None:
    """No span of it, also none below; the interaction around knows what it cost, and its budget holds."""
    memory = Memory()
    extractors = {"extractors": ["history", "lm_usage", "finish_reason"]}
    tracer = tracer_of(memory, tracing={**extractors, "compile": "off"})
    with tracer.interaction() as interaction:
        Answerer()(question="before")
        compiled = bootstrap()
        compiled(question="after")
    asked = asked_since(server, 0)
    bootstrap()
    assert tracer.flush()
    assert {span.kind for span in memory.spans} == {"interaction", "module", "lm", "adapter_format", "adapter_parse"}
    assert len([span for span in memory.spans if span.kind == "lm"]) == 2
    assert len({span.trace_id for span in memory.spans}) == 1
    (root,) = [span for span in memory.spans if span.kind == "interaction"]
    assert interaction.usage == root.usage
    assert root.usage is not None
    assert root.usage.input_tokens == asked
    assert tracer.stats().sampled_out == 0
    with pytest.raises(spanhook.BudgetExceededError), tracer.interaction(budget_usd=0.0, over_budget="raise"):
        bootstrap()
    assert tracer.flush()
    assert [span.kind for span in memory.spans].count("compile") == 0


@pytest.mark.parametrize("mode", ["summary", "off"])
def test_a_span_of_ones_own_is_a_compilation_too(server: LMServer, mode: str) -> None:
    """For releases of DSPy that tell nothing, and for optimizers that are no DSPy class."""
    memory = Memory()
    tracer = tracer_of(memory, tracing={"extractors": ["history"], "compile": mode})
    run = dspy.Evaluate(devset=examples(3), metric=metric, num_threads=2, display_progress=False)
    with tracer.span("my optimizer", kind="compile"):
        run(Answerer())
        run(Answerer())
        with tracer.span("below"), tracer.interaction():
            Answerer()(question="q")
    assert tracer.flush()
    if mode == "off":
        assert memory.spans == []
        return
    assert [span.name for span in memory.spans] == ["Evaluate", "Evaluate", "my optimizer"]
    assert [span.attributes["compile.trial"] for span in memory.spans[:2]] == [1, 2]
    usage = memory.spans[-1].usage
    assert usage is not None
    assert usage.input_tokens == asked_since(server, 0)


def test_a_compilation_that_fails(server: LMServer) -> None:
    """Its error goes on unchanged; its span has it, in a summary too."""
    if not TELLS:
        pytest.skip("this DSPy tells nobody of a compilation")

    def broken() -> None:
        with pytest.raises(LookupError, match="no such metric"):
            dspy.BootstrapFewShot(metric=lambda *_: {}["no such metric"], max_errors=1).compile(
                Answerer(), trainset=examples()
            )

    _, spans, _ = traced(broken, compile="summary")
    (root,) = spans
    assert root.error is not None
    assert root.error.type == "KeyError"


def test_without_sampling_nothing_is_kept(server: LMServer) -> None:
    """A trace that the sample leaves out stays out, whatever the mode."""
    for mode in ("full", "summary", "off"):
        _, spans, _ = traced(bootstrap, compile=mode, sample_rate=0.0)
        assert spans == []
