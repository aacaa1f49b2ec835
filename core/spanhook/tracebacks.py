"""An exception as a span has it."""

from __future__ import annotations

import traceback

from spanhook.guard import message_of
from spanhook.span import SpanError

MAX_TRACEBACK_FRAMES = 50


def span_error(exception: BaseException, *, content: bool) -> SpanError:
    """Type, message and traceback of an exception, as text: nothing of the program's is held.

    Args:
        exception: what ended a call.
        content: False leaves out the message, and the lines of source, which may hold it.
    """
    kind = type(exception)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    frames = traceback.StackSummary.extract(
        traceback.walk_tb(exception.__traceback__), limit=-MAX_TRACEBACK_FRAMES, lookup_lines=content
    )
    more = sum(1 for _ in traceback.walk_tb(exception.__traceback__)) - len(frames)
    cut = f"  … {more} more calls\n" if more else ""
    if not content:
        places = (f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}\n' for frame in frames)
        return SpanError(name, None, cut + "".join(places))
    message = message_of(exception)
    lines = cut + "".join(frames.format())
    return SpanError(name, message, f"Traceback (most recent call last):\n{lines}{name}: {message}")
