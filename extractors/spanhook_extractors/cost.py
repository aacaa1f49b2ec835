"""What an LM call cost, from its tokens and a list of prices, where neither the provider nor DSPy says.

Not in the default list: add `"cost"` after `"history"`, and install the extra `prices`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from genai_prices import Usage as PricedUsage
from genai_prices import calc_price

from spanhook import Call, Facts, Span, Usage, hookimpl
from spanhook_extractors.usage_dicts import member

_USUAL_TIERS = frozenset({"default", "standard", "auto", "on_demand"})
# Why DSPy has no figure, where another list may have one. For other reasons, tokens alone don't say what was billed.
_PRICE_IS_MISSING = ("no matching pricing", "no known rate", "no pricing provider", "namespace", "interpreted", "tier")


class CostExtractor:
    """Prices input, output, cached, reasoning and audio tokens at their own rates; the list is that of `genai-prices`.

    A call whose price the list doesn't know for certain has no cost, and the attribute `cost_unknown` says why.
    """

    span_kinds = ("lm",)
    deferred_kinds = ("lm",)

    @hookimpl
    def span_end(self, span: Span, call: Call) -> Facts | None:
        """Price what the extractors before have found."""
        if span.kind != "lm" or span.usage is None or span.cost_usd is not None or span.cache_hit:
            return None
        entry = call.history[0] if len(call.history) == 1 else {}
        try:
            if reason := _not_by_tokens(entry):
                raise LookupError(reason)
            return _price(span, span.usage, _service_tier(entry))
        except (LookupError, ValueError) as error:
            return {"attributes": {"cost_unknown": str(error.args[0] if error.args else error)}}


def _price(span: Span, usage: Usage, tier: str | None) -> Facts:
    """The cost by the list.

    Raises:
        LookupError: the list doesn't know it.
        ValueError: the counts don't fit together.
    """
    model = span.response_model or (span.model or "").partition("/")[2] or span.model
    if model is None:
        raise LookupError("the call names no model")
    if usage.input_tokens is None or usage.output_tokens is None:
        raise LookupError("input or output tokens are not known")
    asked: dict[str, Any] = {
        "model_ref": model,
        "provider_id": span.provider,
        "genai_request_timestamp": datetime.fromtimestamp(span.start_ns / 1e9, timezone.utc),
    }
    try:
        price = calc_price(_priced(usage), **asked)
    except LookupError:
        raise LookupError(f"no price for {model!r} of provider {span.provider!r}") from None
    if tier is not None:
        variants = [variant.when for variant in price.model.price_variants or ()]
        if {"service_tier": tier} not in variants:
            raise LookupError(f"no price for {model!r} in service tier {tier!r}")
        price = calc_price(_priced(usage), price_context={"service_tier": tier}, **asked)
    for side in ("input", "output"):
        # The list would take the rate of text, and audio costs many times that.
        if getattr(usage, f"audio_{side}_tokens") and getattr(price.model_price, f"{side}_audio_mtok") is None:
            raise LookupError(f"no price for audio {side} of {model!r}")
    return {
        "cost_usd": float(price.total_price),
        "attributes": {"priced_as": f"{price.provider.id}/{price.model.id}"},
    }


def _priced(usage: Usage) -> PricedUsage:
    # None for zero: two parts of the input that overlap, cached and audio, can't be priced unless one of them is empty.
    return PricedUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_input_tokens or None,
        cache_write_tokens=usage.cache_write_input_tokens or None,
        output_reasoning_tokens=usage.reasoning_output_tokens or None,
        input_audio_tokens=usage.audio_input_tokens or None,
        output_audio_tokens=usage.audio_output_tokens or None,
    )


def _answers(entry: Any) -> Iterator[Any]:
    response = member(entry, "response")
    yield from response if isinstance(response, tuple) else (response,)


def _service_tier(entry: Any) -> str | None:
    """The tier that served the call, where it is not the usual one; it has prices of its own."""
    for answer in _answers(entry):
        tier = member(answer, "service_tier") or member(member(answer, "provider_data"), "service_tier")
        if isinstance(tier, str) and tier.lower() not in _USUAL_TIERS:
            return tier.lower()
    return None


def _not_by_tokens(entry: Any) -> str | None:
    """DSPy's reason why this call is not billed by its tokens alone: made images, hosted tools, a subscription."""
    details = member(entry, "cost_details") or {}
    for one in member(details, "candidates") or (details,):
        reason = member(one, "reason")
        if isinstance(reason, str) and not any(word in reason for word in _PRICE_IS_MISSING):
            return reason
    return None
