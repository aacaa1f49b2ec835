"""From a path, a dict or nothing to `Settings`: found, read, substituted, merged, validated; every problem at once."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from spanhook.config import ENV_DELIMITER, ENV_PREFIX, Sections, Settings
from spanhook.config_problems import problem_lines

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_VARIABLE = "SPANHOOK_CONFIG"
FILE_NAME = "tracing.toml"

# `${` that is neither escaped nor the beginning of a reference matches without a name: a mistake.
_REFERENCE = re.compile(r"\$(?P<escaped>\$)?\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\})?")


@dataclass(slots=True)
class LoadedConfig:
    """Settings that are valid in shape, where each value came from, and what was wrong with the others."""

    settings: Settings
    origin: str  # the file, `configure()` or `defaults`
    from_environment: Mapping[str, Any] = field(default_factory=dict)
    problems: Sequence[str] = ()

    def where(self, *keys: str | int) -> str:
        """`tracing.toml: tracing.backends`, or the environment variable that gave this value."""
        return _where(self.origin, self.from_environment, keys)


def read(config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None = None) -> LoadedConfig:
    """Find and read the configuration; what is wrong in it is in `problems`, and the default stands in its place.

    Args:
        config: a file, a dict of the file's shape, ready-made `Settings` (taken as they are), or None to search:
            `SPANHOOK_CONFIG`, `tracing.toml` here or in a parent, `[tool.spanhook]` in `pyproject.toml`, the defaults.
    """
    if isinstance(config, Settings):
        return LoadedConfig(config, "configure()")
    problems: list[str] = []
    if isinstance(config, Mapping):
        origin, tree = "configure()", _plain_dict(config)
    else:
        origin, tree = _find(config, problems)
    tree = substitute(tree, os.environ, origin, problems)
    environment = _environment(problems)
    if isinstance(config, Mapping):  # code is the stronger word than the environment, a file the weaker one
        environment = _left_open(environment, tree)
    merged = _merge(tree, environment)
    try:
        sections = Sections.model_validate(merged)
    except ValidationError as error:
        found = list(problem_lines(error, Sections, lambda *keys: _where(origin, environment, keys), told=problems))
        problems += found
        sections = Sections.model_validate(_without(merged, [item["loc"] for item in error.errors()]))
    return LoadedConfig(Settings.model_construct(**dict(sections)), origin, environment, problems)


def substitute(tree: Any, variables: Mapping[str, str], origin: str, problems: list[str], *, at: str = "") -> Any:
    """Replace `${NAME}` and `${NAME:-default}` in every string of `tree`; `$${NAME}` stands for a literal `${NAME}`.

    A default is used when the variable is unset or empty. An unset `${NAME}` is added to `problems`, and so is a `${`
    that begins no reference.
    """
    if isinstance(tree, dict):
        return {
            key: substitute(value, variables, origin, problems, at=f"{at}.{key}" if at else key)
            for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [substitute(item, variables, origin, problems, at=f"{at}.{i}") for i, item in enumerate(tree)]
    if not isinstance(tree, str):
        return tree

    def replace(match: re.Match[str]) -> str:
        if match["escaped"]:
            return match[0][1:]
        name, default = match["name"], match["default"]
        if name is None:
            problems.append(
                f"{origin}: {at}: this ${{ begins no reference (write ${{NAME}} or ${{NAME:-default}} without braces "
                "inside, or $${ for the text itself)"
            )
            return ""
        value = variables.get(name)
        if default is not None:
            return value or default
        if value is None:
            problems.append(
                f"{origin}: {at}: the environment variable {name} is not set (set it, or write ${{{name}:-default}})"
            )
            return ""
        return value

    return _REFERENCE.sub(replace, tree)


def _find(path: str | os.PathLike[str] | None, problems: list[str]) -> tuple[str, dict[str, Any]]:
    if path is not None:
        return _read(Path(path), problems)
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        return _read(Path(named), problems, named_by=CONFIG_VARIABLE)
    try:
        here = Path.cwd()
    except OSError:  # it was removed
        return "defaults", {}
    folders = (here, *here.parents)
    # os.path.isfile, because Path.is_file raises in a folder that may not be read.
    for folder in folders:
        if os.path.isfile(folder / FILE_NAME):
            return _read(folder / FILE_NAME, problems)
    for folder in folders:
        pyproject = folder / "pyproject.toml"
        if os.path.isfile(pyproject):
            _, tree = _read(pyproject, [])  # a broken pyproject.toml is for the tools that own it to report
            table = tree.get("tool", {}).get("spanhook") if isinstance(tree.get("tool"), dict) else None
            if isinstance(table, dict):
                return f"{_shown(pyproject)} [tool.spanhook]", table
    return "defaults", {}


def _read(path: Path, problems: list[str], named_by: str = "") -> tuple[str, dict[str, Any]]:
    shown = _shown(path)
    via = f" (named by {named_by})" if named_by else ""
    try:
        return shown, tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        problems.append(f"{shown}: no such file{via}")
    except IsADirectoryError:
        problems.append(f"{shown}: this is a directory{via}; give the file in it, {shown}/{FILE_NAME}")
    except UnicodeDecodeError as error:
        problems.append(f"{shown}: not UTF-8 at byte {error.start}{via}; save the file as UTF-8")
    except (
        ValueError,
        RecursionError,
    ) as error:  # beside TOMLDecodeError: a number or a nesting beyond Python's limits
        problems.append(f"{shown}: not valid TOML{via}: {error}")
    except OSError as error:
        problems.append(f"{shown}: can't be read{via}: {error.strerror or type(error).__name__}")
    return shown, {}


def _environment(problems: list[str]) -> dict[str, Any]:
    sections = Settings.model_fields
    for name in os.environ:
        upper = name.upper()
        section = upper.removeprefix(ENV_PREFIX).split(ENV_DELIMITER)[0].lower()
        if upper.startswith(ENV_PREFIX) and upper != CONFIG_VARIABLE and section not in sections:
            known = [CONFIG_VARIABLE, *(f"{ENV_PREFIX}{s.upper()}{ENV_DELIMITER}…" for s in sections)]
            problems.append(f"{name}: unknown variable (known: {', '.join(known)})")
    try:
        return dict(EnvSettingsSource(Settings)())
    except SettingsError:  # the only values that are parsed here are those of whole sections
        whole = [name for name in os.environ if name.upper().removeprefix(ENV_PREFIX).lower() in sections]
        problems.append(f"{', '.join(whole)}: not valid JSON; better give each option a variable of its own")
        return {}


def _left_open(environment: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `environment` that `tree` says nothing of."""
    left: dict[str, Any] = {}
    for key, value in environment.items():
        if key not in tree:
            left[key] = value
        elif isinstance(value, Mapping) and isinstance(tree[key], Mapping):
            left[key] = _left_open(value, tree[key])
    return left


