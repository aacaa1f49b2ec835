"""What is said of a wrong configuration: a line for each problem, with its place, in plain words, without a secret."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from spanhook.config.environment import variable_at, variable_for
from spanhook.config.names import at, did_you_mean, known_names, sections_with
from spanhook.config.secrets import hide
from spanhook.config.settings import ENV_PREFIX, Sections

FILE_NAME = "tracing.toml"
DEFAULTS = "defaults"
IN_PYPROJECT = "[tool.spanhook]"

LISTS = ("list_type", "tuple_type", "set_type", "frozen_set_type")
TABLES = ("dict_type", "mapping_type", "model_type", "model_attributes_type", "dataclass_type")
# pydantic's errors in our words. What else it says stays as it is, but for its "Input should be".
_WORDS = {
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(LISTS, "must be a list"),
    **dict.fromkeys(TABLES, "must be a table"),
    "string_type": "must be a text",
    "finite_number": "must be a finite number",
}


@dataclass(slots=True, frozen=True)
class Places:
    """Where the values of a configuration were given: what messages call them."""

    origin: str  # the file, `configure()` or `defaults`
    given: Mapping[str, Any] = field(default_factory=dict, repr=False)  # by the file, or by code
    environment: Mapping[str, Any] = field(default_factory=dict, repr=False)  # as far as it counts

    def of(self, *keys: str | int) -> str:
        """`tracing.toml: tracing.backends`, or the environment variable that gave this value or something in it."""
        node: Any = self.environment
        for key in keys:
            if not isinstance(node, Mapping):  # a list, whose items have no variable of their own
                break
            if key not in node:
                return f"{self.origin}: {_dotted(keys)}"
            node = node[key]
        if isinstance(node, Mapping) and isinstance(at(self.given, keys), Mapping):  # it has something of both
            return f"{self.origin}: {_dotted(keys)}"
        return variable_at(keys)

    def required(self, *keys: str | int) -> str:
        """A line for what has to be given and is not."""
        if self.origin == DEFAULTS:
            return f"{_dotted(keys)}: required (in {FILE_NAME}, or {variable_for(keys)})"
        return f"{self.origin}: {_dotted(keys)}: required (here, or {variable_for(keys)})"

    def header(self, section: str) -> str:
        """How the section is written there: `[tracing]`, `[tool.spanhook.tracing]`."""
        return f"[tool.spanhook.{section}]" if self.origin.endswith(IN_PYPROJECT) else f"[{section}]"


def problem_lines(
    error: ValidationError,
    model: type[BaseModel],
    places: Places,
    prefix: tuple[str, ...] = (),
    *,
    secrets: Collection[str] = (),
    told: Sequence[str] = (),
) -> Iterator[str]:
    """One line for each error that pydantic found, with the nearest known name for an unknown one.

    Args:
        error: what pydantic found.
        model: what it compared with.
        places: where the values stand.
        prefix: where `model` stands in the configuration; nothing for the whole of it.
        secrets: what must not be in a line.
        told: lines of before. Of a place that is among them nothing more is said: an unset variable has no right type.
    """
    for item in error.errors(include_url=False, include_input=False):
        below = item["loc"]
        place = places.of(*prefix, *below)
        if any(line.startswith(f"{place}: ") for line in told):
            continue
        if item["type"] == "missing":
            yield places.required(*prefix, *below)
        elif item["type"] == "extra_forbidden":
            known = known_names(model, below[:-1])
            what = "" if prefix else _misplaced(below, place, places)
            yield f"{place}: {what or 'unknown option' + did_you_mean(str(below[-1]), known)}"
        elif item["type"] in TABLES and below in (("backends",), ("extractors",)) and not prefix:
            section = places.header(f"{below[0]}.NAME")
            yield f"{place}: the list belongs into {places.header('tracing')}; {section} has the options of one"
        elif item["type"] in TABLES and place.startswith(ENV_PREFIX):
            yield f"{place}: must be a table (as JSON, or with a variable {place}__… for each value)"
        else:
            yield f"{place}: {hide(_said(item), secrets)}"


def _misplaced(keys: Sequence[str | int], place: str, places: Places) -> str:
    """What to say of an unknown section, or of an option that another section has; else nothing."""
    name = str(keys[-1])
    owners = sections_with(name) if len(keys) <= 2 else ()
    if owners and place.startswith(ENV_PREFIX):
        return f"unknown option (did you mean {variable_for((owners[0], name))}?)"
    if owners:
        return f"belongs into {' or '.join(map(places.header, owners))}"
    if len(keys) > 1:
        return ""
    if name == "tool" and isinstance(at(places.given, ("tool", "spanhook")), Mapping):
        return "sections have no tool.spanhook before them in this file: [tracing], not [tool.spanhook.tracing]"
    return f"unknown section{did_you_mean(name, known_names(Sections))}"


def _said(item: Any) -> str:
    """What is wrong, in plain words."""
    kind, context = item["type"], item.get("ctx", {})
    if kind in _WORDS:
        return _WORDS[kind]
    if kind in ("too_short", "string_too_short") and context.get("min_length") == 1:
        return "must not be empty"
    for name, words in {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}.items():
        if name in context and kind.startswith(("greater_than", "less_than")):
            return f"must be {words} {str(context[name]).removesuffix('.0')}"
    text = " ".join(item["msg"].removeprefix("Value error,").removeprefix("Assertion failed,").split())
    if kind not in ("value_error", "assertion_error"):  # pydantic's own sentence
        text = text.replace("Input should be", "must be")
        text = text[:1].lower() + text[1:] if text[1:2].islower() else text
    return text or "is not valid"


def _dotted(keys: Sequence[str | int]) -> str:
    return ".".join(map(str, keys))
