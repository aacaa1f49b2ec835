"""Why the model stopped, from the answer in the call's own history entry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from spanhook import Call, Facts, Span, hookimpl
from spanhook_extractors.usage_dicts import member


class FinishReasonExtractor:
    """The finish reason as the provider words it; the responses API's and DSPy's own in the words of the chat API.

    None where DSPy has lost it: of its own engine's answer to an LM with a `forward` of its own.
    Several completions (`n > 1`) have one where they agree; all of them are in the attribute `finish_reasons`.
    """

    span_kinds = ("lm",)
    deferred_kinds = ("lm",)

    @hookimpl
    def span_end(self, span: Span, call: Call) -> Facts | None:
        """Read the answer's finish reasons."""
        if len(call.history) != 1:
            return None
        entry = call.history[0]
        streamed = entry.get("finish_reason")  # what the chunks said, where that is known
        reasons = [streamed] if streamed is not None else list(finish_reasons(entry.get("response")))
        if not reasons:
            return None
        facts: Facts = {"finish_reason": reasons[0] if len(set(reasons)) == 1 else None}
        if len(reasons) > 1:
            facts["attributes"] = {"finish_reasons": reasons}
        return facts


def finish_reasons(response: Any) -> Iterable[str]:
    """One for each completion of `response`."""
    answers = response if isinstance(response, tuple) else (response,)  # a tuple: one native answer a completion
    for answer in answers:
        reason = member(answer, "finish_reason")
        if isinstance(reason, str):
            yield "tool_calls" if reason == "tool_call" else reason  # the second is DSPy's own engine's word
            continue
        choices = member(answer, "choices") or ()
        if choices and _is_converted(answer):
            continue
        yield from (reason for choice in choices if isinstance(reason := member(choice, "finish_reason"), str))
        if not choices and (reason := _responses_reason(answer)):
            yield reason


_CONVERTED = {"model", "choices", "usage", "cache_hit"}
_CHOICE = {"index", "finish_reason", "message", "logprobs"}
_MESSAGE = {"content", "tool_calls", "reasoning_content"}


def _is_converted(answer: Any) -> bool:
    """Whether DSPy has put its own engine's answer into chat's shape, for code that calls an LM's `forward`.

    It gives all such answers the reason "stop", whatever the provider said. The shape is all that tells them.
    """
    return (
        _has(answer, _CONVERTED)
        and all(_has(choice, _CHOICE) and choice["finish_reason"] == "stop" for choice in answer["choices"])
        and all(_has(choice["message"], _MESSAGE) for choice in answer["choices"])
    )


def _has(value: Any, names: set[str]) -> bool:
    return isinstance(value, dict) and value.keys() == names


def _responses_reason(answer: Any) -> str | None:
    """The responses API has a status, and a reason only for what was cut off."""
    status = member(answer, "status")
    if not isinstance(status, str):
        return None
    if status == "completed":
        outputs = member(answer, "output") or ()
        return "tool_calls" if any(member(item, "type") == "function_call" for item in outputs) else "stop"
    reason = member(member(answer, "incomplete_details"), "reason")
    return "length" if reason == "max_output_tokens" else reason if isinstance(reason, str) else status
