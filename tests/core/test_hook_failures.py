"""Hooks that raise: the program, the span and the other plugins have all that is theirs, and it is counted."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import spanhook
from doubles import Noting, messages, one_span, traced_by
from spanhook import Call, Span, SpanError


class Failing(Noting):
    @spanhook.hookimpl
    def span_start(self, span: Span, call: Call) -> None:
        raise KeyError("at the start")


def test_an_extractor_that_raises_changes_nothing_else(caplog):
    """Not for the program, nor the other extractors, nor the span; it is counted, and logged once for each kind."""
    errors = iter([ValueError("one"), ValueError("two"), TypeError("three")] * 3)

    def fail() -> Any:
        raise next(errors)

    tracer, memory = traced_by(
        before=Noting("before", [], {"response_model": "m"}),
        bad=Failing("bad", [], fail),
        after=Noting("after", [], {"finish_reason": "stop"}),
    )
    with caplog.at_level(logging.WARNING, "spanhook"):
        for number in range(9):
            with tracer.span("work", number=number) as span:
                span.outputs = number
    assert tracer.flush()
    assert [(s.inputs, s.outputs, s.response_model, s.finish_reason) for s in memory.spans] == [
        ({"number": n}, n, "m", "stop") for n in range(9)
    ]
    assert tracer.stats().errors == {
        "extractor bad: span_start: KeyError": 9,
        "extractor bad: span_end: ValueError": 6,
        "extractor bad: span_end: TypeError": 3,
    }
    assert messages(caplog.records) == [
        "extractor bad: span_start failed; the program goes on (logged once): KeyError: 'at the start'",
        "extractor bad: span_end failed; the program goes on (logged once): ValueError: one",
        "extractor bad: span_end failed; the program goes on (logged once): TypeError: three",
    ]


def test_hook_redact_that_raises():
    """What it should have taken out doesn't leave the process: the content is dropped, and that is counted."""

    class Redactor:
        @spanhook.hookimpl
        def redact(self, span):
            raise LookupError(span.name)

    tracer, memory = traced_by(redactor=Redactor())
    with (
        pytest.raises(ValueError, match="Jane"),
        tracer.interaction(user_id="Jane"),
        tracer.span("Jane", patient="Jane"),
    ):
        raise ValueError("Jane")
    assert tracer.flush()
    for span in memory.spans:
        assert "Jane" not in repr(span.to_dict())
        assert (span.name, span.attributes) == (span.kind, {"spanhook.content_lost": True})
        assert span.error == SpanError("ValueError", None, None)
    assert tracer.stats().errors == {"extractor redactor: redact: LookupError": 2}


def raises(error: BaseException) -> Any:
    def hook(*_: Any) -> Any:
        raise error

    return hook


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("hook", ["span_start", "span_end"])
def test_what_is_no_exception_passes_through(error, hook):
    """Ctrl-C, exit and cancellation on the program's thread are the program's, wherever they arrive."""
    body = {hook: spanhook.hookimpl(lambda self, span: raises(error("stop"))() if span.name == "hit" else None)}
    tracer, memory = traced_by(hit=type("Hit", (), body)())
    with pytest.raises(error), tracer.span("hit"):
        pass
    one_span(tracer, "later")
    assert tracer.flush()
    (later,) = (span for span in memory.spans if span.name == "later")
    assert later.parent_id is None, "the span that was hit must not stay the innermost"
    assert tracer.stats().errors == {}
