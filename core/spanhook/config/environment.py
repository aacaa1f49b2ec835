"""The `SPANHOOK_…` variables: what they give, what messages call them, and which are none of ours."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from spanhook.config.names import nearest, sections_with
from spanhook.config.settings import ENV_DELIMITER, ENV_PREFIX, Settings

CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
_TABLES = ("backends", "extractors")  # sections with a table for each plugin


def file_variable() -> tuple[str, str]:
    """The variable that names the configuration's file, and that file; both empty where there is none."""
    names = sorted(name for name in os.environ if name.upper() == CONFIG_VARIABLE and os.environ[name])
    return (names[0], os.environ[names[0]]) if names else ("", "")


def option_variables() -> dict[tuple[str, ...], str]:
    """The variables that give options, by what they give: `("tracing", "service")`. Their case is of no matter."""
    return {
        tuple(name.upper().removeprefix(ENV_PREFIX).lower().split(ENV_DELIMITER)): name
        for name in sorted(os.environ)
        if name.upper().startswith(ENV_PREFIX) and name.upper() != CONFIG_VARIABLE
    }


def variable_for(keys: Sequence[str | int]) -> str:
    """What the variable is called that gives the option at `keys`, if one is set or not."""
    return ENV_PREFIX + ENV_DELIMITER.join(map(str, keys)).upper()


def variable_at(keys: Sequence[str | int]) -> str:
    """The variable that is set and gives what stands at `keys`, or, if that is a table, something in it."""
    path = tuple(str(key).lower() for key in keys)
    variables = option_variables()
    for depth in range(len(path), 0, -1):
        if path[:depth] in variables:
            return variables[path[:depth]]
    return next((name for at, name in variables.items() if at[: len(path)] == path), variable_for(keys))


def read_environment(problems: list[str]) -> dict[str, Any]:
    """What the variables give, in the shape of a file; those that are unknown or can't be read are `problems`."""
    found: dict[str, Any] = {}
    # Read here, as releases of pydantic-settings differ in what they take for JSON: a variable for one option is a
    # text, and stronger than one for a whole table.
    for path, name in sorted(option_variables().items(), key=lambda item: len(item[0])):
        section, text = path[0], os.environ[name]
        if section not in Settings.model_fields:
            problems.append(f"{name}: unknown variable{_meant(name)}")
        elif len(path) == 1:
            table = _json(text)
            if table is None:
                listed = f"the list of names is {variable_for(('tracing', section))}" if section in _TABLES else ""
                better = listed or "better give each option a variable of its own"
                problems.append(f"{name}: not valid JSON; {better}")
            else:
                found[section] = table
        else:
            is_table = len(path) == 2 and section in _TABLES
            _put(found, path, table if is_table and isinstance(table := _json(text), dict) else text)
    return found


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    *above, last = path
    for key in above:
        below = tree.get(key)
        tree[key] = below = below if isinstance(below, dict) else {}
        tree = below
    is_more = isinstance(value, dict) and isinstance(tree.get(last), dict)
    tree[last] = {**tree[last], **value} if is_more else value


def _json(text: str) -> Any:
    """What it holds; None if it is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _meant(name: str) -> str:
    """What an unknown variable was probably meant to be."""
    text = name.upper().removeprefix(ENV_PREFIX)
    delimiter = ENV_DELIMITER if ENV_DELIMITER in text else "_"
    head, _, option = text.partition(delimiter)
    section = nearest(head.lower(), Settings.model_fields)
    if not section and (owners := sections_with(text.lower())):
        section, option = owners[0], text
    if section and option:
        if section in ("backends", "extractors") and delimiter != ENV_DELIMITER:
            option = f"NAME{ENV_DELIMITER}OPTION"
        hint = "" if delimiter == ENV_DELIMITER else ", with two underscores"
        return f" (did you mean {variable_for((section, option))}{hint}?)"
    if nearest(text, ["CONFIG"]):
        return f" (did you mean {CONFIG_VARIABLE}?)"
    known = [CONFIG_VARIABLE, *(f"{variable_for([section])}{ENV_DELIMITER}…" for section in Settings.model_fields)]
    return f" (known: {', '.join(known)})"
