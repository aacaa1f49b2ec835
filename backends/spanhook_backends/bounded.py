"""A dict that stays small."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

T = TypeVar("T")


class Bounded(OrderedDict[str, T]):
    """Forgets its oldest entries beyond a limit. Not thread-safe: hold a lock, or stay on one thread."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def put(self, key: str, value: T) -> None:
        """Add or replace an entry; it is then the youngest."""
        self[key] = value
        self.move_to_end(key)
        if len(self) > self._limit:
            self.popitem(last=False)
