"""Tokens and cost of the LM calls under a span."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from spanhook.span import Span, Usage

SOURCE = "calls_below"


@dataclass(slots=True)
class Totals:
    """What the LM calls of a part of a trace add up to. A call that failed adds nothing, for nothing is known of it."""

    usage_by_model: dict[str, Usage] = field(default_factory=dict)
    cost_usd: float | None = None
    without_usage: int = 0  # calls that ran, and whose usage nobody reported
    without_cost: int = 0
    calls: int = 0

    @classmethod
    def of_call(cls, span: Span) -> Totals:
        """An LM span's own."""
        totals = cls(calls=1, cost_usd=span.cost_usd)
        if span.usage is not None:
            totals.usage_by_model[span.model or "unknown"] = span.usage
        if span.error is None and not span.cache_hit:
            totals.without_usage = int(span.usage is None)
            totals.without_cost = int(span.cost_usd is None)
        return totals

    @classmethod
    def sum(cls, parts: Iterable[Totals]) -> Totals:
        """Added up, per model too."""
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        total = cls()
        for part in parts:
            for model, usage in part.usage_by_model.items():
                known = total.usage_by_model.get(model)
                total.usage_by_model[model] = usage if known is None else Usage.sum((known, usage))
            if part.cost_usd is not None:
                total.cost_usd = part.cost_usd + (total.cost_usd or 0.0)
            total.without_usage += part.without_usage
            total.without_cost += part.without_cost
            total.calls += part.calls
        return total

    def apply(self, span: Span) -> None:
        """Give a span the sums that it doesn't know otherwise: only where they are whole.

        Where a call below reported no usage or has no known cost, the sum is unknown too, and an attribute tells of
        how many calls.
        """
        if not self.calls:
            return
        if self.without_usage:
            span.attributes["lm_calls_without_usage"] = self.without_usage
        elif span.usage is None and self.usage_by_model:
            span.usage = Usage.sum(self.usage_by_model.values())
            span.sources["usage"] = SOURCE
            span.attributes.setdefault(
                "usage_by_model", {model: usage.to_dict() for model, usage in self.usage_by_model.items()}
            )
        if self.without_cost:
            span.attributes["lm_calls_without_cost"] = self.without_cost
        elif span.cost_usd is None and self.cost_usd is not None:
            span.cost_usd = self.cost_usd
            span.sources["cost_usd"] = SOURCE


class Part:
    """The place of one span's sums among those of its parent: kept from when the span ends, filled when they are known.

    `opened` is the ended call until then.
    """

    __slots__ = ("opened", "totals")

    def __init__(self, opened: Any) -> None:
        self.opened = opened
        self.totals: Totals | None = None

    def fill(self, totals: Totals | None) -> None:
        """Put in what is known now; None for nothing."""
        self.totals, self.opened = totals, None
