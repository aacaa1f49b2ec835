"""Which values of a field that is named like a secret are none: flags, prices, tokens of a text, schemas."""

from __future__ import annotations

from typing import Any

# Beside these a `token` is a piece of a text: in logprobs, and where a model fills a gap.
_OF_A_TEXT = frozenset({"logprob", "token_str", "top_logprobs"})
_TYPES = frozenset({"string", "integer", "number", "boolean", "object", "array", "null"})
_SCHEMA_KEYS = frozenset({
    "type", "title", "description", "desc", "format", "pattern", "minLength", "maxLength", "minimum", "maximum",
    "nullable", "writeOnly", "readOnly", "deprecated", "required", "properties", "additionalProperties", "items",
    "anyOf", "oneOf", "allOf", "$ref", "strict",
})  # fmt: skip


def is_filled(value: Any) -> bool:
    """Whether there is something to hide: a flag, an empty text or None is no secret."""
    return not (value is None or value is True or value is False or value == "" or value == [] or value == {})


def only_tells(name: str, value: Any, of: dict[str, Any]) -> bool:
    """Whether `of[name]` is no secret in spite of its name, which is one of those that are known.

    Args:
        name: the field's.
        value: plain data.
        of: what the field is in.
    """
    if type(value) is float:
        return True
    if name == "token" and not _OF_A_TEXT.isdisjoint(of):
        return True
    return type(value) is dict and _is_schema(value)


def _is_schema(value: dict[str, Any]) -> bool:
    """Whether it describes what a field holds, as JSON Schema does, without any value."""
    kind = value.get("type")
    is_typed = isinstance(kind, str) and kind in _TYPES
    is_composed = any(isinstance(value.get(key), (list, str)) for key in ("anyOf", "oneOf", "allOf", "$ref"))
    return (is_typed or is_composed) and all(
        key in _SCHEMA_KEYS or (key == "default" and not is_filled(item)) for key, item in value.items()
    )
