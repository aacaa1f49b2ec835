"""Text as JSON and Opik can hold it."""

from __future__ import annotations


def valid(text: str) -> str:
    """`text` without halves of surrogate pairs, which its server refuses together with the whole batch."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
