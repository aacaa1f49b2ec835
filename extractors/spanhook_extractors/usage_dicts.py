"""Reading token counts out of the shapes that providers and DSPy's releases give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanhook import Usage


def read_usage(source: Any, *, streamed: bool = False) -> Usage | None:
    """The counts that `source`, a mapping or an object, reports; None if it reports none.

    Knows LiteLLM's and OpenAI's chat names, those of OpenAI's responses API, and Anthropic's for its prompt cache.

    LiteLLM writes zeros where the provider said nothing, and no real call has neither input nor output: all zeros are
    no report. Of a stream without usage some of its releases count the text themselves, and have nothing to count the
    prompt by: `streamed` output without input is an estimate, and no report either.
    """
    # A tool may return anything with a `usage`, also what has no truth value, such as a table's column.
    if source is None or isinstance(source, (str, bytes, int, float)):
        return None
    into = _either(source, "prompt_tokens_details", "input_tokens_details")
    out_of = _either(source, "completion_tokens_details", "output_tokens_details")
    usage = Usage(
        input_tokens=_count(source, "prompt_tokens", "input_tokens"),
        output_tokens=_count(source, "completion_tokens", "output_tokens"),
        total_tokens=_count(source, "total_tokens"),
        cached_input_tokens=_first(_count(into, "cached_tokens"), _count(source, "cache_read_input_tokens")),
        cache_write_input_tokens=_first(
            _count(into, "cache_creation_tokens", "cache_write_tokens"), _count(source, "cache_creation_input_tokens")
        ),
        reasoning_output_tokens=_count(out_of, "reasoning_tokens"),
        audio_input_tokens=_count(into, "audio_tokens"),
        audio_output_tokens=_count(out_of, "audio_tokens"),
    )
    if streamed and not usage.input_tokens:
        return None
    return usage if usage.input_tokens or usage.output_tokens or any(usage.to_dict().values()) else None


def member(source: Any, name: str) -> Any:
    """`source[name]` of a mapping, `source.name` of anything else; None where there is none."""
    if type(source) is dict or isinstance(source, Mapping):  # the first is many times cheaper
        return source.get(name)
    return getattr(source, name, None)


def _either(source: Any, name: str, other: str) -> Any:
    found = member(source, name)
    return member(source, other) if found is None else found


def _count(source: Any, *names: str) -> int | None:
    if source is None:
        return None
    is_dict = type(source) is dict
    for name in names:
        value = source.get(name) if is_dict else member(source, name)
        if type(value) is int and value >= 0:
            return value
    return None


def _first(*counts: int | None) -> int | None:
    return next((count for count in counts if count is not None), None)
