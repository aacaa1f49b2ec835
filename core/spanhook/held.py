"""What an object is and holds, read past every method of its class: none of the program's code runs for it.

A metaclass may have any `__eq__`, `__hash__` and `__getattribute__`. So classes are compared by identity, and read by
the descriptors of `type`.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

_mro: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_members: Callable[[type], Mapping[str, Any]] = type.__dict__["__dict__"].__get__
_module: Callable[[type], Any] = type.__dict__["__module__"].__get__
_qualname: Callable[[type], str] = type.__dict__["__qualname__"].__get__
_model_values: Callable[[Any], dict[str, Any]] = BaseModel.__dict__["__dict__"].__get__
_model_extra: Callable[[Any], Any] = BaseModel.__dict__["__pydantic_extra__"].__get__

_MODELS = type(BaseModel)
_MISSING = object()
_NOTHING: Mapping[str, Any] = {}
_PLAIN = frozenset({str, int, float, bool, type(None)})


def qualname(kind: type) -> str:
    """A class's name as it has it."""
    return _qualname(kind)


def class_name(kind: type) -> str:
    """`<package.Class>`."""
    try:
        module = _module(kind)
    except AttributeError:
        module = None
    return f"<{module if type(module) is str else '?'}.{_qualname(kind)}>"


def is_model(kind: type) -> bool:
    """Whether it is a class of pydantic's."""
    return type(kind) is _MODELS or (type(kind) is not type and any(one is BaseModel for one in _mro(kind)))


def own(value: Any) -> Mapping[str, Any]:
    """The attributes that an object itself has, by name."""
    for one in _mro(type(value)):
        slot = _members(one).get("__dict__")
        if type(slot) is types.GetSetDescriptorType or type(slot) is types.MemberDescriptorType:
            held = slot.__get__(value)
            return held if type(held) is dict else _NOTHING
    return _NOTHING


def attribute_of(value: Any, name: str) -> Any:
    """What an object has by this name, as far as none of the program's code has to run to know; else None.

    Its own, what a slot holds, what one of pydantic's has beside its fields, or a plain value that its class has.
    """
    if name in (found := own(value)):
        return found[name]
    if is_model(type(value)) and name in (extra := _extra(value) or _NOTHING):
        return extra[name]
    return None if (item := _of_class(value, name)) is _MISSING else item


def _of_class(value: Any, name: str) -> Any:
    found = _found(_mro(type(value)), name)
    if type(found) is types.MemberDescriptorType:
        try:
            return found.__get__(value)
        except AttributeError:  # it was never set
            return _MISSING
    return found if type(type(found)) is type and type(found) in _PLAIN else _MISSING


def model_fields(value: BaseModel, kind: type[BaseModel]) -> dict[str, Any]:
    """What the fields of a pydantic object hold, and what it has beside them."""
    held = _model_values(value)
    fields = {name: held[name] for name in type.__getattribute__(kind, "model_fields") if name in held}
    extra = _extra(value)
    return {**fields, **extra} if extra else fields


def _extra(value: BaseModel) -> dict[str, Any] | None:
    try:
        extra = _model_extra(value)
    except AttributeError:  # its constructor has not run
        return None
    return extra if type(extra) is dict else None


def dataclass_fields(value: Any) -> dict[str, Any] | None:
    """What the fields of a dataclass's object hold, as far as no code has to run to know; None for any other object."""
    classes = _mro(type(value))
    fields = _found(classes, "__dataclass_fields__")
    if type(fields) is not dict:
        return None
    held, found = own(value), {}
    for name in fields:
        item = held[name] if name in held else _of_class(value, name)
        if item is not _MISSING:
            found[name] = item
    return found


def _found(classes: tuple[type, ...], name: str) -> Any:
    for one in classes:
        members = _members(one)
        if name in members:
            return members[name]
    return _MISSING
