"""What an LM call cost, from its tokens and a list of prices, where neither the provider nor DSPy says.

Not in the default list: add `"cost"` after `"history"`, and install the extra `prices`.
"""

from __future__ import annotations

from genai_prices import Usage as PricedUsage
from genai_prices import calc_price

from spanhook import Call, Facts, Span, Usage, hookimpl


class CostExtractor:
    """Prices input, output, cached and audio tokens at their own rates; the list ships with `genai-prices`.

    A model that the list doesn't know has no cost, and the attribute `cost_unknown` says why.
    """

    span_kinds = ("lm",)
    deferred_kinds = ("lm",)

    @hookimpl
    def span_end(self, span: Span, call: Call) -> Facts | None:
        """Price what the extractors before have found."""
        if span.kind != "lm" or span.usage is None or span.cost_usd is not None or span.cache_hit:
            return None
        model = span.response_model or (span.model or "").partition("/")[2] or span.model
        if model is None:
            return {"attributes": {"cost_unknown": "the call names no model"}}
        try:
            price = calc_price(_priced(span.usage), model_ref=model, provider_id=span.provider)
        except LookupError:
            return {"attributes": {"cost_unknown": f"no price for {model!r} of provider {span.provider!r}"}}
        return {
            "cost_usd": float(price.total_price),
            "attributes": {"priced_as": f"{price.provider.id}/{price.model.id}"},
        }


def _priced(usage: Usage) -> PricedUsage:
    return PricedUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_input_tokens,
        input_audio_tokens=usage.audio_input_tokens,
        output_audio_tokens=usage.audio_output_tokens,
    )
