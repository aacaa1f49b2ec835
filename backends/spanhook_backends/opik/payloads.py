"""From a finished span to what Opik's client is called with."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

from spanhook import Span, Usage
from spanhook_backends.opik import sdk
from spanhook_backends.opik.context import SPAN_UPDATE, TRACE_UPDATE
from spanhook_backends.opik.graph import GRAPH
from spanhook_backends.opik.ids import span_uuid
from spanhook_backends.opik.places import Place, Running
from spanhook_backends.opik.scores import checked_scores, score_value

SpanType = Literal["general", "tool", "llm"]

MAX_COUNT = 2**31 - 1  # Opik's counts are int32
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TYPES: dict[str, SpanType] = {"lm": "llm", "tool": "tool"}
_NOT_SHOWN = (SPAN_UPDATE, TRACE_UPDATE, GRAPH)  # attributes that have a place of their own


def trace_arguments(span: Span, place: Place, more: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Opik.trace` for a root. `more`: what is known of its user."""
    return {
        **_common(span),
        "id": place.trace_id,
        "metadata": {**_metadata(span), **_who(span), **more},
        "thread_id": span.convo_id,
        **_evaluated(span),
    }


def running_arguments(running: Running) -> dict[str, Any]:
    """The arguments of `Opik.trace` for a trace that is to be seen before it ends; what comes later replaces them."""
    return {
        "id": running.place.trace_id,
        "name": running.kind,
        "start_time": _time(running.start_ns),
        "metadata": {"created_from": "dspy"},
    }


def span_arguments(span: Span, place: Place, more: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Opik.span`."""
    arguments = {
        **_common(span),
        "id": span_uuid(span.span_id, span.start_ns),
        "trace_id": place.trace_id,
        "parent_span_id": place.parent_id,
        "type": _TYPES.get(span.kind, "general"),
        "metadata": {**_metadata(span), **more},
        **_evaluated(span),
    }
    if span.kind == "lm":
        arguments.update(_lm_arguments(span))
        arguments["metadata"].update(_lm_metadata(span, arguments["model"]))
    return arguments


def add_update(arguments: dict[str, Any], update: Any) -> dict[str, Any]:
    """`arguments` with what the program has told Opik itself of a trace or span, as `context` noted it."""
    if not isinstance(update, dict):
        return arguments
    metadata = {**arguments["metadata"], **update.get("metadata", {})}
    tags = [*(arguments["tags"] or ()), *update.get("tags", ())] or None
    told = {name: update[name] for name in ("thread_id",) if name in update}
    if scores := checked_scores(update.get("feedback_scores", ())):
        told["feedback_scores"] = [*arguments.get("feedback_scores", ()), *scores]
    return {**arguments, "metadata": metadata, "tags": tags, **told}


def joined_metadata(span: Span) -> dict[str, Any]:
    """What a root brings along that is a span of someone else's trace."""
    joined = {**_who(span), "event_id": span.event_id}
    return joined if span.convo_id is None else {**joined, "thread_id": span.convo_id}


def _evaluated(span: Span) -> dict[str, Any]:
    """The score of an example, or of the whole evaluation."""
    score = span.attributes.get("score") if span.kind in ("module", "evaluate") else None
    if not isinstance(score, (int, float)):
        return {}
    told: dict[str, Any] = {"name": "score", "value": score_value(score)}
    if isinstance(feedback := span.attributes.get("feedback"), str):
        told["reason"] = feedback
    return {"feedback_scores": [told]}


def _common(span: Span) -> dict[str, Any]:
    return {
        "name": _name(span),
        "start_time": _time(span.start_ns),
        "end_time": _time(span.end_ns if span.end_ns is not None else span.start_ns),
        "input": _object("input", span.inputs),
        "output": None if span.outputs is None else {"output": span.outputs},
        "error_info": _error(span),
    }


def _name(span: Span) -> str:
    if span.kind != "lm" or not span.model:
        return span.name or span.kind
    provider, model = _asked(span)
    return f"{span.name}: {provider} - {model}" if provider else f"{span.name}: {model}"


def _time(ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=ns // 1_000)


def _object(name: str, value: Any) -> dict[str, Any] | None:
    return value if value is None or isinstance(value, dict) else {name: value}


def _error(span: Span) -> dict[str, str] | None:
    if span.error is None:
        return None
    error = {"exception_type": span.error.type.rpartition(".")[2], "traceback": span.error.traceback or ""}
    return error if span.error.message is None else {**error, "message": span.error.message}


def _metadata(span: Span) -> dict[str, Any]:
    attributes = {name: value for name, value in span.attributes.items() if name not in _NOT_SHOWN}
    metadata = {"created_from": "dspy", **attributes}
    if span.sources.get("usage") == "calls_below":  # Opik adds up the LM spans itself
        metadata.pop("usage_by_model", None)
    elif span.usage is not None and span.kind != "lm":
        metadata["usage"] = span.usage.to_dict()
    if span.cache_hit is not None:
        metadata["cache_hit"] = span.cache_hit
    if span.finish_reason is not None:
        metadata["finish_reason"] = span.finish_reason
    if span.time_to_first_token_s is not None:
        metadata["time_to_first_token_s"] = span.time_to_first_token_s
    return metadata


def _who(span: Span) -> dict[str, Any]:
    who = {"user_id": span.user_id} if span.user_id is not None else {}
    return who if span.event_id.replace("-", "") == span.trace_id else {**who, "event_id": span.event_id}


def _asked(span: Span) -> tuple[str | None, str | None]:
    """The provider (a router, where there is one) and the model that were asked for."""
    provider = span.attributes.get("llm_router") or span.provider
    if span.model is not None and provider is not None:
        return provider, span.model.removeprefix(f"{provider}/")
    return provider, span.model


def _lm_arguments(span: Span) -> dict[str, Any]:
    return {
        "provider": span.provider,
        "model": span.response_model or _asked(span)[1],
        "usage": None if span.usage is None else opik_usage(span.usage),
        "total_cost": span.cost_usd,
    }


def _lm_metadata(span: Span, model: str | None) -> dict[str, Any]:
    asked = _asked(span)[1]
    return {"original_model": asked} if asked is not None and asked != model else {}


def opik_usage(usage: Usage) -> sdk.OpikUsage | None:
    """Usage in Opik's own form, made from OpenAI's: its three totals, and everything again as `original_usage.…`."""
    known = {name: count for name, count in usage.to_dict().items() if count <= MAX_COUNT}
    total = known.get("total_tokens")
    if total is None and "input_tokens" in known and "output_tokens" in known:
        total = known["input_tokens"] + known["output_tokens"]
    total = None if total is None or total > MAX_COUNT else total
    counts: dict[str, Any] = {
        "prompt_tokens": known.get("input_tokens"),
        "completion_tokens": known.get("output_tokens"),
        "total_tokens": total,
        "prompt_tokens_details": _present(
            cached_tokens=known.get("cached_input_tokens"),
            cache_creation_tokens=known.get("cache_write_input_tokens"),
            audio_tokens=known.get("audio_input_tokens"),
        ),
        "completion_tokens_details": _present(
            reasoning_tokens=known.get("reasoning_output_tokens"),
            audio_tokens=known.get("audio_output_tokens"),
        ),
    }
    made = sdk.build_opik_usage_from_unknown_provider(_present(**counts))
    if made is not None and (made.total_tokens or 0) > MAX_COUNT:  # the SDK has added them up
        made.total_tokens = None
    return made


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None and value != {}}
