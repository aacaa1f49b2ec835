"""Which hooks are called for the spans of one kind, and when."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spanhook.span import Kind

if TYPE_CHECKING:
    from spanhook.plugins.registration import Plugin

Hook = tuple[str, str, Callable[..., Any]]  # where, in messages; the plugin's name; the function


class SpanHooks:
    """`span_start` and `span_end` of all plugins, for the spans of one kind."""

    def __init__(self, kind: Kind, plugins: list[Plugin]) -> None:
        told = [plugin for plugin in plugins if plugin.only_ids]
        seeing = [plugin for plugin in plugins if not plugin.only_ids]
        asked = sorted(seeing, key=lambda plugin: plugin.kind == "backend")  # extractors know better
        self.start = _hooks("span_start", kind, seeing)
        self.end = _hooks("span_end", kind, asked)
        # May be called after the call: those at the end of the list, so that no later one misses facts of theirs.
        ending = [p for p in asked if "span_end" in p.hooks and kind in p.span_kinds]
        deferrable = itertools.takewhile(lambda p: kind in p.deferred_kinds, reversed(ending))
        self.later = _hooks("span_end", kind, list(deferrable)[::-1])
        self.at_once = [hook for hook in self.end if hook not in self.later]
        # Making a span takes time: where nobody looks at it, it is left to the intake thread.
        self.sees_span = any(p.sees_span for p in ending)
        self.told_start = _hooks("span_start", kind, told)
        self.told_end = _hooks("span_end", kind, told)


def _hooks(hook: str, kind: Kind, plugins: list[Plugin]) -> list[Hook]:
    return [(f"{p.label}: {hook}", p.name, p.hooks[hook]) for p in plugins if hook in p.hooks and kind in p.span_kinds]
