"""The `cost` extractor: tokens at the prices of a list, only where nobody else knows the cost."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import dspy
import pytest
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price

import spanhook
from doubles import Memory
from exact import PRICED
from lm_server import LMServer, Reply, Tokens
from spanhook import Call, Facts, Span, Usage
from spanhook.testing import capture_spans
from spanhook_extractors.cost import CostExtractor


def facts(call: Call | None = None, **fields: object) -> Facts | None:
    """What the extractor says of an LM span with these fields."""
    span = Span("0" * 32, "0" * 16, None, "e", "lm", "LM", 0)
    for name, value in {"model": "openai/gpt-4o", "provider": "openai", **fields}.items():
        setattr(span, name, value)
    return CostExtractor().span_end(span, call or Call("lm", None, {}))


def cost(usage: Usage, call: Call | None = None, **fields: object) -> float:
    """The cost of it, which is known."""
    found = facts(call, usage=usage, **fields)
    assert found is not None
    assert found.get("cost_usd") is not None, found
    return found["cost_usd"] or 0.0


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
    asked = facts(usage=Usage(input_tokens=1000, output_tokens=0))
    answered = facts(usage=Usage(input_tokens=1000, output_tokens=0), response_model="gpt-4o-mini-2024-07-18")
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
    found = facts(usage=Usage(input_tokens=1, output_tokens=1), **fields)
    assert found is not None
    assert "cost_usd" not in found
    assert "cost_unknown" in (found["attributes"] or {})


def test_a_price_that_nobody_can_tell_is_none() -> None:
    """Output alone, parts that overlap or exceed the whole, audio without its own rate: the attribute says which."""
    for usage, model, reason in [
        (Usage(output_tokens=10), "gpt-4o", "input or output tokens are not known"),
        (Usage(input_tokens=10, output_tokens=1, cached_input_tokens=11), "gpt-4o", "cannot exceed"),
        (
            Usage(input_tokens=100, output_tokens=1, cached_input_tokens=20, audio_input_tokens=30),
            "gpt-4o-realtime-preview",
            "overlapping",
        ),
        (Usage(input_tokens=100, output_tokens=1, audio_input_tokens=30), "gpt-4o", "no price for audio input"),
    ]:
        found = facts(usage=usage, response_model=model)
        assert found is not None
        assert "cost_usd" not in found
        assert reason in (found["attributes"] or {})["cost_unknown"]


def test_reasoning_and_audio_have_their_own_rates() -> None:
    """Where the list has them; a count of zero is no overlap."""
    plain = Usage(input_tokens=1_000, output_tokens=100)
    thinking = Usage(input_tokens=1_000, output_tokens=100, reasoning_output_tokens=60)
    by_perplexity = {"response_model": "sonar-deep-research", "provider": "perplexity"}
    assert cost(plain, **by_perplexity) == pytest.approx((1_000 * 2 + 100 * 8) / 1e6)
    assert cost(thinking, **by_perplexity) == pytest.approx((1_000 * 2 + 40 * 8 + 60 * 3) / 1e6)
    assert cost(thinking) == cost(plain)  # where reasoning is billed as output
    heard = Usage(input_tokens=1_000, output_tokens=100, audio_input_tokens=400, cached_input_tokens=0)
    by_google = {"response_model": "gemini-2.5-flash", "provider": "google"}
    assert cost(heard, **by_google) == pytest.approx((600 * 0.3 + 400 * 1.0 + 100 * 2.5) / 1e6)


def test_long_input_has_the_rate_of_its_length() -> None:
    """As providers bill it: all of the input, from a threshold on."""
    by_google = {"response_model": "gemini-2.5-pro", "provider": "google"}
    short = cost(Usage(input_tokens=200_000, output_tokens=0), **by_google)
    assert cost(Usage(input_tokens=200_001, output_tokens=0), **by_google) == pytest.approx(2 * short, rel=1e-4)


@pytest.mark.parametrize("engine", ["litellm", "native"])
def test_a_service_tier_has_its_own_prices(engine: str) -> None:
    """The one that served the call, wherever the answer says it; nothing is guessed for an unknown tier."""
    usage = Usage(input_tokens=1_000_000, output_tokens=0)

    def answered(tier: str) -> Call:
        said = SimpleNamespace(service_tier=tier) if engine == "litellm" else None
        response = said or SimpleNamespace(provider_data={"service_tier": tier})
        return Call("lm", None, {}, history=[{"response": response}])

    now = {"start_ns": time.time_ns(), "response_model": "gpt-5"}
    assert cost(usage, answered("flex"), **now) == pytest.approx(0.625)
    assert cost(usage, answered("default"), **now) == pytest.approx(1.25)
    found = facts(answered("scale"), usage=usage, **now)
    assert found is not None
    assert "service tier 'scale'" in (found["attributes"] or {})["cost_unknown"]


@pytest.mark.parametrize("several", [False, True])
def test_what_is_not_billed_by_tokens_is_not_priced(several: bool) -> None:
    """DSPy says that tokens are not the bill: then they are not priced. Where it only lacks a price, they are."""

    def unknown(reason: str) -> Call:
        details = {"kind": "unknown", "reason": reason}
        return Call("lm", None, {}, history=[{"cost_details": {"candidates": [details] * 3} if several else details}])

    usage = Usage(input_tokens=1_000, output_tokens=100)
    found = facts(unknown("subscription usage is not per-token API billing"), usage=usage)
    assert found == {"attributes": {"cost_unknown": "subscription usage is not per-token API billing"}}
    assert cost(usage, unknown("no matching pricing entry")) > 0


def test_dspys_figure_comes_first() -> None:
    """Over HTTP: what DSPy knows stays."""
    tracer = spanhook.configure(
        {"tracing": {"backends": [], "extractors": ["history", "finish_reason", "cost"]}}, plugins={"m": Memory()}
    )
    with LMServer() as server, capture_spans(tracer) as spans:
        server.script([Reply(content="hi", model="gpt-4o-mini-2024-07-18", tokens=Tokens(1_000, 100, cached=400))])
        server.lm(PRICED)("hello")
    (span,) = spans
    assert span.cost_usd == pytest.approx((600 * 0.15 + 400 * 0.075 + 100 * 0.6) / 1e6)
    assert span.sources["cost_usd"] == "history"


def test_what_dspy_has_no_price_for_is_priced_by_the_list() -> None:
    """A model of one's own that reports the name of a known one: source and attribute say by which list."""

    class Own(dspy.BaseLM):  # type: ignore[misc]
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            message = SimpleNamespace(content="mine", reasoning_content=None, tool_calls=None)
            return SimpleNamespace(
                model="gpt-4o-mini-2024-07-18",
                choices=[SimpleNamespace(message=message, finish_reason="stop", logprobs=None)],
                usage={"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100},
            )

    tracer = spanhook.configure(
        {"tracing": {"backends": [], "extractors": ["history", "finish_reason", "cost"]}}, plugins={"m": Memory()}
    )
    with capture_spans(tracer) as spans:
        Own(model="own")("hello")
    if not spans:
        pytest.skip("this release of DSPy tells nothing of such LMs")
    (span,) = spans
    assert span.cost_usd == pytest.approx((1_000 * 0.15 + 100 * 0.6) / 1e6)
    assert span.sources["cost_usd"] == "cost"
    assert span.attributes["priced_as"] == "openai/gpt-4o-mini"
