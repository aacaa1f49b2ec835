"""Usage that a call's result carries itself: its `usage`, an object or a dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import dspy

from spanhook import Call, Facts, hookimpl
from spanhook.held import values
from spanhook_extractors.usage_dicts import read_usage

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
        given = _held(call.outputs).get("usage")
        if given is None:
            return None
        counts = dict(_held(given))
        for name in _DETAILS:
            if name in counts:
                counts[name] = _held(counts[name])
        usage = read_usage(counts)
        return {"usage": usage} if usage else None


def _held(value: Any) -> Mapping[str, Any]:
    """What a dict, one of DSPy's records or another object holds, past all of the program's code."""
    if type(value) is dict:
        return cast("Mapping[str, Any]", value)
    # Nearly every module returns a `Prediction`, of which there is a quicker way to know that no code runs.
    held: Mapping[str, Any] = value.__dict__ if type(value) is dspy.Prediction else values(value)
    if issubclass(type(value), dspy.Example):
        held = held.get("_store", held)
    return held if type(held) is dict else {}
