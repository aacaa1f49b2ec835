"""Usage that a call's result carries itself: its `usage`, an object or a dict."""

from __future__ import annotations

from typing import Any

import dspy

from spanhook import Call, Facts, Usage, attribute_of, hookimpl
from spanhook_extractors.usage_dicts import read_usage

_NOTHING: dict[str, Any] = {}
_COUNTS = (
    "prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "total_tokens", "cache_read_input_tokens",
    "cache_creation_input_tokens",
)  # fmt: skip
_PARTS = ("cached_tokens", "cache_creation_tokens", "cache_write_tokens", "reasoning_tokens", "audio_tokens")
_DETAILS = ("prompt_tokens_details", "input_tokens_details", "completion_tokens_details", "output_tokens_details")


class UsageAttributeExtractor:
    """For modules and tools that call a model on their own and return its usage with the result.

    Not for DSPy's LMs: an answer from the cache still carries the usage of the call that filled it.
    """

    span_kinds = ("module", "lm", "tool", "evaluate", "compile", "interpreter", "custom", "interaction")
    deferred_kinds = ("lm",)

    @hookimpl
    def span_end(self, call: Call) -> Facts | None:
        """Read `outputs.usage`, or `outputs["usage"]`, where the result itself holds it: properties are never asked."""
        if call.outputs is None or (call.kind == "lm" and call.instance is not None):
            return None
        given = _member(call.outputs, "usage")
        if given is None:
            return None
        if type(given) is Usage:
            return {"usage": given} if given else None
        counts = {name: _member(given, name) for name in _COUNTS}
        for name in _DETAILS:
            if (details := _member(given, name)) is not None:
                counts[name] = {part: _member(details, part) for part in _PARTS}
        usage = read_usage(counts)
        return {"usage": usage} if usage else None


def _member(value: Any, name: str) -> Any:
    """What a dict, one of DSPy's records or another object holds by this name, past all of the program's code."""
    kind = type(value)
    if kind is dspy.Prediction:  # nearly every module returns one, of which there is a quicker way to know
        return value.__dict__.get("_store", _NOTHING).get(name)
    if issubclass(kind, dict):
        return dict.get(value, name)
    if issubclass(kind, dspy.Example):
        return _member(attribute_of(value, "_store"), name)
    return attribute_of(value, name)
