"""A tracer with the Opik backend between a stand-in language model and a stand-in Opik; skips without Opik's SDK."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dspy
import pytest

pytest.importorskip("opik", reason='needs Opik\'s SDK: pip install "spanhook[opik]"')

from opik_server import OpikServer, Trace

import spanhook
from lm_server import LMServer

PROJECT = "test-project"


@dataclass
class OpikCase:
    """What a test needs: run a program, then look at `traces`."""

    opik: OpikServer
    lm: LMServer
    tracer: spanhook.Tracer

    @property
    def traces(self) -> list[Trace]:
        """What has arrived; all of it has, and nothing of it was refused."""
        assert self.tracer.flush(30.0), self.tracer.stats()
        assert not self.opik.refused
        assert not self.opik.lost_spans
        return self.opik.traces

    def trace(self, name: str | None = None) -> Trace:
        """The only trace (of this name)."""
        (found,) = [trace for trace in self.traces if name in (None, trace.fields["name"])]
        return found


def options(server: OpikServer, **more: Any) -> dict[str, Any]:
    """`[backends.opik]` for a stand-in."""
    return {
        "host": server.url,
        "api_key": server.api_key,
        "workspace": server.workspace,
        "project_name": PROJECT,
        **more,
    }


@contextmanager
def opik_case(
    tracing: dict[str, Any] | None = None,
    engine: str | None = None,
    redact: dict[str, Any] | None = None,
    **more: Any,
) -> Iterator[OpikCase]:
    """Everything on, for a `with` block; `more` are options of the backend."""
    with OpikServer() as server, LMServer() as lm_server:
        tracer = spanhook.configure(
            {
                "tracing": {"backends": ["opik"], **(tracing or {})},
                "redact": redact or {},
                "backends": {"opik": options(server, **more)},
            }
        )
        lm = lm_server.lm(**({} if engine is None else {"engine": engine}))
        try:
            with dspy.context(lm=lm):
                yield OpikCase(server, lm_server, tracer)
        finally:
            tracer.shutdown(timeout=5.0)
