"""Making a stranger's text safe to print: a terminal must not take it for its orders."""

from __future__ import annotations


def printable(text: str, keep: str = "") -> str:
    """`text` with every character escaped that does not show: controls, bidi marks, line ends, half characters.

    Args:
        text: whatever it is.
        keep: characters that stay, line ends for example.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
