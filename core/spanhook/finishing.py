"""What all backends share, done once to each finished span."""

from __future__ import annotations

import sys

from spanhook.guard import Guard
from spanhook.snapshot import name_of, trim, trim_text
from spanhook.span import Span, SpanError

_WORDS = ("event_id", "user_id", "convo_id", "model", "response_model", "provider", "finish_reason")


class Finisher:
    """Makes a span's content fit for every backend: its strings bounded, its numbers and text valid JSON."""

    def __init__(self, max_text_chars: int, guard: Guard) -> None:
        self._limit = max_text_chars
        self._guard = guard

    def __call__(self, span: Span) -> None:
        """Finish a span in place. Runs on the intake thread; if it fails, the span goes out without its content."""
        shield = self._guard("delivery: preparing a span")
        with shield:
            limit = self._limit
            span.inputs, span.outputs = trim(span.inputs, limit), trim(span.outputs, limit)
            span.attributes = trim(dict(span.attributes), limit)
            span.name = trim_text(span.name, limit)
            for field in _WORDS:  # never cut: ids have to be found again
                if (text := getattr(span, field)) is not None:
                    setattr(span, field, trim_text(text, sys.maxsize))
            if span.error is not None:
                message, trace = span.error.message, span.error.traceback
                span.error = SpanError(
                    span.error.type,
                    None if message is None else trim_text(message, limit),
                    None if trace is None else trim_text(trace, limit),
                )
        if shield.failed:
            span.inputs = span.outputs = None
            span.attributes = {"spanhook.content_lost": True}
            if not isinstance(span.name, str):  # what the program gave as one
                span.name = name_of(span.name)
