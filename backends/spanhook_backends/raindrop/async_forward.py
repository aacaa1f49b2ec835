"""Modules whose `forward` is a coroutine function, for `drop_in`.

DSPy's callbacks see such a call end when it has made its coroutine: nobody tells them of the result. raindrop-dspy puts
its own `forward` on the instance, and for these modules, and no others, so does `drop_in`: in a way that survives
copying and saving the program.
"""

from __future__ import annotations

import inspect
import types
import weakref
from collections.abc import Callable
from typing import Any

import dspy

from spanhook import Tracer

EventId = str | Callable[[], str] | None

# Not on the instance: a tracer can't be saved with the program.
_wrapped: weakref.WeakKeyDictionary[Any, tuple[Tracer, EventId]] = weakref.WeakKeyDictionary()


def has_async_forward(module: Any) -> bool:
    """Whether calling the module gives a coroutine."""
    return inspect.iscoroutinefunction(getattr(type(module), "forward", None))


def is_wrapped(module: Any) -> bool:
    """Whether `wrap` was called with this module."""
    return has_async_forward(module) and module in _wrapped


def wrap(module: Any, tracer: Tracer, event_id: EventId) -> None:
    """Make each awaited call of this module an interaction."""
    _wrapped[module] = (tracer, event_id)
    module.forward = types.MethodType(_forward, module)


async def _forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    forward = type(self).forward
    if self not in _wrapped:  # a copy
        return await forward(self, *args, **kwargs)
    tracer, event_id = _wrapped[self]
    callbacks = [*(dspy.settings.get("callbacks") or ()), tracer.callback]
    with dspy.context(callbacks=callbacks), tracer.interaction(event_id=event_id) as interaction:
        interaction.inputs = dict(enumerate(args)) | kwargs
        interaction.outputs = result = await forward(self, *args, **kwargs)
        return result
