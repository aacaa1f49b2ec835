"""Log events as lines of JSON: those that structlog's `JSONRenderer` would make, without a logger for each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

import structlog

from spanhook_backends.plain_json import as_json
from spanhook_backends.structlog.events import Event

_stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
_render = structlog.processors.JSONRenderer()
_UNPRINTABLE = re.compile("[^ -~]+")


def write_lines(stream: TextIO, common: Mapping[str, Any], events: Iterable[Event]) -> None:
    """Write a batch of events to `stream` in one piece: other threads write to it too."""
    now = _stamp(None, "info", {})
    lines = [_line({**now, "level": level, "event": name, **common, **values}) for level, name, values in events]
    if lines:
        structlog.WriteLogger(stream).msg("\n".join(lines))


def _line(event: Mapping[str, Any]) -> str:
    """In printable ASCII: the stream may have any encoding, and may end on a terminal, which obeys other characters."""
    try:
        line = as_json(event)
    except ValueError:  # half a character, for example, which the standard library can write down
        return str(_render(None, "info", dict(event)))
    if line.isascii() and "\x7f" not in line:  # JSON itself has no other control characters
        return line
    return _UNPRINTABLE.sub(lambda found: json.dumps(found[0])[1:-1], line)
