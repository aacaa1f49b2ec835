"""The names that a configuration may have in it, and the nearest one to a name that it may not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AliasChoices, AliasPath, BaseModel, RootModel

from spanhook.config.settings import Sections

# Above what "project" and "redact" have in common, below "trace" and "tracing".
_NEAR = 0.65


def nearest(name: str, known: Iterable[str]) -> str:
    """The one that `name` is probably meant to be; empty when none is near."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=_NEAR)), "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or ` (known: …)` when nothing is near."""
    names = sorted(set(known))
    if near := nearest(name, names):
        return f" (did you mean {near!r}?)"
    return f" (known: {', '.join(names)})" if names else ""


def known_names(model: type[BaseModel], path: Sequence[str | int] = ()) -> list[str]:
    """The options of the model that stands at `path` in `model`; none where something else stands there."""
    kind: Any = model
    for key in path:
        above = _model_of(kind)
        kind = _item_of(kind) if above is None else _options(above).get(str(key))
    found = _model_of(kind)
    return [] if found is None else list(_options(found))


def ignored_keys(
    kind: Any, value: Any, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], list[str]]]:
    """Where in `value`, which is for a field of type `kind`, pydantic would pass over a key without a word.

    With each place the names that the model there has. A model that isn't told what to do with such keys does that, and
    one in a model that forbids them, too.
    """
    if isinstance(value, Mapping) and (model := _model_of(kind)) is not None:
        options = _options(model)
        for key, below in value.items():
            if key in options:
                yield from ignored_keys(options[key], below, (*path, key))
            elif model.model_config.get("extra", "ignore") == "ignore":
                yield (*path, key), list(options)
        return
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield from ignored_keys(_item_of(kind), below, (*path, key))


def _options(model: type[BaseModel]) -> dict[str, Any]:
    """The types of a model's options, by each name that it takes one by."""
    by_name = model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name")
    options: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        given = info.validation_alias
        for alias in given.choices if isinstance(given, AliasChoices) else [given]:
            if isinstance(alias, AliasPath):  # a part of what stands there
                options[str(alias.path[0])] = Any
            elif alias is not None:
                options[alias] = info.annotation
        if given is None or by_name:
            options[name] = info.annotation
    return options


def _model_of(kind: Any) -> type[BaseModel] | None:
    """The model that a table for a field of this type is for; None where there is none, or a choice."""
    parts = [part for part in _parts(kind) if part not in (NoneType, str, int, float, bool)]
    only = parts[0] if len(parts) == 1 else None
    is_model = isinstance(only, type) and issubclass(only, BaseModel) and not issubclass(only, RootModel)
    return only if is_model else None


def _item_of(kind: Any) -> Any:
    """The type of the items of a list or table of this type; None where it has none, or several."""
    parts = [get_args(part) for part in _parts(kind) if part is not NoneType]
    inside = [part for part in parts[0] if part is not ...] if len(parts) == 1 else []
    return inside[-1] if inside and not (get_origin(kind) is tuple and len(inside) > 1) else None


def _parts(kind: Any) -> list[Any]:
    """The types that a value of this type may have: those of a union."""
    if get_origin(kind) is Annotated:
        return _parts(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [part for one in get_args(kind) for part in _parts(one)]
    return [kind]


def sections_with(option: str) -> list[str]:
    """The sections that have an option of this name; those of plugins are not looked into."""
    return [section for section in Sections.model_fields if option in known_names(Sections, (section,))]


def at(tree: object, keys: Sequence[str | int]) -> object:
    """What stands at `keys` in tables within tables; None where nothing does."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
