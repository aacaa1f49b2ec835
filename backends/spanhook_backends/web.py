"""Checking addresses of services."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit


def web_address(value: str, like: str) -> SplitResult:
    """The parts of an `http` or `https` URL.

    Args:
        value: what the user gave.
        like: a right one, for the message.

    Raises:
        ValueError: it is none.
    """
    wrong = ValueError(f"must be a URL like {like}")
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that don't match
        raise wrong from None
    if not usable or any(character.isspace() for character in value):
        raise wrong
    return parts
