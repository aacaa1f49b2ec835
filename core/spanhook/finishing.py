"""What all backends share, done once to everything on its way to them: secrets taken out, texts cut, valid JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spanhook.delivery.items import NOT_PREPARED, Dropped, Identity, Item
from spanhook.guard import Guard
from spanhook.ids import uuid_of
from spanhook.redaction.redactor import Redactor
from spanhook.snapshot import name_of, trim
from spanhook.span import Signal, Span, SpanError

if TYPE_CHECKING:
    from spanhook.config.settings import RedactSettings

LOST = "spanhook.content_lost"
_WHOLE = sys.maxsize
_WORDS = ("user_id", "convo_id", "model", "response_model", "provider", "finish_reason")

RedactHook = tuple[str, Callable[[Span], object]]


class Finisher:
    """Makes spans, identities and signals fit for every backend. What fails to be is sent without its content.

    Args:
        max_text_chars: of one text in a span.
        guard: counts what fails.
        redact: what to take out.
        hooks: the plugins' `redact`, each with what to call it in messages.
        content: False leaves out what a user wrote: the comment of a signal, and the text after an edit.
    """

    def __init__(
        self,
        max_text_chars: int,
        guard: Guard,
        redact: RedactSettings,
        hooks: Sequence[RedactHook] = (),
        *,
        content: bool = True,
    ) -> None:
        self._guard = guard
        self._cut = Redactor(redact, max_text_chars)
        self._whole = Redactor(redact)  # for ids, which have to be found again
        self._hooks = hooks
        self._content = content
        self._event_id = ""  # the last one, that is fit

    def __call__(self, item: Item) -> Item | Dropped:
        """A span is finished in place; of an identity and a signal a finished copy is returned, if it still has its id.

        Runs on the intake thread, before anything is queued for a backend, stored or logged.
        """
        if isinstance(item, Span):
            self._finish_span(item)
            return item
        finish: Callable[[Any], Item] = self._identity if isinstance(item, Identity) else self._signal
        return self._guard.call("delivery: preparing an identity or a signal", finish, item) or self._bare(item)

    def _finish_span(self, span: Span) -> None:
        for place, hook in self._hooks:
            shield = self._guard(place)
            with shield:
                _own(span)
                hook(span)
            if shield.failed:
                _empty(span)
                span.name, span.user_id, span.convo_id = span.kind, None, None
        if not self._guard.call("delivery: preparing a span", self._clean, span):
            _empty(span)
        if not self._guard.call("delivery: preparing a span's ids and name", self._clean_words, span):
            span.name, span.event_id = span.kind, ""
            for field in _WORDS:
                setattr(span, field, None)

    def _clean(self, span: Span) -> bool:
        text, value = self._cut.text, self._cut.value
        span.inputs, span.outputs = value(span.inputs), value(span.outputs)
        attributes = span.attributes
        span.attributes = value(attributes if type(attributes) is dict else dict(attributes))
        if not self._cut.are_clean(span.sources):
            span.sources = {text(name): source for name, source in span.sources.items()}
        if (error := span.error) is not None:
            message, trace = error.message, error.traceback
            span.error = SpanError(
                self._whole.text(error.type),
                None if message is None else text(message),
                None if trace is None else text(trace),
            )
        return True

    def _clean_words(self, span: Span) -> bool:
        call, text = self._guard.call, self._whole.text
        if not issubclass(type(span.name), str):  # what the program gave as one
            span.name = name_of(span.name)
        elif not self._cut.are_clean((span.name,)):
            span.name = call("delivery: preparing a span's name", self._cut.text, span.name) or span.kind
        if span.event_id != self._event_id:  # one for all spans of a trace, and as a rule of ours
            if span.event_id != uuid_of(span.trace_id):
                span.event_id = call("delivery: preparing event_id", text, span.event_id) or ""
            self._event_id = span.event_id
        words = (span.user_id, span.convo_id, span.model, span.response_model, span.provider, span.finish_reason)
        if not self._whole.are_clean(words):
            for field, word in zip(_WORDS, words, strict=True):
                if word is not None:
                    setattr(span, field, call(f"delivery: preparing {field}", text, word))
        return True

    def _identity(self, item: Identity) -> Identity:
        return Identity(self._whole.text(item.user_id), self._whole.value(dict(item.traits)))

    def _signal(self, item: Signal) -> Signal:
        value = self._whole.value
        return replace(
            item,
            event_id=value(item.event_id),
            name=value(item.name),
            properties=value(dict(item.properties)),
            attachment_id=value(item.attachment_id),
            comment=value(item.comment) if self._content else None,
            after=value(item.after) if self._content else None,
        )

    def _bare(self, item: Identity | Signal) -> Item | Dropped:
        """An identity or a signal of which only the ids are left: those that can be checked alone."""
        call, text = self._guard.call, self._whole.text
        if isinstance(item, Identity):
            user_id = call("delivery: preparing a user_id", text, item.user_id)
            return NOT_PREPARED if user_id is None else Identity(user_id, {})
        event_id = call("delivery: preparing a signal's event_id", text, item.event_id)
        if event_id is None:
            return NOT_PREPARED
        name = call("delivery: preparing a signal's name", text, item.name) or item.type
        return replace(
            item, event_id=event_id, name=name, properties={LOST: True}, attachment_id=None, comment=None, after=None
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
