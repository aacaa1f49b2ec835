"""What an interaction costs while it runs, and the end of one that may cost no more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from spanhook.errors import BudgetExceededError
from spanhook.processes import Lock
from spanhook.span import Span, Usage
from spanhook.totals import Part, Totals

if TYPE_CHECKING:
    from spanhook.active import OpenSpan

OverBudget = Literal["warn", "raise"]

_MANY = 256  # sums of single calls that may wait to be added up


class BudgetStop(BaseException):
    """Ends what runs in an interaction whose budget is spent; the interaction's block makes an error of it.

    No `Exception`, as DSPy's callbacks, its agents and its threads go on after those.
    """

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger.told())
        self.ledger = ledger


class Ledger:
    """The tokens and the cost of one interaction's LM calls that have ended. Safe on any thread.

    Args:
        event_id: names the interaction in the log.
        budget_usd: what the calls may cost; None for no limit.
        over_budget: what happens when they have cost more.
        complete: finds out what an ended call has cost.
        warn: logs a line, without what the user's settings take out.
    """

    __slots__ = (
        "_complete", "_lock", "_over", "_parts", "_total", "_warn", "budget_usd", "event_id", "over_budget", "span",
    )  # fmt: skip

    def __init__(
        self,
        event_id: str,
        budget_usd: float | None,
        over_budget: OverBudget,
        complete: Callable[[OpenSpan], object],
        warn: Callable[..., None],
    ) -> None:
        self.event_id = event_id
        self.budget_usd = budget_usd
        self.over_budget: OverBudget = over_budget
        self._complete, self._warn = complete, warn
        self.span: Span | None = None  # the interaction's, once it has begun
        self._lock = Lock()
        self._over = False
        self._parts: deque[Part] = deque()
        self._total = Totals()

    def add(self, part: Part) -> None:
        """Count one call. On its thread, and cheap: the adding up is left to who asks."""
        self._parts.append(part)
        if self.budget_usd is not None:
            self._check(self.budget_usd)
        elif len(self._parts) >= _MANY:
            self.total()

    def total(self) -> Totals:
        """All calls that have ended so far."""
        with self._lock.here:
            waiting = [self._parts.popleft() for _ in range(len(self._parts))]
            for part in waiting:
                if part.opened is not None:
                    self._complete(part.opened)
            if waiting:
                self._total = Totals.sum([self._total, *(part.totals for part in waiting if part.totals is not None)])
            return self._total

    @property
    def usage_by_model(self) -> Mapping[str, Usage] | None:
        """Tokens by model; None where a call reported none."""
        total = self.total()
        return None if total.without_usage else dict(total.usage_by_model)

    @property
    def cost_usd(self) -> float | None:
        """None where a call's cost is unknown, and before the first call has ended."""
        total = self.total()
        return None if total.without_cost else total.cost_usd

    @property
    def stops(self) -> bool:
        """Whether no LM call may start any more."""
        return self._over and self.over_budget == "raise"

    def told(self) -> str:
        """The figures, for people."""
        spent = self.total().cost_usd or 0.0
        return (
            f"the LM calls of interaction {self.event_id} have cost {spent:.6g} USD, "
            f"over its budget of {self.budget_usd:.6g} USD"
        )

    def _check(self, budget_usd: float) -> None:
        spent = self.total().cost_usd  # at least this, where the cost of some calls is unknown
        if spent is None or spent <= budget_usd:
            return
        with self._lock.here:
            first, self._over = not self._over, True
        if first:
            if self.span is not None and self.span.end_ns is None:
                self.span.attributes["over_budget"] = True
            self._warn("%s%s", self.told(), "; its next LM call is stopped" if self.over_budget == "raise" else "")


def charge(opened: OpenSpan, part: Part) -> None:
    """Count an LM call that has ended for each interaction that it is in; one that another LM made is in that one's."""
    ledgers, above = opened.trace.ledgers, opened.parent
    while above is not None:
        if above.kind == "lm":
            ledgers = ledgers[len(above.trace.ledgers) :]
            break
        above = above.parent
    for ledger in ledgers:
        ledger.add(part)


def check(ledgers: Iterable[Ledger]) -> None:
    """Before an LM call, on its thread.

    Raises:
        BudgetStop: one of these interactions asked for it, and its budget is spent.
    """
    for ledger in ledgers:
        if ledger.stops:
            raise BudgetStop(ledger)


def exceeded(error: BaseException | None, ledger: Ledger) -> BudgetExceededError | None:
    """The error for an interaction's block that ends with `error`, where its own budget is what ended it."""
    if error is None or not _stopped_by(error, ledger):
        return None
    made = BudgetExceededError(f'{ledger.told()} (spanhook: tracer.interaction(budget_usd=…, over_budget="raise"))')
    return made.with_traceback(error.__traceback__)


def _stopped_by(error: BaseException, ledger: Ledger) -> bool:
    if isinstance(error, BudgetStop):
        return error.ledger is ledger
    inner = getattr(error, "exceptions", None)  # a group, from tasks
    return isinstance(inner, tuple) and any(_stopped_by(one, ledger) for one in inner)
