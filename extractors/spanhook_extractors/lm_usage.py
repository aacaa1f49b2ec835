"""Usage as DSPy's own tracker counted it, of LM calls while history is off."""

from __future__ import annotations

from spanhook import Call, Facts, Usage, hookimpl
from spanhook_extractors.usage_dicts import read_usage


class LMUsageExtractor:
    """The sum over what the tracker noted for this very call.

    A prediction's `get_lm_usage()` is not read: it leaves out what ran in the threads of `dspy.Parallel`, and a program
    may return a prediction of an earlier call. Sums for modules are made of their LM spans.
    """

    span_kinds = ("lm",)
    deferred_kinds = ("lm",)

    @hookimpl
    def span_end(self, call: Call) -> Facts | None:
        """Read the tracker's counts."""
        read = (read_usage(counted, streamed=call.streamed) for counted in call.lm_usage.values())
        usages = [usage for usage in read if usage]
        return {"usage": Usage.sum(usages)} if usages else None
