"""Usage as DSPy's own tracker counted it: `Prediction.get_lm_usage()`, and LM calls while history is off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanhook import Call, Facts, Usage, hookimpl
from spanhook_extractors.usage_dicts import read_usage


class LMUsageExtractor:
    """Usage summed over models for the span, and per model as the attribute `usage_by_model`.

    A program's prediction has it with `dspy.configure(track_usage=True)`, on the outermost module only.
    """

    span_kinds = ("module", "lm", "tool", "evaluate", "compile", "interpreter", "custom", "interaction")
    deferred_kinds = ("lm",)

    @hookimpl
    def span_end(self, call: Call) -> Facts | None:
        """Read the tracker's sums."""
        by_model: Any = call.lm_usage if call.kind == "lm" else _of_prediction(call.outputs)
        if not isinstance(by_model, Mapping):
            return None
        read = {str(model): read_usage(counted, streamed=call.streamed) for model, counted in by_model.items()}
        usages = {model: usage for model, usage in read.items() if usage}
        if not usages:
            return None
        attributes = {"usage_by_model": {model: usage.to_dict() for model, usage in usages.items()}}
        return {"usage": Usage.sum(usages.values()), "attributes": {} if call.kind == "lm" else attributes}


def _of_prediction(outputs: Any) -> Any:
    get_lm_usage = getattr(type(outputs), "get_lm_usage", None)
    return get_lm_usage(outputs) if get_lm_usage is not None else None
