"""Checking that an object is a usable plugin, with pluggy's specification, and taking its hooks out of it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pluggy

from spanhook.config_files import did_you_mean
from spanhook.errors import PluginError
from spanhook.hookspecs import BACKEND_HOOKS, EXTRACTOR_HOOKS, PROJECT, HookSpecs
from spanhook.plugins.discovery import PluginKind

Hook = Callable[..., Any]

_HOOKS: dict[PluginKind, frozenset[str]] = {"extractor": EXTRACTOR_HOOKS, "backend": BACKEND_HOOKS}


@dataclass(slots=True, frozen=True)
class Plugin:
    """A plugin that was checked. `hooks` has a function for each hook that it implements, taking all arguments in order."""

    name: str
    kind: PluginKind
    instance: Any
    hooks: Mapping[str, Hook]

    @property
    def label(self) -> str:
        """`backend opik`: how messages and counts name it."""
        return f"{self.kind} {self.name}"


class PluginManager:
    """pluggy for what it is good at: the specification, its validation, and each plugin's implementations.

    Calling them is ours: pluggy stops at the first plugin that raises and calls the last one first.
    """

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(HookSpecs)

    def register(self, kind: PluginKind, name: str, instance: Any) -> Plugin:
        """Check `instance` and take its hook implementations.

        Raises:
            PluginError: it is a class; a hook in it is misspelt, async, a wrapper, or has an unknown argument or one
                with a default; it implements no hook, or one for the other kind of plugin.
        """
        if inspect.isclass(instance):
            raise PluginError(f"{kind} {name!r}: {instance.__qualname__} is a class; give an instance of it")
        try:
            self._manager.register(instance, name=f"{kind} {name}")
            self._manager.check_pending()
            hooks = {hook: _callable(impl) for hook, impl in self._implementations(instance).items()}
            _check_kind(kind, hooks)
        except (pluggy.PluginValidationError, ValueError, PluginError) as error:
            if self._manager.is_registered(instance):
                self._manager.unregister(instance)
            raise PluginError(f"{kind} {name!r}: {_explain(error)}") from error
        return Plugin(name, kind, instance, hooks)

    def _implementations(self, instance: Any) -> dict[str, pluggy.HookImpl]:
        callers = self._manager.get_hookcallers(instance) or []
        return {c.name: impl for c in callers for impl in c.get_hookimpls() if impl.plugin is instance}


def kind_of(instance: Any) -> PluginKind:
    """The kind of a plugin that was given as an object: a backend as soon as it implements a hook that only they have."""
    names = BACKEND_HOOKS - EXTRACTOR_HOOKS
    marked = (name for name in names if hasattr(getattr(instance, name, None), f"{PROJECT}_impl"))
    return "backend" if any(marked) else "extractor"


def _callable(impl: pluggy.HookImpl) -> Hook:
    """`impl` as a function of all the hook's arguments, whichever of them it takes."""
    if inspect.iscoroutinefunction(impl.function):
        raise PluginError(f"{_name(impl)} is async; hooks are plain functions (run your own loop if you need one)")
    if impl.wrapper or impl.hookwrapper:
        raise PluginError(f"{_name(impl)} is a wrapper; plugins are called one by one, there is nothing to wrap")
    if impl.kwargnames:
        raise PluginError(
            f"{_name(impl)} has an argument with a default, {impl.kwargnames[0]}: it would never be passed; "
            "remove the default"
        )
    wanted = tuple(impl.argnames)
    specified = tuple(inspect.signature(getattr(HookSpecs, _name(impl))).parameters)[1:]
    if wanted == specified:
        return impl.function
    positions = [specified.index(name) for name in wanted]

    def call(*arguments: Any) -> Any:
        return impl.function(*(arguments[position] for position in positions))

    return call


def _name(impl: pluggy.HookImpl) -> str:
    return str(getattr(impl.function, "__name__", impl.function))


def _check_kind(kind: PluginKind, hooks: Mapping[str, Hook]) -> None:
    if not hooks:
        raise PluginError("implements no hook; mark its methods with @spanhook.hookimpl")
    if strangers := sorted(set(hooks) - _HOOKS[kind]):
        other = "backend" if kind == "extractor" else "extractor"
        raise PluginError(
            f"implements {', '.join(strangers)}, for {other}s only; make it a {other}, in a group of its own"
        )


def _explain(error: Exception) -> str:
    text = " ".join(str(error).split())
    if found := re.search(r"unknown hook '(\w+)'", text):
        return f"{found[1]!r} is no hook{did_you_mean(found[1], EXTRACTOR_HOOKS | BACKEND_HOOKS)}"
    if found := re.search(r"hook '(\w+)'.*hookimpl definition: \w+\((.*?)\)", text):
        specified = list(inspect.signature(getattr(HookSpecs, found[1])).parameters)[1:]
        return f"{found[1]}({found[2]}) asks for arguments that the hook doesn't have; it has {', '.join(specified)}"
    return text
