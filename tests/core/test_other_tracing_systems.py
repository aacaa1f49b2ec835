"""Traces that go on under the span of another tracing system, which a plugin names by the hook `trace_parent`."""

from __future__ import annotations

from typing import Any

import pytest

import spanhook
from doubles import Memory, tracer_of
from remote_trace import SPAN, TRACE, TRACEPARENT, local_roots
from spanhook import RemoteParent


@pytest.mark.parametrize("ids", [("x" * 32, SPAN), (TRACE.upper(), SPAN), (TRACE, "0" * 16), (None, SPAN), (TRACE, 7)])
def test_a_remote_parent_has_valid_ids(ids: Any) -> None:
    """A plugin that makes one from nonsense hears of it where it does so."""
    with pytest.raises(ValueError, match="hex digits in lower case"):
        RemoteParent(*ids)


class OtherTracing:
    """A plugin that knows what another tracing system has open."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    @spanhook.hookimpl
    def trace_parent(self) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @spanhook.hookimpl
    def span_end(self) -> None:
        return None


def test_a_trace_goes_on_under_another_systems_span(memory: Memory) -> None:
    """Asked once a trace, not once a span; what is no parent, or raises, is counted and a new trace begins."""
    here = RemoteParent(TRACE, SPAN, sampled=True)
    other = OtherTracing(here, None, "nonsense", ValueError("no"), here, RemoteParent(TRACE, "1" * 16, sampled=True))
    tracer = tracer_of(memory, other)
    for _ in range(4):
        with tracer.span("work"), tracer.span("below"):
            pass
    caller = {"traceparent": f"00-{'a' * 32}-{SPAN}-01"}
    with spanhook.attach(caller), tracer.span("another trace"):
        pass
    with spanhook.attach({"traceparent": TRACEPARENT, "baggage": "spanhook.event_id=e1"}), tracer.span("same trace"):
        pass
    tracer.flush()
    assert [(root.trace_id == TRACE, root.parent_id) for root in local_roots(memory)] == [
        (True, SPAN),
        (False, None),
        (False, None),
        (False, None),
        (False, SPAN),
        (True, "1" * 16),
    ]
    assert memory.spans[-1].event_id == "e1"
    assert other.answers == []
    assert tracer.stats().errors == {
        "extractor b: trace_parent: refused, returned str, not a spanhook.RemoteParent": 1,
        "extractor b: trace_parent: ValueError": 1,
    }
