"""Calls of modules whose `forward` is a coroutine function: DSPy ends such a call when its coroutine is made.

The program awaits the coroutine, and nobody is told of it. What it calls is placed, and its end is found, by what
public Python knows of it: the frames on the stack, what a task waits for, and when the coroutine is let go of.
"""

from __future__ import annotations

import asyncio
import dis
import inspect
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CoroutineType, FrameType
from typing import Any

from spanhook import dspy_overrides
from spanhook.active import OpenSpan, is_attached_within, is_within
from spanhook.guard import Guard

# Settings of DSPy's, with the tracer's own name behind them. They reach the tasks and threads that start from here.
_MADE = "spanhook_coroutines_"  # the ids of the calls whose coroutines were made in this context
_OWN = "spanhook_coroutine_"  # the id of the call whose coroutine has the task of this context for its own

_TURNS = 5  # what has waited for several tasks goes on a few turns of the loop after the last of them
_RETURNS = ("RETURN_VALUE", "RETURN_CONST")
_UNKNOWN = "this call's coroutine ended with an exception that only its awaiter has seen; see the spans under it"


class UnknownError(BaseException):
    """Stands for the exception that ended a coroutine: that there was one is known, and nothing else of it."""


@dataclass(slots=True, eq=False)
class _Call:
    """A call whose coroutine is not over."""

    call_id: str
    opened: OpenSpan
    coroutine: weakref.ref[CoroutineType[Any, Any, Any]]
    frame: FrameType
    unstarted: int  # where the frame stands until the coroutine is awaited
    maker: asyncio.Task[Any] | None  # the task that made the coroutine
    runs_in_maker: bool | None = None  # None: not known yet
    has_own_task: bool = False

    @property
    def is_started(self) -> bool:
        return self.frame.f_lasti != self.unstarted

    @property
    def is_past(self) -> bool:
        """Whether the coroutine is over, and perhaps gone."""
        coroutine = self.coroutine()
        return coroutine is None or coroutine.cr_frame is None

    def is_inside(self, other: _Call) -> bool:
        """Whether this call was made by what another one called."""
        return is_within(self.opened.parent, other.opened)

    @property
    def returned(self) -> bool:
        """Whether the frame has left by its `return`, once the coroutine is over."""
        code = self.frame.f_code
        return self.is_started and dis.opname[code.co_code[self.frame.f_lasti]] in _RETURNS


class Lent(list[Any]):
    """DSPy callbacks with a wrapped program's in them, for as long as its coroutine runs; `before`: those without."""

    before: Any = None


