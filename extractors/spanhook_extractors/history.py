"""Facts of an LM call from the entry that DSPy wrote to its history for this very call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanhook import Call, Facts, Span, Usage, hookimpl
from spanhook_extractors.usage_dicts import member, read_usage


class HistoryExtractor:
    """Usage, cost, cache hit and the model that answered. Knows nothing where DSPy's history is off."""

    span_kinds = ("lm",)
    deferred_kinds = ("lm",)

    @hookimpl
    def span_end(self, span: Span, call: Call) -> Facts | None:
        """Read the call's own history entry."""
        if len(call.history) != 1:
            return None
        entry = call.history[0]
        hit = _is_cache_hit(entry, call.instance)
        facts: Facts = {"response_model": _response_model(entry, call, hit), "cache_hit": hit}
        cost, usage = entry.get("cost"), _usage(entry, call)
        attributes: dict[str, Any] = {}
        facts["attributes"] = attributes
        if (serving := _serving_provider(entry, span.provider)) is not None:
            facts["provider"], attributes["llm_router"] = serving, span.provider
            cost = _reported_cost(entry) or cost  # DSPy prices it by a list that can't know who serves
        if hit:
            # DSPy repeats the cost of the call that filled the cache; this one cost nothing.
            facts["cost_usd"] = 0.0
            attributes["cost_avoided_usd"] = cost
        elif usage is not None:
            facts["usage"] = usage
            facts["cost_usd"] = cost
        elif cost and not call.streamed:  # else a cost without usage is zero, or priced by an estimate
            facts["cost_usd"] = cost
        return facts


def _usage(entry: Mapping[str, Any], call: Call) -> Usage | None:
    """What the call used; None where one of several answers reported nothing, for then DSPy's sum is not whole."""
    answers = entry.get("response")
    if isinstance(answers, tuple) and not all(_native_usage(answer) for answer in answers):
        return None
    return read_usage(entry.get("usage"), streamed=call.streamed)


def _is_cache_hit(entry: Mapping[str, Any], lm: Any) -> bool | None:
    """Whether DSPy answered from its cache; None where the entry can't tell.

    DSPy gives a cached answer no usage, while the answer itself still has the tokens of the call that filled the cache.
    An empty usage alone says nothing: some models report none.
    """
    response = entry.get("response")
    if member(response, "cache_hit") is True:
        return True
    if entry.get("usage"):  # zeros too, as a DummyLM has them: a cached answer has an empty dict
        return False
    answers = response if isinstance(response, tuple) else (response,)
    if any(read_usage(member(answer, "usage")) or _native_usage(answer) for answer in answers if answer is not None):
        return True
    asked = entry.get("kwargs") or {}
    return False if asked.get("cache", getattr(lm, "cache", None)) is False else None


def _native_usage(answer: Any) -> bool:
    return type(member(member(answer, "usage"), "input_tokens")) is int


def _serving_provider(entry: Mapping[str, Any], asked: str | None) -> str | None:
    """The provider that a router such as OpenRouter names in its answer, in lower case; None where nobody routed."""
    response = entry.get("response")
    answer = response[0] if isinstance(response, tuple) and response else response
    named = member(answer, "provider") or member(member(answer, "provider_data"), "provider")
    if not isinstance(named, str) or not named or asked is None or named.lower() == asked.lower():
        return None
    return named.lower()


def _reported_cost(entry: Mapping[str, Any]) -> float | None:
    """What the answer itself says that it cost, in US dollars."""
    response = entry.get("response")
    answers = response if isinstance(response, tuple) else (response,)
    usages = [member(member(answer, "provider_data"), "usage") for answer in answers if answer is not None]
    costs = [member(usage, "cost") for usage in (entry.get("usage"), *usages) if isinstance(usage, Mapping)]
    known = [float(cost) for cost in costs if isinstance(cost, (int, float)) and cost > 0]
    return sum(known) if known else None


def _response_model(entry: Mapping[str, Any], call: Call, hit: bool | None) -> str | None:
    """The model that the answer names, or that several answers agree on.

    Of an answer that was streamed DSPy repeats the one that was asked for instead, also when it comes from the cache
    later, to a call that is not streamed itself. DSPy's own engine keeps the true one beside it.
    """
    response = entry.get("response")
    named = entry["response_model"] if "response_model" in entry else member(response, "model")
    if isinstance(response, tuple) and len({member(answer, "model") for answer in response}) > 1:
        return None
    if call.streamed or hit:
        kept = member(member(response, "provider_data"), "model")
        if kept is not None or call.streamed:
            named = kept
        elif isinstance(named, str) and f"/{entry.get('model')}".endswith(f"/{named}"):
            return None
    return named if isinstance(named, str) and named else None
