"""An optimizer's run as one trace: its evaluations numbered, and as much of it kept as `[tracing] compile` says."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from spanhook.active import OpenSpan
from spanhook.trace import Trace

if TYPE_CHECKING:
    from spanhook.config.settings import CompileMode

TRIAL = "compile.trial"  # the attribute of an evaluation


class Compilation:
    """What the outermost compilation of a trace knows of its run."""

    __slots__ = ("_numbers", "mode", "opened", "trace")

    def __init__(self, opened: OpenSpan, mode: CompileMode) -> None:
        self.opened = opened
        self.mode = mode
        self.trace = opened.trace  # of the spans that are kept
        self._numbers = itertools.count(1)

    def next_trial(self) -> int:
        """The number of the evaluation that begins; on any thread."""
        return next(self._numbers)


def trace_for(mode: CompileMode, parent: OpenSpan | None, begin: Callable[[], Trace]) -> Trace | None:
    """The trace in which an optimizer's run starts; None for its parent's, or a new one.

    Args:
        mode: `[tracing] compile`.
        parent: what it starts under.
        begin: makes a new trace.
    """
    if mode != "off" or around(parent) is not None:
        return None
    return _quiet(begin() if parent is None else parent.trace)


def mark(mode: CompileMode, opened: OpenSpan) -> None:
    """Take this span for a compilation, unless it is part of one: what is kept of that has been decided."""
    if around(opened.parent) is None:
        opened.compilation = Compilation(opened, mode)
        if mode == "summary":
            hush(opened)


def hush(opened: OpenSpan) -> None:
    """Keep this span, and of those that start under it only what they add up to."""
    opened.is_kept, opened.trace = opened.trace.recorded, _quiet(opened.trace)


def _quiet(trace: Trace) -> Trace:
    """The same trace, for spans that go nowhere but are counted where someone sees the sum."""
    quiet = copy.copy(trace)
    quiet.sampled, quiet.recorded, quiet.counted = False, False, trace.recorded or trace.counted
    return quiet


def around(opened: OpenSpan | None) -> Compilation | None:
    """The outermost compilation that runs here."""
    found = None
    while opened is not None:
        found, opened = opened.compilation or found, opened.parent
    return found
