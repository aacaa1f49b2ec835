"""Every exception that Spanhook raises, and those by which a backend's hooks tell what became of a batch.

SpanhookError
├── ConfigError         the configuration is wrong: all its problems at once
├── PluginError         a plugin object can't be registered
├── InstallError        the tracer can't be put into DSPy's settings here
├── BudgetExceededError an interaction's calls cost more than it allowed, and it asked to be stopped
├── RetryLater          raised by a backend: not taken now, offer the same again
├── PartlyFailed        raised by a backend: taken, but for some of it
└── ModelUnavailableError (of `cli.demo_model`) the model of `spanhook demo` can't run here

Two are no `Exception`s, on purpose, and live elsewhere: `budgets.BudgetStop` has to pass the `except Exception` of
DSPy's agents and threads on its way to the interaction's block, and `coroutines.UnknownError` is never raised: it
stands in a span for an exception that may have been any.
"""

from __future__ import annotations

from collections.abc import Sequence

from spanhook.printable import printable


class SpanhookError(Exception):
    """The root of the tree: catch this to catch everything that Spanhook raises."""


class ConfigError(SpanhookError):
    """The configuration can't be used; nothing was configured.

    Args:
        problems: one line a problem, each with its file (or variable), its dotted key and what to do.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems: tuple[str, ...] = tuple(map(printable, problems))  # they quote what is in files
        super().__init__("\n".join(self.problems))


class PluginError(SpanhookError):
    """An object is no usable plugin: a class, a misspelt or async hook, wrong arguments."""


class InstallError(SpanhookError):
    """DSPy refuses the tracer's callback in this thread or task."""


class BudgetExceededError(SpanhookError):
    """An interaction with `over_budget="raise"` was stopped: its LM calls had cost more than its `budget_usd`."""


class RetryLater(SpanhookError):  # noqa: N818 - it reads as what to do
    """Raise it from `emit`, `identify` or `track_signal`: not taken now; offer the same again.

    The batch stays at the head of the backend's queue and comes again, the same objects, until the hook returns or
    raises something else, or the tracer is shut down. What comes meanwhile waits behind it. The message is logged once,
    when an outage begins.

    Args:
        message: why, for people.
        after_s: when the server wants to be asked again, in seconds; None leaves it to Spanhook, whose pauses grow.
    """

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = None if after_s is None else float(after_s)


class PartlyFailed(SpanhookError):  # noqa: N818 - it reads as what happened
    """Raise it from `emit`: the batch was taken, but for some of its spans, which are not offered again.

    Args:
        failed: how many of the batch's spans.
        message: why, for people.
    """

    def __init__(self, failed: int, message: str) -> None:
        super().__init__(message)
        self.failed = int(failed)
