"""Taking secrets out of what goes into a span, and cutting it to size: in one walk, off the program's thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import regex

from spanhook.secret_names import is_secret_name
from spanhook.secret_patterns import MARK, redacted
from spanhook.snapshot import trim, trim_text

if TYPE_CHECKING:
    from spanhook.config import RedactSettings

PATTERN_TIMEOUT_S = 1.0  # of one pattern of the user's on one text
MARGIN_CHARS = 4_096  # a secret across the place where a text is cut is still seen whole
MAX_CACHED = 1_000  # texts
MAX_CACHED_CHARS = 2_000  # of one
MAX_NAME_CHARS = 100


class Redactor:
    """Puts `[redacted]` in place of secrets: of what looks like one, and of the values of fields that name one.

    Args:
        settings: the user's patterns and fields, beside those that are known.
    """

    def __init__(self, settings: RedactSettings) -> None:
        self._enabled = settings.enabled
        self._patterns: Sequence[Any] = [regex.compile(pattern) for pattern in settings.patterns]
        self._fields = frozenset(_plain(name) for name in settings.fields)
        self._texts: dict[str, str] = {}
        self._names: dict[str, tuple[str, bool]] = {}

    def text(self, text: str, max_chars: int) -> str:
        """A text without secrets, at most `max_chars` long, and valid Unicode.

        Raises:
            TimeoutError: a pattern of the user's takes too long on it.
        """
        if not self._enabled:
            return trim_text(text, max_chars)
        known = self._texts.get(text)
        if known is not None and len(known) <= max_chars:  # the same text is in several spans of a trace
            return known
        beyond = len(text) - max_chars - MARGIN_CHARS
        seen = self._redacted(text if beyond <= 0 else text[: max_chars + MARGIN_CHARS])
        cut = trim_text(seen, max_chars, beyond=max(0, beyond))
        if len(text) <= min(max_chars, MAX_CACHED_CHARS):
            if len(self._texts) >= MAX_CACHED:
                self._texts.clear()
            self._texts[text] = cut
        return cut

    def value(self, value: Any, max_chars: int) -> Any:
        """Plain data without secrets, fit for JSON and for sending. Always a copy of the containers.

        Raises:
            TimeoutError: as for `text`.
        """
        if not self._enabled:
            return trim(value, max_chars)
        if isinstance(value, str):
            return self.text(value, max_chars)
        if isinstance(value, dict):
            return self._dict(value, max_chars)
        if isinstance(value, list):
            if len(value) == 2 and isinstance(value[0], str) and _is_filled(value[1]) and self._is_header(value[0]):
                return [self.text(value[0], max_chars), MARK]
            return [self.value(item, max_chars) for item in value]
        return trim(value, max_chars)

    def _redacted(self, text: str) -> str:
        text = redacted(text)
        for pattern in self._patterns:
            text = pattern.sub(MARK, text, timeout=PATTERN_TIMEOUT_S, concurrent=True)
        return text

    def _dict(self, value: dict[str, Any], max_chars: int) -> dict[str, Any]:
        copied: dict[str, Any] = {}
        for key, item in value.items():
            name, is_secret = self._names.get(key) or self._name(key, max_chars)
            if name is not key and name in copied:  # another key was redacted or cut to the same text
                name = f"{name} ({len(copied)})"
            copied[name] = MARK if is_secret and _is_filled(item) else self.value(item, max_chars)
        named = copied.get("name", copied.get("key"))  # {"name": "api_key", "value": "…"}
        if isinstance(named, str) and _is_filled(copied.get("value")) and self._is_field(named):
            copied["value"] = MARK
        return copied

    def _name(self, key: str, max_chars: int) -> tuple[str, bool]:
        cleaned = self.text(key, max_chars)
        found = (key if cleaned == key else cleaned), self._is_field(key)
        if len(key) <= MAX_NAME_CHARS:
            if len(self._names) >= MAX_CACHED:
                self._names.clear()
            self._names[key] = found
        return found

    def _is_field(self, name: str) -> bool:
        return is_secret_name(name[:MAX_NAME_CHARS]) or (bool(self._fields) and _plain(name) in self._fields)

    def _is_header(self, name: str) -> bool:
        """Whether a pair with this name is a header and not just two words."""
        return ("-" in name or name.lower() in ("authorization", "cookie")) and self._is_field(name)


def _plain(name: str) -> str:
    """A field's name however it is written: `X-Patient-Id` is `x_patient_id`."""
    return name.lower().replace("-", "_").replace(" ", "_")


def _is_filled(value: Any) -> bool:
    """Whether there is something to hide: a flag, an empty text or None is no secret."""
    return not (value is None or value is True or value is False or value == "" or value == [] or value == {})
