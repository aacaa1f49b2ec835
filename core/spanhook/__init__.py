"""Spanhook traces DSPy programs: every call, its tokens, its cost, its user, to every backend you choose.

tracer = spanhook.configure()
with tracer.interaction(user_id="u1") as interaction:
    program(question="…")
"""

from spanhook.config import DeliverySettings, PluginOptions, RedactSettings, Settings, TracingSettings
from spanhook.configuring import configure
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
from spanhook.hookspecs import hookimpl
from spanhook.propagation import attach, inject
from spanhook.recorder import event_id_of
from spanhook.scopes import Interaction
from spanhook.span import Call, Facts, RemoteParent, Signal, Span, SpanError, Usage
from spanhook.tracer import Tracer

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
    "PartlyFailed",
    "PluginError",
    "PluginOptions",
    "RedactSettings",
    "RemoteParent",
    "RetryLater",
    "Settings",
    "Signal",
    "Span",
    "SpanError",
    "SpanhookError",
    "Stats",
    "Tracer",
    "TracingSettings",
    "Usage",
    "__version__",
    "add_trace_ids",
    "attach",
    "configure",
    "current_span",
    "event_id_of",
    "hookimpl",
    "inject",
]
