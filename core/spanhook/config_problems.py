"""What is said of a wrong configuration: a line for each problem, with its place, and without a secret."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

MIN_SECRET_CHARS = 4


def problem_lines(
    error: ValidationError,
    model: type[BaseModel],
    where: Any,
    prefix: tuple[str, ...] = (),
    *,
    hidden: Any = None,
    told: Sequence[str] = (),
) -> Iterator[str]:
    """One line for each error that pydantic found, with the nearest known name for an unknown one.

    The values in `hidden` are taken out of what a plugin's own validators say. Of a place that is among the lines
    `told` nothing more is said: an unset variable has no right type either.
    """
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        keys = item["loc"]
        place = where(*prefix, *keys)
        if any(line.startswith(f"{place}: ") for line in told):
            continue
        if item["type"] == "extra_forbidden":
            known = _known_names(model, keys[:-1])
            what = "unknown section" if not prefix and len(keys) == 1 else "unknown option"
            yield f"{place}: {what}{did_you_mean(str(keys[-1]), known)}"
        elif item["type"] == "missing":
            yield f"{place}: required, but not set"
        elif item["type"] in ("model_type", "dict_type"):
            yield f"{place}: must be a table"
        elif item["type"] == "too_short":
            yield f"{place}: must not be empty"
        else:
            yield f"{place}: {item['msg'][:1].lower()}{without_values(item['msg'][1:], hidden)}"


def without_values(text: str, options: Any) -> str:
    """`text` with `…` in place of every text in `options`, of which each may be a secret."""
    if isinstance(options, str):
        return text.replace(options, "…") if len(options) >= MIN_SECRET_CHARS else text
    below = options.values() if isinstance(options, Mapping) else options if isinstance(options, (list, tuple)) else ()
    for value in below:
        text = without_values(text, value)
    return text


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or ` (known: …)` when nothing is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (known: {', '.join(names)})" if names else ""


def _known_names(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    for key in path:
        annotation = model.model_fields[key].annotation if key in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return [info.alias or name for name, info in model.model_fields.items()]
