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

from spanhook import dspy_compat, held
from spanhook.guard import attempt, probe
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

    Raises:
        Exception: what code of the program's raises, of a demo's value for example; never an exit.
    """
    known = _known.get(id(predictor))
    if known is not None and known.predictor() is predictor and known.holds(signature, demos):
        return known.version
    if not dspy_compat.is_predictor(predictor):
        return None
    version, error = probe(_version, predictor, signature, demos)
    if error is not None:
        raise (
            error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__} in the program's own code")
        )
    return version


def _version(predictor: Any, signature: Any, demos: Any) -> str:
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
        if type(demos) is list and not demos:
            return not self._demos
        # By value: quicker than to look for each value's identity.
        return len(demos) == len(self._demos) and all(map(_is_still, demos, self._demos))


_known: dict[int, _Known] = {}


def _copied(demo: Any) -> dict[str, Any]:
    """A demo's fields as they are now.

    Raises:
        TypeError: a value is no plain data, so nobody can say cheaply whether it will have changed.
    """
    copied = _fields(demo)
    if copied is None or not _is_plain(copied):
        raise TypeError(type(demo))
    return copy.deepcopy(copied)


def _is_still(demo: Any, then: dict[str, Any]) -> bool:
    """Whether a demo is as it was; values of the program's classes may have any `__eq__`, and are not asked."""
    fields = _fields(demo)
    if fields is None:
        return False
    for value in fields.values():
        if type(value) is not str and not _is_plain(value):
            return False
    return fields == then


def _fields(demo: Any) -> dict[str, Any] | None:
    """The fields of a demo, past its methods; None if it is neither a dict nor one of DSPy's records."""
    fields = demo if type(demo) is dict else held.own(demo).get("_store")
    return fields if type(fields) is dict else None


def _is_plain(value: Any) -> bool:
    """Whether it is equal to a copy of it exactly as long as nothing in it has changed, and no strange code says so."""
    kind: Any = type(value)
    if kind is dict:
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    if kind is list or kind is tuple:
        return all(map(_is_plain, value))
    if type(kind) is type:  # a metaclass may have a hash of its own
        return kind in _ATOMS
    if held.is_model(kind):  # an image, say
        return kind.__eq__ is BaseModel.__eq__ and _is_plain(held.model_fields(value, kind))
    return False


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
