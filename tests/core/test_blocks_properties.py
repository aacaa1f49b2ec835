"""Interactions, spans, `attach` and `dspy.context` in any order, in generators that end anywhere: what is around."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import dspy
import pytest
from dspy.utils.dummies import DummyLM
from hypothesis import example, given
from hypothesis import strategies as st

import spanhook
from doubles import WAIT_S, Memory, tracer_of
from spanhook import Tracer

LMS = [DummyLM([]) for _ in range(2)]


class Around(NamedTuple):
    """What the next span is under."""

    trace_id: str | None
    parent_id: str | None
    user_id: str | None


class Step(NamedTuple):
    """A block, how it is entered and left, and what is done inside and, where both can be, after it."""

    how: str
    kind: str
    second: str
    inside: tuple[Any, ...]
    after: tuple[Any, ...]


KINDS = ["interaction", "span", "attach"]
HOW = ["closed", "fails", "two generators", "left on a thread", "ends in a dspy.context", "dspy.context"]
plans = st.recursive(
    st.just(()),
    lambda inner: st.lists(
        st.builds(Step, st.sampled_from(HOW), st.sampled_from(KINDS), st.sampled_from(KINDS), inner, inner),
        min_size=1,
        max_size=3,
    ).map(tuple),
    max_leaves=12,
)


class Program:
    """Runs a plan, and looks around between all of its steps."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.number = 0

    def run(self, plan: tuple[Step, ...], around: Around) -> None:
        for step in plan:
            lm = dspy.settings.lm
            self.look(around)
            self.take(step, around)
            self.look(around)
            assert dspy.settings.lm is lm

    def look(self, around: Around) -> None:
        with self.tracer.span("look") as span:
            assert (span.parent_id, span.user_id) == (around.parent_id, around.user_id)
            assert around.trace_id in (span.trace_id, None)

    def block(self, kind: str, around: Around, found: list[Around]) -> Iterator[None]:
        """A generator that stands in a block; notes what is around what it yields to."""
        self.number += 1
        user = f"u{self.number}"
        if kind == "attach":
            caller = Around(f"{self.number:032x}", f"{self.number:016x}", user)
            headers = {"traceparent": f"00-{caller[0]}-{caller[1]}-01", "baggage": f"spanhook.user_id={user}"}
            with spanhook.attach(headers):
                found.append(caller)
                yield
        elif kind == "span":
            with self.tracer.span("block") as span:
                found.append(Around(span.trace_id, span.span_id, around.user_id))
                yield
        else:
            with self.tracer.interaction(user_id=user) as interaction:
                span = spanhook.current_span()  # type: ignore[assignment]
                found.append(Around(interaction.trace_id, span.span_id, user))
                yield

    def take(self, step: Step, around: Around) -> None:
        if step.how == "dspy.context":
            with dspy.context(lm=LMS[self.number % 2]):
                self.run(step.inside, around)
            return
        found: list[Around] = []
        generator: Any = self.block(step.kind, around, found)
        next(generator)
        (inside,) = found
        if step.how == "two generators":
            second: Any = self.block(step.second, inside, found)
            next(second)
            self.run(step.inside, found[1])
            generator.close()
            self.run(step.after, found[1])
            second.close()
        elif step.how == "left on a thread":
            self.run(step.inside, inside)
            thread = threading.Thread(target=generator.close)
            thread.start()
            thread.join(WAIT_S)
            self.run(step.after, around)
        elif step.how == "ends in a dspy.context":
            with dspy.context(lm=(chosen := LMS[self.number % 2])):
                self.run(step.inside, inside)
                generator.close()
                assert dspy.settings.lm is chosen
                self.run(step.after, around)
        else:
            self.run(step.inside, inside)
            if step.how == "fails":
                with pytest.raises(LookupError):
                    generator.throw(LookupError())
            generator.close()


ATTACHED_TWICE = Step("two generators", "attach", "attach", (), (Step("closed", "span", "span", (), ()),))


@example((Step("closed", "interaction", "span", (ATTACHED_TWICE,), ()),))  # the first of the two ends before the second
@given(plans)
def test_every_span_is_under_what_is_around_it(plan: tuple[Step, ...]) -> None:
    """With its user and its trace; the program's model stays the one that it has chosen, and nothing is left."""
    tracer = tracer_of(Memory())
    with dspy.context(lm=LMS[0]):
        Program(tracer).run(plan, Around(None, None, None))
        assert spanhook.current_span() is None
        assert spanhook.inject() == {}
    assert tracer.stats().errors == {}
    tracer.shutdown()
