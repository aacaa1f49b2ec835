"""Plain data as JSON."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json


def as_json(value: Any) -> str:
    """Compact JSON, in the characters that people read; many times faster than the standard library's.

    NaN and infinities become text.

    Raises:
        ValueError: something in it is no plain data, or no valid Unicode.
    """
    return to_json(value, inf_nan_mode="strings").decode()
