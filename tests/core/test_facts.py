"""What extractors may return, what becomes of it, and what is refused."""

from __future__ import annotations

import enum
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles import Memory, tracer_of
from spanhook import Span, Usage
from spanhook.facts import MAX_ATTRIBUTES, apply


def span() -> Span:
    return Span("0" * 32, "1" * 16, None, "e", "lm", "LM", 0)


GOOD: dict[str, list[Any]] = {
    "model": ["openai/gpt-4o"],
    "response_model": ["gpt-4o-2024"],
    "provider": ["openai"],
    "usage": [Usage(input_tokens=0), Usage(output_tokens=2**63 - 1)],
    "finish_reason": ["stop"],
    "cache_hit": [True, False],
    "cost_usd": [0, 0.0, 1, 1.5, sys.float_info.max],
    "time_to_first_token_s": [0.0, 0.25],
}
BAD: dict[str, list[Any]] = {
    "model": ["", 5, b"x", ["m"]],
    "response_model": ["", object()],
    "provider": ["", {}],
    "usage": [
        {"input_tokens": 1},
        Usage(input_tokens=-1),
        Usage(input_tokens=1.0),  # type: ignore[arg-type]
        Usage(input_tokens=True),
        Usage(input_tokens=2**63),
        Usage(input_tokens="1"),  # type: ignore[arg-type]
    ],
    "finish_reason": ["", ["stop"]],
    "cache_hit": [0, 1, "yes"],
    "cost_usd": [-0.01, float("nan"), float("inf"), "1", True, 10**400],
    "time_to_first_token_s": [-1, float("-inf"), None.__class__],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_a_fact_is_in_the_span_with_its_source(name, value):
    """As it was given; zero and False are facts too."""
    target = span()
    assert apply(target, {name: value}, "mine") == []  # type: ignore[misc]
    assert getattr(target, name) == value
    assert target.sources == {name: "mine"}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_fact_that_can_t_be_true_is_refused(name, value):
    """In words that don't change with the value, so that the log has one line for it; a later extractor may know."""
    target = span()
    (refusal,) = apply(target, {name: value}, "mine")  # type: ignore[misc]
    assert refusal.startswith(f"{name} must be ")
    assert refusal.endswith(f"; this {type(value).__name__} can't be used")
    assert getattr(target, name) is None
    assert target.sources == {}
    assert apply(target, {name: GOOD[name][0]}, "other") == []  # type: ignore[misc]
    assert target.sources == {name: "other"}


@pytest.mark.parametrize(
    "facts", [None, {}, dict.fromkeys([*GOOD, "attributes"]), {"usage": Usage()}, {"attributes": {}}]
)
def test_knowing_nothing_is_no_mistake(facts):
    """None, an empty dict, None as a value, and a Usage without any count."""
    target = span()
    assert apply(target, facts, "mine") == []
    assert (target.sources, target.usage, target.attributes) == ({}, None, {})


@pytest.mark.parametrize("facts", [5, "stop", [("model", "m")], Usage(input_tokens=1), object()])
def test_what_is_no_dict_is_refused(facts):
    """With the name of its type."""
    assert apply(span(), facts, "mine") == [f"returned {type(facts).__name__}, not a dict of facts"]


@pytest.mark.parametrize("name", ["usages", "inputs", "span_id", "sources", 5, "x" * 10_000])
def test_an_unknown_field_is_refused(name):
    """Also the fields of a span that are not an extractor's to give."""
    target = span()
    (refusal,) = apply(target, {name: "x", "finish_reason": "stop"}, "mine")
    assert refusal == (
        f"{str(name)[:100]!r} is no field that an extractor can give (known: model, response_model, provider, usage, "
        "finish_reason, cache_hit, cost_usd, time_to_first_token_s, attributes)"
    )
    assert target.finish_reason == "stop"


class Color(enum.Enum):
    RED = 1


def test_attributes_are_plain_data():
    """Copied when they are returned, whatever they are; None is nothing."""
    target, mutable = span(), [1]
    given = {"list": mutable, "color": Color.RED, "object": object(), "none": None, 5: "five"}
    assert apply(target, {"attributes": given}, "mine") == []
    mutable.append(2)
    assert target.attributes == {
        "list": [1],
        "color": "Color.RED",
        "object": "<builtins.object>",
        "5": "five",
    }
    assert target.sources == {f"attributes.{name}": "mine" for name in target.attributes}


def test_the_first_source_of_an_attribute_wins():
    """Whether its name was text or a number, and over falsy values too."""
    target = span()
    apply(target, {"attributes": {"a": 0, 5: ""}}, "one")
    apply(target, {"attributes": {"a": 1, "5": "five", 5: "fünf", "b": 2}}, "two")
    assert target.attributes == {"a": 0, "5": "", "b": 2}
    assert target.sources == {"attributes.a": "one", "attributes.5": "one", "attributes.b": "two"}


@pytest.mark.parametrize("attributes", [5, "x", [("a", 1)]])
def test_attributes_that_are_no_dict_are_refused(attributes):
    """With the name of their type."""
    refusals = apply(span(), {"attributes": attributes}, "mine")  # type: ignore[typeddict-item]
    assert refusals == [f"attributes must be a dict; this {type(attributes).__name__} can't be used"]


def test_the_number_of_attributes_is_bounded():
    """One extractor's flood neither fills the memory nor takes the fields of the others."""
    target = span()
    flood = {f"a{number}": number for number in range(MAX_ATTRIBUTES + 50)}
    assert apply(target, {"attributes": flood, "finish_reason": "stop"}, "mine") == [
        "more than 200 attributes on one span"
    ]
    assert len(target.attributes) == MAX_ATTRIBUTES + 1
    assert target.attributes["…"] == "more attributes, which were refused"
    assert target.finish_reason == "stop"


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just(object()), st.just(Usage(1))),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), below, max_size=3),
    max_leaves=4,
)


@given(st.lists(st.dictionaries(st.sampled_from([*GOOD, "attributes", "nope"]), VALUES), max_size=3) | VALUES)
def test_whatever_extractors_return_leaves_a_right_span(returned):
    """Each field is what it says or None, and each has the source that gave it."""
    target = span()
    for number, facts in enumerate(returned if isinstance(returned, list) else [returned]):
        apply(target, facts, f"extractor {number}")
    for name in GOOD:
        value = getattr(target, name)
        assert (value is None) == (name not in target.sources)
        assert value is None or apply(span(), {name: value}, "again") == []  # type: ignore[misc]
    assert all(type(name) is str for name in target.attributes)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_program_s_own_span_is_held_to_the_same(name, value, caplog):
    """What it sets and no backend could send is left out, and said; everything else goes on."""
    memory = Memory()
    tracer = tracer_of(memory, tracing={"keep": ["cost:0.01"]})
    with tracer.interaction() as interaction, tracer.span("call", kind="lm") as opened:
        setattr(opened, name, value)
    assert interaction.cost_usd is None
    assert tracer.flush()
    assert [getattr(ended, name) for ended in memory.spans] == [None, None]
    assert f"{name} must be " in caplog.text
