"""Log events as lines of JSON: those that structlog's `JSONRenderer` would make, without a logger for each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

import structlog

from spanhook_backends.plain_json import as_json
from spanhook_backends.structlog.events import Event
from spanhook_backends.terminal.previews import UNSAFE

_stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
_render = structlog.processors.JSONRenderer(ensure_ascii=False)
_NOT_ASCII = re.compile("[^ -~]+")


def write_lines(stream: TextIO, common: Mapping[str, Any], events: Iterable[Event]) -> None:
    """Write a batch of events to `stream` in one piece: other threads write to it too."""
    now = _stamp(None, "info", {})
    encoding = getattr(stream, "encoding", None)
    lines = [
        _line({**now, "level": level, "event": name, **common, **values}, encoding) for level, name, values in events
    ]
    if lines:
        structlog.WriteLogger(stream).msg("\n".join(lines))


def _line(event: Mapping[str, Any], encoding: str | None) -> str:
    """Printable: the stream may end on a terminal, which obeys other characters; and such as the stream can take."""
    try:
        line = as_json(event)
    except ValueError:  # half a character, for example, which the standard library can write down
        line = str(_render(None, "info", dict(event)))
    if line.isascii() and "\x7f" not in line:  # JSON itself has no other control characters
        return line
    line = UNSAFE.sub(_escaped, line)
    return line if _takes(encoding, line) else _NOT_ASCII.sub(_escaped, line)


def _escaped(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]


def _takes(encoding: str | None, line: str) -> bool:
    if encoding is None:  # an object that has only `write`: what it does with a string is not known
        return False
    try:
        line.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