class Coroutines:
    """The calls of one tracer that wait for their coroutines.

    Args:
        setting: the tracer's own name among DSPy's settings.
        end: ends the call of an id: with what it returned and what it raised, None where that can't be known.
    """

    def __init__(self, setting: str, guard: Guard, end: Callable[[str, Any, BaseException | None], None]) -> None:
        self._setting, self._made, self._own = setting, _MADE + setting, _OWN + setting
        self._guard = guard
        self._end = end
        self._is_looking = self._is_sweeping = False
        self.calls: dict[str, _Call] = {}

    def keep(
        self, call_id: str, opened: OpenSpan, coroutine: CoroutineType[Any, Any, Any], callbacks: list[Any] | None
    ) -> bool:
        """A call has made its coroutine: its span stays open until that is over. False if it is over already.

        Args:
            call_id: DSPy's.
            opened: its span.
            coroutine: what the call returned.
            callbacks: those that what it calls has to have, for a wrapped program; None: those that are there.
        """
        frame = coroutine.cr_frame
        if frame is None:
            return False
        if call_id in self.calls:  # the same end comes twice where a call was reported twice
            return True
        gone = weakref.ref(coroutine, lambda _: self._guard.call("tracer: end of a coroutine", self._is_gone, call_id))
        maker = _current_task()
        self.calls[call_id] = _Call(call_id, opened, gone, frame, frame.f_lasti, maker)
        alive = tuple(other for other in dspy_overrides.override(self._made) or () if other in self.calls)
        settings: dict[str, Any] = {self._made: (*alive, call_id)}
        if callbacks is not None:
            settings["callbacks"] = lent = Lent(callbacks)
            lent.before = dspy_overrides.override("callbacks")
        dspy_overrides.Overrides(**settings)
        if maker is not None and not self._is_looking:  # for a task that is made of the coroutine, before it runs
            self._is_looking = True
            maker.get_loop().call_soon(self._guard.call, "tracer: tasks of coroutines", self._look_at_tasks)
        return True

    def _look_at_tasks(self) -> None:
        self._is_looking = False
        loose: dict[Any, _Call] = {call.coroutine(): call for call in self.calls.values() if not call.has_own_task}
        for task in asyncio.all_tasks():
            if (call := loose.get(task.get_coro())) is not None:
                self._has_task(call, task)

    def _has_task(self, call: _Call, task: asyncio.Task[Any]) -> None:
        """A task was made of the coroutine, and of nothing else: it knows the result, and its context is the call's."""
        call.has_own_task, call.runs_in_maker = True, False
        task.add_done_callback(lambda task: self._guard.call("tracer: end of a task", self._is_done, call, task))
        own = {self._own: call.call_id}
        if task is _current_task():
            dspy_overrides.Overrides(**own)  # nobody can enter its context once more
        elif sys.version_info >= (3, 12):
            task.get_context().run(dspy_overrides.Overrides, **own)

    def innermost(self, known: OpenSpan | None) -> OpenSpan | None:
        """The innermost span here, where `known` is the one without regard to coroutines."""
        self.sweep()
        found = self._on_the_stack() or self._inherited()
        if found is None:
            return known
        if is_within(known, found.opened) or is_attached_within(self._setting, found.opened):
            return known  # it runs inside of the coroutine
        return found.opened

    def look_again(self) -> None:
        """Something that a coroutine has called is over: within the loop's next turns so may be the coroutine."""
        if not self._is_sweeping and (task := _current_task()) is not None:
            self._is_sweeping = True
            self._sweep_soon(task.get_loop(), _TURNS)

    def _sweep_soon(self, loop: asyncio.AbstractEventLoop, turns: int) -> None:
        self._is_sweeping = turns > 0
        if self._is_sweeping:
            loop.call_soon(self._guard.call, "tracer: end of coroutines", self._sweep_soon, loop, turns - 1)
        self.sweep()

    def sweep(self) -> None:
        """End the calls whose coroutines are over though something keeps these: a variable, or DSPy before 3.3."""
        for call in reversed(list(self.calls.values())):  # inner ones first
            if call.coroutine() is not None and call.is_past and not call.has_own_task:
                call.opened.span.attributes["late_end"] = True
                self._is_over(call.call_id)

    def _on_the_stack(self) -> _Call | None:
        by_frame = {call.frame: call for call in self.calls.values()}
        found = next((by_frame[frame] for frame in _outwards(inspect.currentframe()) if frame in by_frame), None)
        task = None if found is None else _current_task()
        if found is not None and task is not None:
            if task.get_coro() is not found.coroutine():
                found.runs_in_maker = task is found.maker
            elif not found.has_own_task:
                self._has_task(found, task)
        return found

    def _inherited(self) -> _Call | None:
        """The coroutine that has started the task or thread that runs here, where that is certain.

        Whoever awaits a coroutine where it was made does nothing else meanwhile: what has it in its context comes from
        it. Of a coroutine with a task of its own the siblings have inherited the id, too. Only from Python 3.12 on is
        there a way to tell them from what it starts itself.
        """
        ids, own = dspy_overrides.override(self._made) or (), dspy_overrides.override(self._own)
        calls = [call for call_id in reversed(ids) if (call := self.calls.get(call_id)) is not None]
        for call in calls:
            if call.maker is None:
                if call.is_started and len(calls) == 1:
                    if not call.has_own_task and _current_task() is not None:
                        self._look_at_tasks()
                    return call
            elif call.runs_in_maker is None:
                call.runs_in_maker = (call.is_started and _waits_for(call.maker, call)) or None
            if call.runs_in_maker or call.call_id == own:
                return call
        return None

    def _is_done(self, call: _Call, task: asyncio.Task[Any]) -> None:
        """The coroutine's own task is done. To ask for its exception would silence asyncio's warning of it."""
        if task.cancelled():
            self._is_over(call.call_id, exception=asyncio.CancelledError())
        else:
            self._is_over(call.call_id, task.result() if call.returned else None)

    def _is_over(self, call_id: str, outputs: Any = None, exception: BaseException | None = None) -> None:
        call = self.calls.pop(call_id, None)
        if call is None:
            return
        for inner in reversed(list(self.calls.values())):  # the garbage collector may tell of the outer one first
            if inner.is_past and not inner.has_own_task and inner.is_inside(call):
                self._is_over(inner.call_id)
        if not call.is_started:
            call.opened.span.attributes["never_awaited"] = True
        elif exception is None and not call.returned:
            exception = UnknownError(_UNKNOWN)
        self._end(call_id, outputs, exception)

    def _is_gone(self, call_id: str) -> None:
        """The coroutine is let go of, as a rule by who has awaited it: its context becomes what it was."""
        self._is_over(call_id)
        if self.calls:
            return
        if dspy_overrides.override(self._made) is not None:
            dspy_overrides.drop_override(self._made)
        callbacks = dspy_overrides.override("callbacks")
        if isinstance(callbacks, Lent) and callbacks.before is None:
            dspy_overrides.drop_override("callbacks")
        elif isinstance(callbacks, Lent):
            dspy_overrides.Overrides(callbacks=callbacks.before)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs on this thread
        return None


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _waits_for(task: asyncio.Task[Any], call: _Call) -> bool:
    """Whether a task is inside of a coroutine: runs it, on whichever thread, or waits for it."""
    waiting: Any = task.get_coro()
    root = getattr(waiting, "cr_frame", None)
    if root is not None and root in _outwards(call.frame):
        return True
    coroutine = call.coroutine()
    while waiting is not None and waiting is not coroutine:
        waiting = getattr(waiting, "cr_await", None)
    return waiting is not None
