"""The names that a configuration may have in it, and the nearest one to a name that it may not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel

from spanhook.config.settings import Sections

# Above what "project" and "redact" have in common, below "trace" and "tracing".
_NEAR = 0.65


def nearest(name: str, known: Iterable[str]) -> str:
    """The one that `name` is probably meant to be; empty when none is near."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=_NEAR)), "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or ` (known: …)` when nothing is near."""
    names = sorted(known)
    if near := nearest(name, names):
        return f" (did you mean {near!r}?)"
    return f" (known: {', '.join(names)})" if names else ""


def known_names(model: type[BaseModel], path: Sequence[str | int] = ()) -> list[str]:
    """The options of the model that stands at `path` in `model`; none where something else stands there."""
    for key in path:
        annotation = model.model_fields[key].annotation if key in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return [info.alias or name for name, info in model.model_fields.items()]


def sections_with(option: str) -> list[str]:
    """The sections that have an option of this name; those of plugins are not looked into."""
    return [section for section in Sections.model_fields if option in known_names(Sections, (section,))]


def at(tree: object, keys: Sequence[str | int]) -> object:
    """What stands at `keys` in tables within tables; None where nothing does."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
