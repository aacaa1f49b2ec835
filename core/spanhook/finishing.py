"""What all backends share, done once to everything on its way to them: secrets taken out, texts cut, valid JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from spanhook.delivery.items import Identity, Item
from spanhook.guard import Guard
from spanhook.redaction import Redactor
from spanhook.snapshot import name_of, trim
from spanhook.span import Signal, Span, SpanError

LOST = "spanhook.content_lost"
_WHOLE = sys.maxsize
_WORDS = ("event_id", "user_id", "convo_id", "model", "response_model", "provider", "finish_reason")

RedactHook = tuple[str, Callable[[Span], object]]


class Finisher:
    """Makes spans, identities and signals fit for every backend. What fails to be is sent without its content.

    Args:
        max_text_chars: of one text in a span.
        guard: counts what fails.
        redactor: takes secrets out.
        hooks: the plugins' `redact`, each with what to call it in messages.
    """

    def __init__(self, max_text_chars: int, guard: Guard, redactor: Redactor, hooks: Sequence[RedactHook] = ()) -> None:
        self._limit = max_text_chars
        self._guard = guard
        self._redactor = redactor
        self._hooks = hooks

    def __call__(self, item: Item) -> Item:
        """A span is finished in place; of an identity and a signal a finished copy is returned.

        Runs on the intake thread, before anything is queued for a backend, stored or logged.
        """
        if isinstance(item, Span):
            self._finish_span(item)
            return item
        finish: Callable[[Any], Item] = self._identity if isinstance(item, Identity) else self._signal
        return self._guard.call("delivery: preparing an identity or a signal", finish, item) or _bare(item)

    def _finish_span(self, span: Span) -> None:
        for place, hook in self._hooks:
            shield = self._guard(place)
            with shield:
                _own(span)
                hook(span)
            if shield.failed:
                _empty(span)
                span.name, span.user_id, span.convo_id = span.kind, None, None
        call, text, limit = self._guard.call, self._redactor.text, self._limit
        shield = self._guard("delivery: preparing a span")
        with shield:
            self._clean(span)
        if shield.failed:
            _empty(span)
        if isinstance(span.name, str):
            span.name = call("delivery: preparing a span's name", text, span.name, limit) or span.kind
        else:  # what the program gave as one
            span.name = name_of(span.name)
        for field in _WORDS:  # never cut: ids have to be found again
            if (word := getattr(span, field)) is not None:
                setattr(span, field, call(f"delivery: preparing {field}", text, word, _WHOLE))

    def _clean(self, span: Span) -> None:
        limit, text, value = self._limit, self._redactor.text, self._redactor.value
        span.inputs, span.outputs = value(span.inputs, limit), value(span.outputs, limit)
        span.attributes = value(dict(span.attributes), limit)
        span.sources = {text(name, limit): source for name, source in span.sources.items()}
        if (error := span.error) is not None:
            message, trace = error.message, error.traceback
            span.error = SpanError(
                text(error.type, _WHOLE),
                None if message is None else text(message, limit),
                None if trace is None else text(trace, limit),
            )

    def _identity(self, item: Identity) -> Identity:
        return Identity(self._redactor.text(item.user_id, _WHOLE), self._redactor.value(dict(item.traits), _WHOLE))

    def _signal(self, item: Signal) -> Signal:
        value = self._redactor.value
        return replace(
            item,
            event_id=value(item.event_id, _WHOLE),
            name=value(item.name, _WHOLE),
            properties=value(dict(item.properties), _WHOLE),
            attachment_id=value(item.attachment_id, _WHOLE),
            comment=value(item.comment, _WHOLE),
            after=value(item.after, _WHOLE),
        )


def _own(span: Span) -> None:
    """Give the span content of its own: an interaction shares that of its first and last call."""
    span.inputs, span.outputs = trim(span.inputs, _WHOLE), trim(span.outputs, _WHOLE)
    span.attributes = trim(dict(span.attributes), _WHOLE)


def _empty(span: Span) -> None:
    """What could not be checked does not leave the process."""
    span.inputs = span.outputs = None
    span.attributes, span.sources = {LOST: True}, {}
    if span.error is not None:
        span.error = SpanError(span.error.type, None, None)


def _bare(item: Identity | Signal) -> Item:
    """An identity or a signal of which only the ids are left."""
    if isinstance(item, Identity):
        return Identity(item.user_id, {})
    return replace(item, properties={LOST: True}, attachment_id=None, comment=None, after=None)
