"""Of several plugins: who is called first, and whose facts a span gets."""

from __future__ import annotations

import pytest

from doubles import Noting, one_span, traced_by
from programs import ask_dummy


def test_the_order_of_calls_is_the_order_of_the_list():
    """The whole sequence for one DSPy call: first in, first called, at every start and at every end."""
    notes: list[str] = []
    traced_by(first=Noting("first", notes), second=Noting("second", notes), third=Noting("third", notes))
    ask_dummy()
    calls = [
        "starts module",
        "starts adapter_format",
        "ends adapter_format",
        "starts lm",
        "ends lm",
        "starts adapter_parse",
        "ends adapter_parse",
        "ends module",
    ]
    assert notes == [f"{name} {call}" for call in calls for name in ("first", "second", "third")]


@pytest.mark.parametrize("order", [["one", "two"], ["two", "one"]])
def test_the_first_in_the_list_that_knows_a_field_wins(order):
    """The list in tracing.toml decides; what only a later one knows is added."""
    facts = {
        "one": {"response_model": "m1", "cost_usd": 1.0, "attributes": {"both": 1, "only_one": 1}},
        "two": {"response_model": "m2", "finish_reason": "stop", "attributes": {"both": 2}},
    }
    tracer, memory = traced_by(**{name: Noting(name, [], facts[name]) for name in order})
    one_span(tracer)
    assert tracer.flush()
    (span,) = memory.spans
    winner = facts[order[0]]
    assert (span.response_model, span.cost_usd, span.finish_reason) == (winner["response_model"], 1.0, "stop")
    assert span.attributes == {"both": winner["attributes"]["both"], "only_one": 1}
    assert span.sources == {
        "response_model": order[0],
        "cost_usd": "one",
        "finish_reason": "two",
        "attributes.both": order[0],
        "attributes.only_one": "one",
    }
