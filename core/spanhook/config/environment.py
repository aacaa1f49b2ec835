"""The `SPANHOOK_…` variables: what they give, what messages call them, and which are none of ours."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from pydantic_settings import EnvSettingsSource, SettingsError

from spanhook.config.names import nearest, sections_with
from spanhook.config.settings import ENV_DELIMITER, ENV_PREFIX, Settings

CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"


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
    whole: list[str] = []  # those that give a whole section, as JSON
    for path, name in option_variables().items():
        if path[0] not in Settings.model_fields:
            problems.append(f"{name}: unknown variable{_meant(name)}")
        elif len(path) == 1 and not _is_json(os.environ[name]):
            whole.append(name)
    try:
        return dict(EnvSettingsSource(Settings)())
    except SettingsError:  # the only values that are parsed here are those of whole sections
        problems.append(f"{', '.join(whole)}: not valid JSON; better give each option a variable of its own")
        return {}


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


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
