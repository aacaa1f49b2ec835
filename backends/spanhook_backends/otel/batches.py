"""Dividing spans into requests that a receiver takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from opentelemetry.sdk.trace import ReadableSpan


def requests_of(spans: Sequence[ReadableSpan], max_spans: int, max_chars: int) -> Iterator[list[ReadableSpan]]:
    """The spans in order, so many in one request and so many characters of text; a span that is too large is alone."""
    request: list[ReadableSpan] = []
    chars = 0
    for span in spans:
        size = chars_of(span)
        if request and (chars + size > max_chars or len(request) == max_spans):
            yield request
            request, chars = [], 0
        request.append(span)
        chars += size
    if request:
        yield request


def chars_of(span: ReadableSpan) -> int:
    """How many characters the texts of a span and of its events have, those in lists among them."""
    chars = 0
    for texts in (span.attributes or {}, *(event.attributes or {} for event in span.events)):
        for value in texts.values():
            if isinstance(value, str):
                chars += len(value)
            elif isinstance(value, Sequence):
                chars += sum(len(item) for item in value if isinstance(item, str))
    return chars
