"""Interactions that are entered elsewhere than they were made, or more than once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import dspy

from doubles import Memory
from spanhook import Interaction, Tracer


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
