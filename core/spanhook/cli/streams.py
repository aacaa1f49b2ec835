"""Standard output and error as they may be: of any encoding, on a terminal or not."""

from __future__ import annotations

import io
import sys

from rich.console import Console


def take_every_character() -> None:
    """Have both streams escape what their encoding has no character for, instead of failing with half of it written."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def tick(console: Console) -> str:
    """A mark for what is right or chosen, of one character that the console can show."""
    try:
        "✓".encode(console.encoding)
    except UnicodeEncodeError:
        return "*"
    return "✓"
