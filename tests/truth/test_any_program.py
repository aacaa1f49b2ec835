"""Random programs: their spans say what the model's server has answered, and what the program knows of itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dspy
import pytest
from hypothesis import given, settings

import spanhook
from doubles import WAIT_S, Memory
from exact import ENGINES, PRICED, assert_exact, lm_spans, text_of
from lm_server import Answered, LMServer
from random_plans import NAME, Part, Plan, plans
from random_programs import Program
from spanhook import Span, Usage

NAMED = re.compile(r"(?:^|[ _])(p\d+)$")
MODELS = [f"{engine} {kind}" for engine in ENGINES for kind in ("plain", "cached")]
TRACED = {
    "all": {},
    "less": {"capture": "metadata", "adapter_spans": False},
    "half": {"sample_rate": 0.5},
}
COUNT = settings.default.max_examples // len(TRACED)


@pytest.fixture(scope="module")
def server() -> Iterator[LMServer]:
    with LMServer() as running:
        yield running


@pytest.fixture(scope="module")
def lms(server: LMServer) -> dict[str, Any]:
    return {name: server.lm(PRICED, engine=name.split()[0], cache=name.endswith("cached")) for name in MODELS}


@pytest.fixture(autouse=True)
def _own_cache() -> Iterator[None]:
    before = dspy.cache
    yield
    dspy.cache = before


Tracing = tuple[spanhook.Tracer, Memory]


@pytest.fixture
def tracing(how: str) -> Tracing:
    memory = Memory()
    config = {"tracing": {"backends": [], **TRACED[how]}}
    return spanhook.configure(config, plugins={"memory": memory}), memory


class Seen:
    """The spans of one run, and what is above each."""

    def __init__(self, spans: Sequence[Span], program: Program) -> None:
        self.spans, self.program = spans, program
        self.by_id = {span.span_id: span for span in spans}
        assert len(self.by_id) == len(spans)

    def above(self, span: Span) -> Iterator[Span]:
        """The spans above one, the nearest first."""
        while span.parent_id is not None:
            span = self.by_id[span.parent_id]
            yield span

    def part(self, span: Span) -> Part | None:
        """The part of the plan whose span it is."""
        found = NAMED.search(span.name)
        return self.program.parts[found[1]] if found else None

    def part_above(self, span: Span) -> Part | None:
        """The part in which it is."""
        return next((part for above in self.above(span) if (part := self.part(above)) is not None), None)

    def below(self, span: Span) -> list[Span]:
        """The LM spans under one."""
        return [call for call in lm_spans(self.spans) if span in self.above(call)]


@pytest.mark.parametrize("how", TRACED)
@settings(max_examples=COUNT)
@given(plan=plans(MODELS))
def test_any_program(plan: Plan, server: LMServer, lms: dict[str, Any], tracing: Tracing) -> None:
    """Traced, it does what it does untraced; every request and every step is in one span, in its place, exactly."""
    tracer, memory = tracing
    with untraced():
        expected, _ = run(Program(plan, None, lms), server)
    before = tracer.stats().backends["memory"]
    program = Program(plan, tracer, lms)
    result, answered = run(program, server)
    assert result == expected
    assert tracer.flush(WAIT_S)
    stats = tracer.stats()
    spans, memory.calls = memory.spans, []
    assert (stats.errors, stats.rejected) == ({}, {})
    assert stats.backends["memory"].accepted - before.accepted == len(spans)
    assert stats.backends["memory"].delivered - before.delivered == len(spans)
    check_places(seen := Seen(spans, program))
    if tracer.settings.tracing.sample_rate == 1.0:
        check_steps(seen)
        check_answers(seen, answered)
        check_sums(seen)


def run(program: Program, server: LMServer) -> tuple[str, list[Answered]]:
    """What comes of it, and what the server has answered."""
    dspy.configure_cache(enable_memory_cache=True, enable_disk_cache=False)
    server.respond = program.answer
    before = len(server.answered)
    made = program.run()
    return made, list(server.answered.values())[before:]


@contextmanager
def untraced() -> Iterator[None]:
    """Without any callback, in all threads."""
    callbacks = dspy.settings.callbacks
    dspy.configure(callbacks=[])
    try:
        yield
    finally:
        dspy.configure(callbacks=callbacks)


def check_places(seen: Seen) -> None:
    """Each span is under what the program has around it, with the user of the interaction that is around it."""
    for span in seen.spans:
        inside = seen.part_above(span)
        if (part := seen.part(span)) is None:
            part, expected = inside, inside
        else:
            expected = part.parent()
        assert inside is expected, (span.kind, span.name)
        if part is not None:
            users = [one.user for one in (part, *part.around()) if one.kind == "interaction" and one.user is not None]
            assert span.user_id == next(iter(users), None)
        interaction = next((one for one in (span, *seen.above(span)) if one.kind == "interaction"), None)
        if interaction is not None:
            assert (span.trace_id, span.event_id) == (interaction.trace_id, interaction.event_id)


def check_steps(seen: Seen) -> None:
    """As many spans as the program has run each step, with the errors that it has seen."""
    spans: dict[str, list[str | None]] = {}
    for span in seen.spans:
        if (part := seen.part(span)) is not None:
            spans.setdefault(part.name, []).append(span.error and span.error.type)
    steps = {name: ended for name, ended in seen.program.ended.items() if seen.program.parts[name].kind != "lm"}
    assert {name: Counter(ended) for name, ended in spans.items()} == {
        name: Counter(ended) for name, ended in steps.items()
    }


def check_answers(seen: Seen, answered: Sequence[Answered]) -> None:
    """Each answer of the server is in one span alone, as it was sent; every other LM span failed or is a cache hit."""
    by_prompt = {one.tokens.prompt: one for one in answered if one.tokens is not None}
    told: Counter[int] = Counter()
    refused = sum(one.status >= 400 for one in answered)
    for span in lm_spans(seen.spans):
        if span.error is not None:
            refused -= 1
            assert (span.usage, span.cost_usd, span.finish_reason, span.cache_hit) == (None, None, None, None)
        elif span.usage is not None:
            one = by_prompt[span.usage.input_tokens or 0]
            told[one.serial] += 1
            check_answer(seen, span, one)
        else:  # from the cache, or from a provider that reports no tokens
            assert not span.cost_usd
    assert told == Counter(one.serial for one in by_prompt.values())
    assert refused == 0


def check_answer(seen: Seen, span: Span, one: Answered) -> None:
    """A span has the tokens of this answer, and what else DSPy's history tells."""
    part = seen.program.parts[NAME.findall(str(one.body))[0]]
    assert seen.part_above(span) is (part.parent() if part.kind == "lm" else part)
    if span.outputs is not None:
        assert text_of(span) == one.text
    if not part.is_in("history off"):
        assert_exact(span, one)
        return
    assert span.usage is not None
    assert one.tokens is not None
    assert (span.usage.output_tokens, span.usage.total_tokens) == (one.tokens.completion, one.tokens.total)
    assert (span.cost_usd, span.finish_reason, span.response_model, span.cache_hit) == (None, None, None, None)


def check_sums(seen: Seen) -> None:
    """Above, each span has the sum of the LM spans in it, or none; an interaction says the same."""
    for span in seen.spans:
        if span.kind != "lm":
            assert (span.usage, span.cost_usd) == sums(seen.below(span))
    interactions = [span for span in seen.spans if span.kind == "interaction"]
    said = [(name, *rounded(one.usage, one.cost_usd)) for name, one in seen.program.interactions]
    shown = [(span.name.removeprefix("event "), *rounded(span.usage, span.cost_usd)) for span in interactions]
    assert sorted(map(str, said)) == sorted(map(str, shown))


def sums(calls: Sequence[Span]) -> tuple[Usage | None, Any]:
    """What these add up to, where that is known."""
    ran = [call for call in calls if call.error is None]
    usages = [call.usage for call in ran if not call.cache_hit]
    costs = [call.cost_usd for call in ran]
    known = [usage for usage in usages if usage is not None]
    usage = Usage.sum(known) if known and len(known) == len(usages) else None
    return usage, pytest.approx(sum(costs)) if costs and None not in costs else None


def rounded(usage: Usage | None, cost_usd: float | None) -> tuple[Any, Any]:
    """To be compared as text."""
    return usage, cost_usd and round(cost_usd, 9)
