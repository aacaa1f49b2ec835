"""Usage that a call's result carries itself: its `usage`, an object or a dict."""

from __future__ import annotations

from collections.abc import Mapping

import dspy

from spanhook import Call, Facts, hookimpl
from spanhook_extractors.usage_dicts import read_usage


class UsageAttributeExtractor:
    """For modules and tools that call a model on their own and return its usage with the result.

    Not for DSPy's LMs: an answer from the cache still carries the usage of the call that filled it.
    """

    span_kinds = ("module", "lm", "tool", "evaluate", "compile", "interpreter", "custom", "interaction")
    deferred_kinds = ("lm",)

    @hookimpl
    def span_end(self, call: Call) -> Facts | None:
        """Read `outputs.usage`, or `outputs["usage"]`."""
        if call.outputs is None or (call.kind == "lm" and call.instance is not None):
            return None
        outputs = call.outputs
        if isinstance(outputs, (dspy.Example, Mapping)):  # asking a prediction for an attribute that it lacks is slow
            given = outputs.get("usage")
        else:
            given = getattr(outputs, "usage", None)
        usage = None if given is None else read_usage(given)
        return {"usage": usage} if usage else None
