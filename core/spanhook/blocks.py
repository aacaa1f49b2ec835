"""Blocks of the program in which settings of ours stand among DSPy's: those of spans, and of `attach`."""

from __future__ import annotations

from typing import Any

from spanhook import dspy_overrides

BLOCK = "spanhook_block"  # the setting in which the innermost block stands, whatever it is of


class Block:
    """Settings that hold until the block ends, in this context and in what `dspy.Parallel` and tasks start from it.

    It may end in another context, as where a generator is closed for its consumer, and before a block that began
    inside, as where one task reads two generators. Then it is left: it still stands somewhere, and counts no more.
    """

    __slots__ = ("_overrides", "is_left")

    def __init__(self, **settings: Any) -> None:
        _drop_left()
        self.is_left = False
        self._overrides = dspy_overrides.Overrides(**{BLOCK: self}, **settings)

    def around(self, setting: str) -> Any:
        """What stood in a setting when this began, None if nothing did."""
        return self._overrides.before.get(setting)

    def end(self) -> None:
        """Take the settings back, or leave the block."""
        if dspy_overrides.override(BLOCK) is not self:
            _drop_left()
        self.is_left = dspy_overrides.override(BLOCK) is not self or not self._overrides.undo()
        _drop_left()

    def drop(self) -> None:
        """Take the settings of a block that was left out of this context."""
        self._overrides.drop()

    def __reduce__(self) -> tuple[Any, ...]:
        # It stands in DSPy's settings, which a program may pickle or copy; it means nothing elsewhere.
        return nothing, ()


def nothing() -> None:
    """What stands for ours in a pickle or a copy of DSPy's settings."""


def _drop_left() -> None:
    """Take out what was left here: each of the generators that a consumer leaves would hold the one before."""
    while isinstance(here := dspy_overrides.override(BLOCK), Block) and here.is_left:
        here.drop()
