"""A dict that stays small."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

T = TypeVar("T")


class Bounded(OrderedDict[str, T]):
    """Forgets its oldest entries beyond a limit.

    Several threads may put and get: each step is one of Python's own. At worst an old entry more is forgotten, and one
    that is being replaced is not found. Hold a lock where that matters, and to go through the entries.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def put(self, key: str, value: T) -> None:
        """Add or replace an entry; it is then the youngest."""
        self.pop(key, None)
        self[key] = value
        if len(self) > self._limit:
            self.popitem(last=False)
