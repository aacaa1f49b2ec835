"""Traces as trees on a terminal or in a notebook."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TextIO

from rich.console import Console
from rich.text import Text

from spanhook import Signal, Span
from spanhook_backends.terminal import tree
from spanhook_backends.terminal.waiting import Waiting

UNKNOWN_WIDTH = 80  # of a terminal that does not say
FILE_WIDTH = 160  # nobody knows where it will be read: wide enough to cut little, and still one line in an editor
_HEIGHT = 25  # shapes nothing; but without one, rich does not take our word for the width where TERM is "dumb"

_ASCII = str.maketrans("─│├└→·…✗≥µ", "-||`>-~x>u")


class Terminal:
    """Writes to `stream`, each batch in one piece. `waiting` holds the spans whose root has not ended."""

    def __init__(self, stream: TextIO, waiting: Waiting, *, show_adapters: bool, max_children: int) -> None:
        self._stream = stream
        self._waiting = waiting
        self._console = _console(stream)
        self._layout = tree.Layout(self._console, show_adapters=show_adapters, max_children=max_children)

    def emit(self, spans: Iterable[Span]) -> None:
        """Show the traces that are complete with these spans."""
        self.show(self._layout.trace(group) for group in self._waiting.add(spans))

    def show_unfinished(self) -> None:
        """Show what has ended of traces that still run."""
        self.show(self._layout.trace(group) for group in self._waiting.unfinished())

    def identify(self, user_id: str, traits: Mapping[str, object]) -> None:
        """Show what the program said of a user."""
        self.show([self._layout.identity(user_id, traits)])

    def track_signal(self, signal: Signal) -> None:
        """Show a user's feedback."""
        self.show([self._layout.signal(signal)])

    @property
    def width(self) -> int:
        """In cells."""
        return self._console.width

    def show(self, blocks: Iterable[Text]) -> None:
        """Write texts, each on lines of its own."""
        with self._console.capture() as captured:
            for block in blocks:
                if block:
                    self._console.print(block, no_wrap=True, overflow="ellipsis")
        if text := captured.get():
            self._stream.write(_encodable(text, getattr(self._stream, "encoding", None)))
            self._stream.flush()


def _console(stream: TextIO) -> Console:
    """Colours as rich finds them, by NO_COLOR and TERM; in a notebook ANSI colours, as it shows them."""
    found = Console(file=stream)
    if found.is_jupyter:
        return Console(file=stream, force_jupyter=False, force_terminal=True, width=found.width)
    return Console(file=stream, width=_width(stream), height=_HEIGHT)


def _width(stream: TextIO) -> int:
    """That of COLUMNS, or of the stream's own terminal: rich asks stdin's first, and none where TERM is "dumb"."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or UNKNOWN_WIDTH
    except (AttributeError, ValueError, OSError):  # a file, a pipe, or an object that has only `write`
        isatty = getattr(stream, "isatty", None)
        return UNKNOWN_WIDTH if isatty and isatty() else FILE_WIDTH


def _encodable(text: str, encoding: str | None) -> str:
    """`text` in characters that the stream can take."""
    encoding = encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    return text
