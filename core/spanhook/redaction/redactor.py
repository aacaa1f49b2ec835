"""Taking secrets out of what goes into a span, and cutting it to size: in one walk, off the program's thread."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import regex

from spanhook.redaction.names import SecretNames
from spanhook.redaction.patterns import MARK, redacted
from spanhook.redaction.values import is_filled, only_tells
from spanhook.snapshot import snapshot, trim, trim_text

if TYPE_CHECKING:
    from spanhook.config.settings import RedactSettings

PATTERN_TIMEOUT_S = 1.0  # of one pattern of the user's on one text
MARGIN_CHARS = 4_096  # a secret across the place where a text is cut is still seen whole
MAX_REMEMBERED = 5_000  # texts
MAX_REMEMBERED_CHARS = 2_000_000  # of all of them
MAX_TEXT_CHARS = 20_000  # of one
MAX_NAME_CHARS = 100
_MAX_INT = (1 << 63) - 1  # a larger one is written out
_OPTION = re.compile("-{1,2}[A-Za-z][A-Za-z0-9_-]{0,99}")
_NAMED_VALUES = (("value", ("name", "key", "header", "field")), ("Value", ("Name", "Key")))
_OF_BYTES = ("b'", 'b"')  # how a snapshot writes a key that is bytes
_NAMES = frozenset({str})
_TEXTS = frozenset({str, type(None)})


class Redactor:
    """Puts `[redacted]` in place of secrets: of what looks like one, and of the values of fields that name one.

    Most texts have none, and are in several spans of a trace: what was found to stay as it is, is not looked at again.

    Args:
        settings: the user's patterns and fields, beside those that are known.
        max_chars: of one text.
        timeout_s: for one of the user's patterns on one text; by default `PATTERN_TIMEOUT_S`.
    """

    def __init__(self, settings: RedactSettings, max_chars: int = sys.maxsize, timeout_s: float | None = None) -> None:
        self._enabled = settings.enabled
        self._max_chars = max_chars
        self._timeout_s = timeout_s
        self._patterns: Sequence[Any] = [regex.compile(pattern) for pattern in settings.patterns]
        self._names = SecretNames(settings.fields)
        self._clean: set[str | None] = {"", None}  # texts that stay as they are
        self._clean_chars = 0
        self._plain: set[str] = set()  # names that do, too, and whose values are no secrets

    def are_clean(self, texts: Collection[str | None]) -> bool:
        """Whether texts are known to stay as they are. Few are known; asking costs next to nothing."""
        return self._are_known(texts)

    def text(self, text: str) -> str:
        """A text without secrets, not too long, and valid Unicode.

        Raises:
            TimeoutError: a pattern of the user's takes too long on it.
        """
        if type(text) is not str:
            text = str.__str__(text)  # of a class of the program's, which may have any method
        if text in self._clean:
            return text
        cut = self._cut(text)
        if cut != text:
            return cut
        self._remember(text)
        return text

    def value(self, value: Any) -> Any:
        """Plain data without secrets, fit for JSON and for sending: the same object where nothing has to change.

        What is given is never changed, as spans share content.

        Raises:
            TimeoutError: as for `text`.
        """
        kind = type(value)
        if kind is dict:
            return self._dict(value)
        if kind is str:
            return self.text(value)
        if kind is list:
            return self._list(value)
        if value is None or kind is bool:
            return value
        if kind is int or kind is float:
            return trim(value, self._max_chars)
        return self.value(snapshot(value))  # what a plugin has put there

    def _changes(self, items: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
        """What has to be different in a container, by its place."""
        clean = self._clean
        changes: dict[Any, Any] = {}
        for place, item in items:
            kind = type(item)
            if (kind is str and item in clean) or item is None or kind is bool:
                continue
            if kind is int and -_MAX_INT <= item <= _MAX_INT:
                continue
            changed = self.value(item)
            if changed is not item:
                changes[place] = changed
        return changes

    def _are_known(self, items: Collection[Any]) -> bool:
        """Whether these are texts, and all known to stay as they are: most content is, and no Python runs to tell."""
        return _TEXTS.issuperset(map(type, items)) and self._clean.issuperset(items)

    def _list(self, value: list[Any]) -> list[Any]:
        if len(value) == 2 and isinstance(value[0], str) and is_filled(value[1]) and self._is_header(value[0]):
            return [self.text(value[0]), MARK]
        if self._are_known(value) or not (changes := {**self._changes(enumerate(value)), **self._followers(value)}):
            return value
        return [changes.get(place, item) for place, item in enumerate(value)]

    def _followers(self, value: list[Any]) -> dict[int, str]:
        """The items of a list that the ones before them give away: an option's value, the lines of a private key."""
        found: dict[int, str] = {}
        if not self._enabled or _NAMES.isdisjoint(map(type, value)):
            return found
        in_key = False
        for place, item in enumerate(value):
            if not isinstance(item, str):
                in_key = False
                continue
            if in_key or (place and is_filled(item) and self._is_option(value[place - 1]) and item[:1] != "-"):
                found[place] = MARK
            if "PRIVATE KEY" in item:
                in_key = "-----BEGIN" in item and "-----END" not in item
        return found

    def _dict(self, value: dict[str, Any]) -> dict[str, Any]:
        are_texts = _NAMES.issuperset(map(type, value))
        if not (are_texts and (self._plain.issuperset(value) or all(map(self._is_plain, value)))):
            value = self._with_clean_names(value)
        if not self._are_known(value.values()) and (changes := self._changes(value.items())):
            value = {**value, **changes}
        return self._without_named(value) if "value" in value or "Value" in value else value

    def _without_named(self, value: dict[str, Any]) -> dict[str, Any]:
        """A dict without the value that another item of it names: {"name": "api_key", "value": "…"}."""
        for holder, namers in _NAMED_VALUES:
            if holder in value and is_filled(value[holder]):
                names = (value.get(namer) for namer in namers)
                if any(isinstance(name, str) and self._is_field(name) for name in names):
                    return {**value, holder: MARK}
        return value

    def _cut(self, text: str) -> str:
        """A text redacted and cut. Of a long one only the beginning is looked at, with a margin in which half a secret
        may stand, and which is left out: also where the text before it got shorter, for which more is looked at, once.
        """
        most, window = self._max_chars, self._max_chars + MARGIN_CHARS
        if len(text) <= window:
            return trim_text(self._redacted(text), most)
        seen = self._redacted(text[:window])
        if len(seen) < window:
            window *= 2
            seen = self._redacted(text[:window])
        beyond = max(0, len(text) - window)
        return trim_text(seen, min(most, max(0, len(seen) - MARGIN_CHARS)) if beyond else most, beyond=beyond)

    def _redacted(self, text: str) -> str:
        if not self._enabled:
            return text
        text = redacted(text, self._names)
        timeout_s = self._timeout_s or PATTERN_TIMEOUT_S
        for pattern in self._patterns:
            text = pattern.sub(MARK, text, timeout=timeout_s, concurrent=True)
        return text

    def _remember(self, text: str) -> None:
        if len(text) > MAX_TEXT_CHARS or self._is_option(text):
            return
        if len(self._clean) >= MAX_REMEMBERED or self._clean_chars >= MAX_REMEMBERED_CHARS:
            self._clean.clear()
            self._clean.update(("", None))
            self._clean_chars = 0
        self._clean.add(text)
        self._clean_chars += len(text)

    def _with_clean_names(self, value: dict[str, Any]) -> dict[str, Any]:
        """A copy with its names redacted and cut, and without the values that their names give away as secrets."""
        copied: dict[str, Any] = {}
        for key, item in value.items():
            name = self.text(key)
            if name != key and name in copied:  # another key was redacted or cut to the same text
                name = f"{name} ({len(copied)})"
            copied[name] = MARK if self._is_field(key) and self._is_secret(key, item, value) else item
        return copied

    def _is_plain(self, name: str) -> bool:
        if name in self._plain:
            return True
        is_plain = self.text(name) == name and not self._is_field(name)
        if is_plain and len(name) <= MAX_NAME_CHARS:
            if len(self._plain) >= MAX_REMEMBERED:
                self._plain.clear()
            self._plain.add(name)
        return is_plain

    def _is_field(self, name: str) -> bool:
        name = name[:MAX_NAME_CHARS]
        return self._enabled and self._names.has(name[2:-1] if name[:2] in _OF_BYTES else name)

    def _is_secret(self, name: str, item: Any, of: dict[str, Any]) -> bool:
        """Whether an item that has the name of a secret is one."""
        return is_filled(item) and (self._names.has_own(name) or not only_tells(name, item, of))

    def _is_header(self, name: str) -> bool:
        """Whether a pair with this name is a header and not just two words."""
        return ("-" in name or name.lower() in ("authorization", "cookie")) and self._is_field(name)

    def _is_option(self, text: Any) -> bool:
        return isinstance(text, str) and _OPTION.fullmatch(text) is not None and self._is_field(text)
