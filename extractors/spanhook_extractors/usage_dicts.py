"""Reading token counts out of the shapes that providers and DSPy's releases give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanhook import Usage

# Each count with the places where it may stand: LiteLLM's and OpenAI's chat names, the responses API's, Anthropic's.
_PLACES: dict[str, tuple[tuple[str, ...], ...]] = {
    "input_tokens": (("prompt_tokens",), ("input_tokens",)),
    "output_tokens": (("completion_tokens",), ("output_tokens",)),
    "total_tokens": (("total_tokens",),),
    "cached_input_tokens": (
        ("prompt_tokens_details", "cached_tokens"),
        ("input_tokens_details", "cached_tokens"),
        ("cache_read_input_tokens",),
    ),
    "cache_write_input_tokens": (
        ("prompt_tokens_details", "cache_creation_tokens"),
        ("prompt_tokens_details", "cache_write_tokens"),
        ("input_tokens_details", "cache_write_tokens"),
        ("cache_creation_input_tokens",),
    ),
    "reasoning_output_tokens": (
        ("completion_tokens_details", "reasoning_tokens"),
        ("output_tokens_details", "reasoning_tokens"),
    ),
    "audio_input_tokens": (("prompt_tokens_details", "audio_tokens"), ("input_tokens_details", "audio_tokens")),
    "audio_output_tokens": (("completion_tokens_details", "audio_tokens"), ("output_tokens_details", "audio_tokens")),
}


def read_usage(source: Any) -> Usage | None:
    """The counts that `source`, a mapping or an object, reports; None if it reports none.

    LiteLLM writes zeros where the provider said nothing, and no real call has neither input nor output: all zeros are
    no report.
    """
    if source is None or isinstance(source, (str, bytes, int, float)):
        return None
    usage = Usage(**{name: _first(source, places) for name, places in _PLACES.items()})
    return usage if any(usage.to_dict().values()) else None


def member(source: Any, name: str) -> Any:
    """`source[name]` of a mapping, `source.name` of anything else; None where there is none."""
    return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)


def _first(source: Any, places: tuple[tuple[str, ...], ...]) -> int | None:
    for path in places:
        value = source
        for name in path:
            value = member(value, name) if value is not None else None
        if type(value) is int and value >= 0:
            return value
    return None
