"""Spanhook traces DSPy programs: every call, its tokens, its cost, its user, to every backend you choose.

tracer = spanhook.configure()
with tracer.interaction(user_id="u1") as interaction:
    program(question="…")
"""

from typing import TYPE_CHECKING, Any

from spanhook.configuring import configure, read_settings
from spanhook.current import add_trace_ids, current_span
from spanhook.delivery.stats import BackendStats, Stats
from spanhook.errors import (
    BudgetExceededError,
    ConfigError,
    InstallError,
    PartlyFailed,
    PluginError,
    RetryLater,
    SpanhookError,
)
from spanhook.guard import warn
from spanhook.held import attribute_of
from spanhook.hookspecs import hookimpl
from spanhook.prediction_events import event_id_of
from spanhook.processes import without_forks
from spanhook.propagation import attach, inject
from spanhook.scopes import Interaction
from spanhook.span import (
    Call,
    Facts,
    Kind,
    RemoteParent,
    Sentiment,
    Signal,
    SignalType,
    Span,
    SpanError,
    SpanIds,
    Trait,
    Usage,
)
from spanhook.tracer import Tracer

if TYPE_CHECKING:
    from spanhook.config.settings import DeliverySettings, PluginOptions, RedactSettings, Settings, TracingSettings

__version__ = "0.1.0"

__all__ = [
    "BackendStats",
    "BudgetExceededError",
    "Call",
    "ConfigError",
    "DeliverySettings",
    "Facts",
    "InstallError",
    "Interaction",
    "Kind",
    "PartlyFailed",
    "PluginError",
    "PluginOptions",
    "RedactSettings",
    "RemoteParent",
    "RetryLater",
    "Sentiment",
    "Settings",
    "Signal",
    "SignalType",
    "Span",
    "SpanError",
    "SpanIds",
    "SpanhookError",
    "Stats",
    "Tracer",
    "TracingSettings",
    "Trait",
    "Usage",
    "__version__",
    "add_trace_ids",
    "attach",
    "attribute_of",
    "configure",
    "current_span",
    "event_id_of",
    "hookimpl",
    "inject",
    "read_settings",
    "warn",
    "without_forks",
]

_SETTINGS = frozenset({"DeliverySettings", "PluginOptions", "RedactSettings", "Settings", "TracingSettings"})

if not TYPE_CHECKING:  # a type checker would take every misspelt name for one of ours

    def __getattr__(name: str) -> Any:
        # pydantic-settings and our models take longer to import than most of the rest; `configure` needs them first.
        if name in _SETTINGS:
            from spanhook.config import settings

            return getattr(settings, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SETTINGS})
