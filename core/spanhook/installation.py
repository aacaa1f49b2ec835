"""A tracer's callback in DSPy's settings: how it gets there beside those of others, and whether it is there still."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import Any

from spanhook import dspy_compat, dspy_overrides
from spanhook.dspy_source import DSPySource
from spanhook.errors import InstallError
from spanhook.guard import warn

_installed: weakref.WeakSet[Installation] = weakref.WeakSet()


class Installation:
    """Puts one callback into the process's settings, in the place of any other tracer's, and takes it out again.

    Args:
        source: the callback, whose guard counts what DSPy refuses.
    """

    def __init__(self, source: DSPySource) -> None:
        self.source = source
        self.is_replaced = False
        self._was_left_out = False  # by a block of `dspy.context`

    def replace_others(self, *, is_called: bool) -> list[Installation]:
        """Take the callbacks of other tracers out, put this one in if DSPy `is_called` to know of it; returns theirs.

        Raises:
            InstallError: DSPy refuses a callback in this thread or task.
        """
        replaced = [other for other in list(_installed) if other is not self]
        present = dspy_compat.process_callbacks()
        if is_called:
            dspy_compat.set_callbacks(self._among(present))
            if self.source not in (here := dspy_compat.callbacks()):
                # Inside of `dspy.context` the block's own list counts; it takes this back when it ends.
                dspy_overrides.set_override("callbacks", self._among(here))
            _installed.add(self)
        elif replaced:
            dspy_compat.set_callbacks([c for c in present if not isinstance(c, DSPySource)])
        for other in replaced:
            other.is_replaced = True
        return replaced

    def remove(self) -> None:
        """Take it out of the settings, if they have it."""
        self.check()
        _installed.discard(self)
        present = dspy_compat.process_callbacks()
        if self.source in present:
            with suppress(InstallError):  # on another thread than DSPy's own: it stays, asleep
                dspy_compat.set_callbacks([c for c in present if c is not self.source])

    def check(self, *, here: bool = False) -> None:
        """Say it when DSPy no longer calls us, once of the whole process and once of `here`: nobody would know."""
        if self not in _installed or self.is_replaced:
            return
        if self.source not in dspy_compat.process_callbacks():
            self.is_replaced = True
            warn(
                "DSPy's callbacks were replaced after spanhook.configure(), by dspy.configure(callbacks=…): calls "
                "since then are not traced. Call spanhook.configure() after it, or put tracer.callback among the "
                "callbacks."
            )
        elif here and not self._was_left_out and self.source not in dspy_compat.callbacks():
            self._was_left_out = True
            warn(
                "tracer.interaction in a block of dspy.context(callbacks=…) without tracer.callback: what it calls is "
                "not traced. Put tracer.callback among the callbacks if it should be (logged once)."
            )

    def _among(self, callbacks: list[Any]) -> list[Any]:
        return [c for c in callbacks if not isinstance(c, DSPySource)] + [self.source]
