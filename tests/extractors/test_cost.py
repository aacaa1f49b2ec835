"""The `cost` extractor: tokens at the prices of a list, only where nobody else knows the cost."""

from __future__ import annotations

import pytest
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price

from spanhook import Call, Facts, Span, Usage
from spanhook_extractors.cost import CostExtractor


def facts(**fields: object) -> Facts | None:
    """What the extractor says of an LM span with these fields."""
    span = Span("0" * 32, "0" * 16, None, "e", "lm", "LM", 0)
    for name, value in {"model": "openai/gpt-4o", "provider": "openai", **fields}.items():
        setattr(span, name, value)
    return CostExtractor().span_end(span, Call("lm", None, {}))


def test_tokens_are_priced_each_at_its_rate() -> None:
    """Cached input is cheaper; the price is that of the list, and the attribute says of which model."""
    plain = facts(usage=Usage(input_tokens=1000, output_tokens=100))
    cached = facts(usage=Usage(input_tokens=1000, output_tokens=100, cached_input_tokens=600))
    expected = calc_price(PricedUsage(input_tokens=1000, output_tokens=100), model_ref="gpt-4o", provider_id="openai")
    assert plain is not None
    assert cached is not None
    assert plain["cost_usd"] == pytest.approx(float(expected.total_price))
    assert 0 < (cached["cost_usd"] or 0) < (plain["cost_usd"] or 0)
    assert plain["attributes"] == {"priced_as": "openai/gpt-4o"}


def test_the_model_that_answered_is_priced() -> None:
    """Not the one that was asked for."""
    asked = facts(usage=Usage(input_tokens=1000))
    answered = facts(usage=Usage(input_tokens=1000), response_model="gpt-4o-mini-2024-07-18")
    assert asked is not None
    assert answered is not None
    assert (answered["cost_usd"] or 0) < (asked["cost_usd"] or 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"usage": None},
        {"usage": Usage(input_tokens=1), "cost_usd": 0.5},
        {"usage": Usage(input_tokens=1), "cache_hit": True},
        {"usage": Usage(input_tokens=1), "kind": "module"},
    ],
)
def test_nothing_is_said_where_there_is_nothing_to_price(fields: dict[str, object]) -> None:
    """No usage, a cost that is known, an answer from the cache, a span that is no LM's."""
    assert facts(**fields) is None


@pytest.mark.parametrize(
    "fields", [{"response_model": "no-such-model"}, {"provider": "no-such-provider"}, {"model": None}]
)
def test_an_unknown_model_has_no_cost_and_a_reason(fields: dict[str, object]) -> None:
    """None, never a guess; the attribute says what has no price."""
    found = facts(usage=Usage(input_tokens=1), **fields)
    assert found is not None
    assert "cost_usd" not in found
    assert "cost_unknown" in (found["attributes"] or {})
