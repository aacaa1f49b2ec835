"""Keeping the secrets among a plugin's options out of what the plugin says of them."""

from __future__ import annotations

import datetime
import enum
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from spanhook.redaction.names import is_secret_name
from spanhook.redaction.patterns import redacted

_PLAIN = (str, int, float, bool, NoneType, Path, datetime.datetime, datetime.date, datetime.timedelta, enum.Enum)
_CONTAINERS = (list, tuple, set, frozenset, dict, Mapping, Sequence, Collection, Union, UnionType, Annotated)
# What may be a key that somebody put where none belongs; no word, path or address.
_RANDOM = re.compile(r"(?=[\w+=-]*[0-9])(?=[\w+=-]*[A-Za-z])[\w+=-]{8,}")
_ANYWHERE_CHARS = 4  # shorter ones are taken out as whole words: one letter is in every sentence


def secrets_in(options: Any, model: type[BaseModel] | None = None) -> frozenset[str]:
    """The texts in a plugin's options that are secrets, or may be.

    That is what stands under a field with `SecretStr` or the like in its type, under a type that we don't know, under
    a name that tells, or under one that is no field; the values of `SecretStr` objects, wherever they are; and of all
    other texts the parts that look random.
    """
    return frozenset(text for text in _texts(options, model, is_secret=False) if text.strip())


def marked_secrets(options: Any) -> frozenset[str]:
    """Those of them that are secrets for certain: the values of `SecretStr` objects, and what a name tells of."""
    return frozenset(text for text in _texts(options, None, is_secret=False, guess=False) if text.strip())


def hide(text: str, secrets: Collection[str]) -> str:
    """`text` with `…` in place of every secret, and a mark where one can be told by its look."""
    forms = {form for secret in secrets for form in (secret, secret.strip(), repr(secret)[1:-1], _one_line(secret))}
    if forms:  # the longest first: a shorter one may be a part of it
        text = re.sub("|".join(map(_pattern, sorted(forms, key=len, reverse=True))), "…", text, flags=re.IGNORECASE)
    return redacted(text)


def hiding(*secrets: Collection[str]) -> Callable[[str], str]:
    """A function that does this with all of these; where there are none, with nothing to do."""
    all_of_them = frozenset().union(*secrets)
    return partial(hide, secrets=all_of_them) if all_of_them else str


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _pattern(form: str) -> str:
    return re.escape(form) if len(form) >= _ANYWHERE_CHARS else rf"(?<!\w){re.escape(form)}(?!\w)"


def _texts(value: Any, model: type[BaseModel] | None, *, is_secret: bool, guess: bool = True) -> Iterator[str]:
    if hasattr(value, "get_secret_value"):
        yield from _texts(value.get_secret_value(), None, is_secret=True)
    elif isinstance(value, BaseModel):
        yield from _texts(dict(value), type(value) if guess else None, is_secret=is_secret, guess=guess)
    elif isinstance(value, Mapping):
        types = _types(model) if model is not None else {}
        for key, below in value.items():
            telling = is_secret_name(str(key)) or not (model is None or (key in types and _is_plain(types[key])))
            yield from _texts(below, None, is_secret=is_secret or telling, guess=guess)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for below in value:
            yield from _texts(below, None, is_secret=is_secret, guess=guess)
    elif is_secret and value is not None and not isinstance(value, bool):
        yield value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    elif guess and isinstance(value, str):
        yield from _RANDOM.findall(value)


def _types(model: type[BaseModel]) -> dict[str, Any]:
    fields = model.model_fields.items()
    return {name: info.annotation for name, info in fields} | {i.alias: i.annotation for _, i in fields if i.alias}


def _is_plain(annotation: Any, above: tuple[Any, ...] = ()) -> bool:
    """Whether nothing that this type stands for is marked as a secret. `above`: the models that it is a part of."""
    origin = get_origin(annotation)
    if origin in _CONTAINERS:
        parts = get_args(annotation)[:1] if origin is Annotated else get_args(annotation)
        return all(part is ... or _is_plain(part, above) for part in parts)
    if annotation is Any or origin is Literal or annotation in _CONTAINERS:
        return True
    if not isinstance(annotation, type):
        return annotation is None
    if issubclass(annotation, BaseModel):
        inside = (*above, annotation)
        return annotation in above or all(_is_plain(part, inside) for part in _types(annotation).values())
    return issubclass(annotation, _PLAIN)
