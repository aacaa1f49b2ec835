"""`capture_spans()`, for users' own tests: the finished spans of a block."""

from __future__ import annotations

import re

import pytest

from doubles import Memory, tracer_of
from programs import Answerer
from spanhook.testing import capture_spans

pytestmark = pytest.mark.usefixtures("dummy_lm")


def test_capture_spans_needs_no_tracer(caplog: pytest.LogCaptureFixture) -> None:
    """In a test: the finished spans of a block, each as soon as its call ends; nothing is said on the way."""
    with capture_spans() as spans:
        Answerer()(question="Why?")
        assert [span.name for span in spans][-1] == "Answerer"
        assert re.fullmatch(r"[0-9a-f]{32}", spans[-1].trace_id)
    Answerer()(question="later")
    assert len({span.trace_id for span in spans}) == 1
    assert not caplog.messages


def test_capture_spans_hears_the_tracer_that_is_there(memory: Memory) -> None:
    """Interactions of the program's own tracer are in it, and its backends still get them."""
    tracer = tracer_of(memory)
    with capture_spans() as spans, tracer.interaction(user_id="u1"):
        Answerer()(question="Why?")
    tracer.flush()
    assert [span.span_id for span in spans] == [span.span_id for span in memory.spans]
    assert spans[-1].user_id == "u1"
