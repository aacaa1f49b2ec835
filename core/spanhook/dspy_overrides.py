"""Settings of DSPy that hold in one context: where what runs there is noted, beside what `dspy.context` sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import Token
from typing import Any

from dspy.dsp.utils.settings import thread_local_overrides


class Overrides:
    """DSPy settings that hold from now on in this context, and in what `dspy.Parallel` and tasks start from it.

    Unlike `dspy.context`, it leaves all other settings as they are: a `dspy.configure` inside still takes effect.
    """

    __slots__ = ("_made", "_names", "_token", "before")

    def __init__(self, **settings: Any) -> None:
        self.before: Mapping[str, Any] = thread_local_overrides.get()
        self._names = settings.keys()
        self._made: Any = _ours(self.before)  # DSPy's type for them is one of its own, and any dict does
        self._made.update(settings)
        self._token: Token[Any] | None = thread_local_overrides.set(self._made)

    def undo(self) -> bool:
        """Take them back. False where they may still stand afterwards.

        That is so in another context than the one in which they were made, and where a block of `dspy.context` that
        began later goes on, as around a generator's last step: what that has set stays, and its end brings back ours.
        """
        standing = thread_local_overrides.get()
        if self._token is None or not take_back(self._token):
            return False
        self._token = None
        if standing is self._made or (type(standing) is _Ours and standing.others is self._made.others):
            return True
        thread_local_overrides.set(self._without(standing))
        return False

    def drop(self) -> None:
        """Take them out of this context, whichever it is, and leave all others as they are."""
        thread_local_overrides.set(self._without(thread_local_overrides.get()))

    def _without(self, standing: Mapping[str, Any]) -> Any:
        rest = _ours(standing)
        for name in self._names:
            if name in self.before:
                rest[name] = self.before[name]
            else:
                rest.pop(name, None)
        return rest


class _Ours(dict[str, Any]):
    """Overrides that were set here; `others` are the last that anybody else has set."""

    __slots__ = ("others",)

    others: Mapping[str, Any]


def _ours(standing: Mapping[str, Any]) -> _Ours:
    ours = _Ours(standing)
    ours.others = standing.others if type(standing) is _Ours else standing
    return ours


def take_back(token: Token[Any]) -> bool:
    """Undo a change of the overrides; False where this is not its context."""
    try:
        thread_local_overrides.reset(token)
    except ValueError:  # a coroutine or generator that was closed from another context
        return False
    return True


overrides: Callable[[], Mapping[str, Any]] = thread_local_overrides.get
"""The setting overrides of this context, by name."""


def override(name: str) -> Any:
    """The value of a setting override in this context, None if there is none."""
    return overrides().get(name)


def set_override(name: str, value: Any) -> None:
    """Have a setting hold in this context as if `dspy.context` had set it: no end of a block of ours takes it back."""
    rest: Any = {**thread_local_overrides.get(), name: value}
    thread_local_overrides.set(rest)


def drop_override(name: str) -> None:
    """Take a setting override out of this context, whoever made it."""
    rest: Any = _ours(thread_local_overrides.get())
    rest.pop(name, None)
    thread_local_overrides.set(rest)


def overrides_named(prefix: str) -> Iterator[Any]:
    """The values of all setting overrides in this context whose names begin so, the latest first."""
    overrides = thread_local_overrides.get()
    return (overrides[name] for name in reversed(list(overrides)) if name.startswith(prefix))
