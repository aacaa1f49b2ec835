"""The one place that imports Opik's SDK: its public names, with its reports to its vendor off unless asked for.

Importing the SDK starts its Sentry client, so what it looks for in the environment is set before. Where the program had
imported it earlier, that client is closed again; one of the program's own has another DSN, and is left alone.
"""

from __future__ import annotations

import os
import sys

_given = {name.upper() for name in os.environ}
_SENTRY_IS_OURS = "OPIK_SENTRY_ENABLE" not in _given
_ANALYTICS_ARE_OURS = "OPIK_ANALYTICS_ENABLE" not in _given
_imported_before = "opik" in sys.modules

if _SENTRY_IS_OURS:
    os.environ["OPIK_SENTRY_ENABLE"] = "false"
if _ANALYTICS_ARE_OURS:
    os.environ["OPIK_ANALYTICS_ENABLE"] = "false"

# pyright: reportMissingImports=false
# ruff: noqa: E402
from opik import Opik, analytics, is_tracing_active
from opik.api_objects.span import SpanData
from opik.api_objects.trace import TraceData
from opik.config import OpikConfig
from opik.context_storage import (
    add_span_data,
    get_context_project_name,
    get_trace_data,
    pop_span_data,
    pop_trace_data,
    set_trace_data,
    top_span_data,
    trim_span_data_stack_to_certain_span,
)
from opik.hooks import HttpxClientHook, add_httpx_client_hook
from opik.llm_usage import OpikUsage, build_opik_usage_from_unknown_provider

__all__ = [
    "HttpxClientHook",
    "Opik",
    "OpikConfig",
    "OpikUsage",
    "SpanData",
    "TraceData",
    "add_httpx_client_hook",
    "add_span_data",
    "build_opik_usage_from_unknown_provider",
    "get_context_project_name",
    "get_trace_data",
    "is_tracing_active",
    "pop_span_data",
    "pop_trace_data",
    "set_trace_data",
    "top_span_data",
    "trim_span_data_stack_to_certain_span",
]


def _stop_reports() -> None:
    """Stop what an import before ours has started."""
    if _ANALYTICS_ARE_OURS:
        analytics.shutdown(0.1)
    if _SENTRY_IS_OURS and _imported_before:
        import sentry_sdk

        client = sentry_sdk.get_client()
        if client.dsn is not None and client.dsn == OpikConfig().sentry_dsn:
            client.close(timeout=0.0)


_stop_reports()
