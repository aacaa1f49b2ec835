"""Fields that few open spans have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from spanhook.active import OpenSpan

T = TypeVar("T")


class Rare(Generic[T]):
    """A field that is kept in `OpenSpan.rare`, with all others of its kind; where nothing was set, it has its default.

    For each slot of a span every call of DSPy pays. That a span has nothing rare at all takes one look to see.
    """

    __slots__ = ("_default", "_name")

    def __init__(self, default: T) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, opened: OpenSpan, owner: type) -> T:
        found: T = self._default if opened.rare is None else opened.rare.get(self._name, self._default)
        return found

    def __set__(self, opened: OpenSpan, value: T) -> None:
        if opened.rare is None:
            opened.rare = {}
        opened.rare[self._name] = value
