"""Which prompt a predictor has: a short hash of its signature, instructions and demos, the same in every process."""

from __future__ import annotations

import copy
import enum
import hashlib
import json
import sys
import types
import weakref
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from spanhook import dspy_compat
from spanhook.guard import attempt
from spanhook.snapshot import snapshot, trim

HEX_DIGITS = 12

_ATOMS = frozenset({str, int, float, bool, type(None)})
_UNIONS = (Union, getattr(types, "UnionType", Union))


def prompt_version(predictor: Any, signature: Any, demos: Any) -> str | None:
    """The version of the prompt that a `dspy.Predict` is about to send; None for any other module.

    On the call's thread, so it is remembered for as long as nothing has changed.

    Args:
        predictor: the module that is called.
        signature: what it has for this call, a class or DSPy's text of one.
        demos: what it has for this call.
    """
    known = _known.get(id(predictor))
    if known is not None and known.predictor() is predictor and known.holds(signature, demos):
        return known.version
    if not dspy_compat.is_predictor(predictor):
        return None
    signature = dspy_compat.signature_class(signature)
    version = _hash(signature, demos)
    made, _ = attempt(lambda: _Known(predictor, signature, demos, version))
    if made is not None:
        _known[id(predictor)] = made
    return version


class _Known:
    """A version, with what it was made of, to see whether that is still so."""

    __slots__ = ("_demos", "_doc", "_fields", "_signature", "predictor", "version")

    def __init__(self, predictor: Any, signature: Any, demos: Any, version: str) -> None:
        key = id(predictor)
        self.predictor = weakref.ref(predictor, lambda _: _known.pop(key, None))
        self.version = version
        self._signature = signature
        self._doc = signature.__doc__
        self._fields = [(extra, dict(extra)) for _, _, extra in dspy_compat.signature_fields(signature)]
        self._demos = [_copied(demo) for demo in demos]

    def holds(self, signature: Any, demos: Any) -> bool:
        if signature is not self._signature or signature.__doc__ is not self._doc:
            return False
        for now, then in self._fields:
            if now != then:
                return False
        return bool(demos == self._demos)  # by value: quicker than to look for each value's identity


_known: dict[int, _Known] = {}


def _copied(demo: Any) -> Any:
    """A demo as it is now.

    Raises:
        TypeError: a value is no plain data, so nobody can say cheaply whether it will have changed.
    """
    copied = demo.copy()
    for name, value in copied.items():
        if type(value) not in _ATOMS:
            if not _is_plain(value):
                raise TypeError(name)
            copied[name] = copy.deepcopy(value)
    return copied


def _is_plain(value: Any) -> bool:
    """Whether it is equal to a copy of it exactly as long as nothing in it has changed."""
    if isinstance(value, BaseModel):  # an image, say
        return type(value).__eq__ is BaseModel.__eq__ and _is_plain(dict(value))
    if type(value) is dict:
        return all(type(key) in _ATOMS and _is_plain(item) for key, item in value.items())
    return type(value) in _ATOMS or (type(value) in (list, tuple) and all(map(_is_plain, value)))


def _hash(signature: Any, demos: Any) -> str:
    prompt = {
        "instructions": signature.instructions,
        "fields": [
            [name, *(extra.get(key) for key in ("__dspy_field_type", "desc", "prefix", "constraints")), type_text(kind)]
            for name, kind, extra in dspy_compat.signature_fields(signature)
        ],
        "demos": list(demos),
    }
    plain = trim(snapshot(prompt, (_in_order, dspy_compat.plain_form)), sys.maxsize)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:HEX_DIGITS]


def _in_order(value: Any) -> Any:
    """A set's items in an order that is the same in every process."""
    if isinstance(value, (set, frozenset)):
        return sorted((snapshot(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return None


def type_text(kind: Any, seen: tuple[Any, ...] = ()) -> str:
    """A type as text, the same on every version of Python; pydantic's models and enums with what is in them."""
    if kind is None or kind is type(None):
        return "None"
    if kind is Any:
        return "Any"
    if isinstance(kind, (list, tuple)):  # the arguments of a Callable
        return f"[{', '.join(type_text(one, seen) for one in kind)}]"
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return type_text(arguments[0], seen)
    if origin in _UNIONS:
        return " | ".join(type_text(one, seen) for one in arguments)
    if origin is Literal:
        return f"Literal[{', '.join(str(one) if isinstance(one, enum.Enum) else repr(one) for one in arguments)}]"
    if origin is not None:
        return f"{type_text(origin, seen)}[{', '.join(type_text(one, seen) for one in arguments)}]"
    if not isinstance(kind, type):
        return str(kind)
    if kind in seen:
        return kind.__qualname__
    if issubclass(kind, BaseModel):
        fields = (
            f"{name}: {type_text(field.annotation, (*seen, kind))} {field.description or ''}".rstrip()
            for name, field in kind.model_fields.items()
        )
        return f"{kind.__qualname__}({', '.join(fields)})"
    if issubclass(kind, enum.Enum):
        return f"{kind.__qualname__}({', '.join(f'{name}={one.value!r}' for name, one in kind.__members__.items())})"
    return kind.__qualname__