def _without(tree: Mapping[Any, Any], places: Sequence[tuple[str | int, ...]]) -> dict[Any, Any]:
    """A copy that lacks the options at `places`; of a list that has a wrong item, the whole list."""
    copied = dict(tree)
    for key in {place[0] for place in places if place}:
        below = [place[1:] for place in places if place and place[0] == key]
        if all(below) and isinstance(copied.get(key), Mapping):
            copied[key] = _without(copied[key], below)
        else:
            copied.pop(key, None)
    return copied


def _merge(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(weak)
    for key, value in strong.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _where(origin: str, environment: Mapping[str, Any], keys: tuple[str | int, ...]) -> str:
    node: Any = environment
    for depth, key in enumerate(keys):
        if not isinstance(node, Mapping) or key not in node:
            break
        node = node[key]
        if not isinstance(node, Mapping):
            return ENV_PREFIX + ENV_DELIMITER.join(str(k) for k in keys[: depth + 1]).upper()
    return f"{origin}: {'.'.join(str(key) for key in keys)}"


def _plain_dict(value: Mapping[str, Any]) -> dict[str, Any]:
    # A key that is no string becomes one, as that of a file would be: it is an unknown option then.
    return {str(key): _plain_dict(item) if isinstance(item, Mapping) else item for key, item in value.items()}


def _shown(path: Path) -> str:
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
