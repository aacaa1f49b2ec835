"""Checking that an object is a usable plugin, with pluggy's specification, and taking its hooks out of it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pluggy

from spanhook.config.names import did_you_mean
from spanhook.errors import PluginError
from spanhook.guard import attempt, describe
from spanhook.hookspecs import BACKEND_HOOKS, EXTRACTOR_HOOKS, PROJECT, HookSpecs
from spanhook.plugins.discovery import PluginKind
from spanhook.span import KINDS

Hook = Callable[..., Any]
_OF_SPANS = ("span_start", "span_end")


@dataclass(slots=True, frozen=True)
class Plugin:
    """A plugin that was checked; `hooks` has a function for each hook that it implements, of all arguments in order."""

    name: str
    kind: PluginKind
    instance: Any
    hooks: Mapping[str, Hook]
    span_kinds: frozenset[str]  # for which span_start and span_end are called
    deferred_kinds: frozenset[str]  # for which span_end may be called later, on another thread
    sees_span: bool  # whether span_end takes the span
    only_ids: bool  # whether its span_start and span_end look at a span's ids alone, and find nothing
    secrets: frozenset[str] = field(
        default=frozenset(), repr=False
    )  # those among its options: what it raises may repeat them

    @property
    def label(self) -> str:
        """`backend opik`: how messages and counts name it."""
        return f"{self.kind} {self.name}"


def register(kind: PluginKind | None, name: str, instance: Any) -> Plugin:
    """Check `instance` and take its hook implementations out of it.

    pluggy does what it is good at: the specification and its validation. Calling the hooks is ours: pluggy stops at the
    first plugin that raises and calls the last one first.

    Args:
        kind: None for an object whose hooks have to tell: a backend as soon as it implements one that only they have.
        name: its name in the configuration.
        instance: the plugin.

    Raises:
        PluginError: it is a class; a hook in it is misspelt, async, a generator, a wrapper, or has an unknown argument
            or one that could not be passed; it implements no hook, or one for the other kind of plugin.
    """
    label = f"{kind or 'plugin'} {name!r}"
    if inspect.isclass(instance):
        raise PluginError(f"{label}: {instance.__qualname__} is a class; give an instance of it")
    # A manager for each plugin: one for all would compare the plugins, and put their reprs into its messages.
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)

    def let_pluggy_check() -> None:  # it reads every attribute of the plugin, properties too
        manager.register(instance, name)
        manager.check_pending()

    _, error = attempt(let_pluggy_check)
    if error is not None:
        raise PluginError(f"{label}: {_explain(error)}") from error
    try:
        implementations = {c.name: c.get_hookimpls()[0] for c in manager.get_hookcallers(instance) or []}
        hooks = {hook: _callable(hook, impl) for hook, impl in implementations.items() if hook in BACKEND_HOOKS}
        _check_marks(instance, hooks)
        kind = kind or ("backend" if hooks.keys() - EXTRACTOR_HOOKS else "extractor")
        _check_kind(kind, hooks)
        only_ids = _only_ids(instance, [c for hook, c in implementations.items() if hook in _OF_SPANS])
        kinds, deferred = _kinds(instance, "span_kinds", KINDS), _kinds(instance, "deferred_kinds", ())
    except PluginError as problem:
        raise PluginError(f"{label}: {problem}") from None
    sees_span = "span_end" in hooks and "span" in implementations["span_end"].argnames
    return Plugin(name, kind, instance, hooks, kinds, deferred, sees_span, only_ids)


def _only_ids(instance: Any, of_spans: Collection[pluggy.HookImpl]) -> bool:
    only_ids = getattr(instance, "only_ids", False)
    if not isinstance(only_ids, bool):
        raise PluginError("only_ids must be True or False")
    if only_ids and any("call" in implementation.argnames for implementation in of_spans):
        raise PluginError("only_ids = True: span_start and span_end get no call then; remove the argument, or only_ids")
    return only_ids


def _kinds(instance: Any, attribute: str, default: Collection[str]) -> frozenset[str]:
    kinds = getattr(instance, attribute, default)
    if isinstance(kinds, str) or not (isinstance(kinds, Collection) and all(kind in KINDS for kind in kinds)):
        raise PluginError(f"{attribute} must be a tuple or set of these: {', '.join(KINDS)}")
    return frozenset(kinds)


def _callable(hook: str, impl: pluggy.HookImpl) -> Hook:
    """`impl` as a function of all the hook's arguments, whichever of them it takes."""
    function = impl.function
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PluginError(f"{hook} is async; hooks are plain functions (run your own loop if you need one)")
    if impl.wrapper or impl.hookwrapper:
        raise PluginError(f"{hook} is a wrapper; plugins are called one by one, there is nothing to wrap")
    if inspect.isgeneratorfunction(function):
        raise PluginError(f"{hook} is a generator, which calling it would not run; return instead of yield")
    specified = _arguments(hook)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is not parameter.empty:
            raise PluginError(
                f"{hook} has an argument with a default, {name}: it would never be passed; remove the default"
            )
        if name not in impl.argnames:  # keyword-only, *args or **kwargs
            kind = parameter.kind.description
            raise PluginError(f"{hook} has a {kind} argument, {name}: it gets plain ones, of {', '.join(specified)}")
    wanted = tuple(impl.argnames)
    if wanted == specified:
        return function
    positions = [specified.index(name) for name in wanted]
    if len(positions) == 1:
        (position,) = positions
        return lambda *arguments: function(arguments[position])

    def call(*arguments: Any) -> Any:
        return function(*(arguments[position] for position in positions))

    return call


def _arguments(hook: str) -> tuple[str, ...]:
    return tuple(inspect.signature(getattr(HookSpecs, hook)).parameters)[1:]


def _check_marks(instance: Any, hooks: Mapping[str, Hook]) -> None:
    """A method with a hook's name that isn't one is a mark forgotten: what it should get would be lost."""
    own = {*vars(type(instance)), *getattr(instance, "__dict__", ())} if hooks else ()
    if forgotten := sorted((BACKEND_HOOKS - hooks.keys()) & set(own)):
        raise PluginError(f"{', '.join(forgotten)}: not marked; put @spanhook.hookimpl above it")


def _check_kind(kind: PluginKind, hooks: Mapping[str, Hook]) -> None:
    if not hooks:
        raise PluginError("implements no hook; mark its methods with @spanhook.hookimpl")
    if kind == "extractor" and (strangers := sorted(hooks.keys() - EXTRACTOR_HOOKS)):
        raise PluginError(f"implements {', '.join(strangers)}, which extractors don't have; make it a backend")
    if kind == "backend" and not hooks.keys() & {"emit", "identify", "track_signal"}:
        more = "; with span_end it would be an extractor" if "span_end" in hooks else ""
        raise PluginError(f"implements no emit, identify or track_signal, so it would get nothing{more}")


def _explain(error: Exception) -> str:
    text = " ".join(str(error).split())
    if found := re.search(r"unknown hook '(\w+)'", text):
        return f"{found[1]!r} is no hook{did_you_mean(found[1], BACKEND_HOOKS)}"
    if found := re.search(r"hook '(\w+)'.*definition: \S+?(\(.*?\)) Argument", text):
        known = ", ".join(_arguments(found[1]))
        return f"{found[1]}{found[2]} asks for arguments that the hook doesn't have; it has {known}"
    return describe(error)
