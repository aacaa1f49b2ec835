"""From a path, a dict or nothing to `Settings`: found, read, substituted, merged, validated; every problem at once."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from spanhook.config.environment import file_variable, read_environment
from spanhook.config.problems import DEFAULTS, FILE_NAME, IN_PYPROJECT, Places, problem_lines
from spanhook.config.settings import Sections, Settings
from spanhook.printable import printable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CODE = "configure()"
PYPROJECT = "pyproject.toml"

# `${` that is neither escaped nor the beginning of a reference matches without a name: a mistake.
_REFERENCE = re.compile(r"\$(?P<escaped>\$)?\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\})?")


@dataclass(slots=True)
class LoadedConfig:
    """Settings that are valid in shape, where each value came from, and what was wrong with the others."""

    settings: Settings
    places: Places
    problems: Sequence[str] = ()


def read(config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None = None) -> LoadedConfig:
    """Find and read the configuration; what is wrong in it is in `problems`, and the default stands in its place.

    Args:
        config: a file, a dict of the file's shape, ready-made `Settings` (taken as they are), or None to search:
            `SPANHOOK_CONFIG`, `tracing.toml` here or in a parent, `[tool.spanhook]` in `pyproject.toml`, the defaults.
    """
    if isinstance(config, Settings):
        return LoadedConfig(config, Places(CODE))
    problems: list[str] = []
    if isinstance(config, Mapping):
        origin, tree = CODE, _plain_dict(config)
    else:
        origin, tree = _find(config, problems)
    tree = substitute(tree, os.environ, origin, problems)
    environment = read_environment(problems)
    if isinstance(config, Mapping):  # code is the stronger word than the environment, a file the weaker one
        environment = _left_open(environment, tree)
    places = Places(origin, tree, environment)
    merged = _merge(tree, environment)
    try:
        sections = Sections.model_validate(merged)
    except ValidationError as error:
        problems += list(problem_lines(error, Sections, places, told=problems))
        sections = Sections.model_validate(_without(merged, [item["loc"] for item in error.errors()]))
    return LoadedConfig(Settings.model_construct(**dict(sections)), places, problems)


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


def _find(path: Any, problems: list[str]) -> tuple[str, dict[str, Any]]:
    if path is not None:
        file = _path_of(path, problems)
        return (CODE, {}) if file is None else _read(file, problems)
    variable, named = file_variable()
    if variable:
        return _read(Path(named), problems, f" (named by {variable})")
    try:
        here = Path.cwd()
    except OSError:  # it was removed
        return DEFAULTS, {}
    folders = (here, *here.parents)
    # os.path.isfile, because Path.is_file raises in a folder that may not be read.
    for folder in folders:
        if os.path.isfile(folder / FILE_NAME):
            return _read(folder / FILE_NAME, problems)
    for folder in folders:
        if os.path.isfile(folder / PYPROJECT) and (found := _in_pyproject(folder / PYPROJECT, problems)):
            return found
    return DEFAULTS, {}


def _path_of(given: Any, problems: list[str]) -> Path | None:
    """What code gave as the path of a file; None if it can't be one."""
    path = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(path, str):
        what = f"a {type(given).__name__}"
    elif not path:
        what = "an empty text"
    elif "\n" in path:  # not shown: there may be a key in it
        what = "the text of a file"
    else:
        return Path(path)
    problems.append(f"{CODE}: give a path, a dict or Settings, not {what}")
    return None


def _read(path: Path, problems: list[str], via: str = "") -> tuple[str, dict[str, Any]]:
    """The file's name, and what is in it; in a pyproject.toml, what is in our part of it."""
    path = Path(os.path.expanduser(path))
    if path.name != PYPROJECT:
        return _shown(path), _parsed(path, problems, via)
    before = len(problems)
    found = _in_pyproject(path, problems, via, is_named=True)
    if found is None and len(problems) == before:
        problems.append(f"{_shown(path)}: has no {IN_PYPROJECT}{via}")
    return found or (_shown(path), {})


def _in_pyproject(
    path: Path, problems: list[str], via: str = "", *, is_named: bool = False
) -> tuple[str, dict[str, Any]] | None:
    """What a pyproject.toml has for us; None for nothing, and then what is wrong in it is for others to report."""
    found: list[str] = []
    tree = _parsed(path, found, via)
    if found:
        if not is_named and not _mentions_us(path):
            return None
        problems += found
        return _shown(path), {}
    tool = tree.get("tool")
    if not isinstance(tool, dict) or "spanhook" not in tool:
        return None
    origin = f"{_shown(path)} {IN_PYPROJECT}"
    if isinstance(tool["spanhook"], dict):
        return origin, tool["spanhook"]
    problems.append(f"{origin}: must be a table")
    return origin, {}


def _mentions_us(path: Path) -> bool:
    try:
        return b"tool.spanhook" in path.read_bytes()
    except OSError:
        return False


def _parsed(path: Path, problems: list[str], via: str = "") -> dict[str, Any]:
    shown = _shown(path)
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        problems.append(f"{shown}: no such file{via}")
    except IsADirectoryError:
        problems.append(f"{shown}: this is a directory{via}; give the file in it, {shown}/{FILE_NAME}")
    except UnicodeEncodeError as error:
        problems.append(f"{shown}: this process has {error.encoding} names only{via}; set PYTHONUTF8=1, or rename it")
    except UnicodeDecodeError as error:
        problems.append(f"{shown}: not UTF-8 at byte {error.start}{via}; save the file as UTF-8")
    except (ValueError, RecursionError) as error:  # also a number or a nesting beyond Python's limits
        problems.append(f"{shown}: not valid TOML{via}: {error}")
    except OSError as error:
        problems.append(f"{shown}: can't be read{via}: {error.strerror or type(error).__name__}")
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


def _plain_dict(value: Mapping[str, Any]) -> dict[str, Any]:
    # A key that is no string becomes one, as that of a file would be: it is an unknown option then.
    return {str(key): _plain_dict(item) if isinstance(item, Mapping) else item for key, item in value.items()}


def _shown(path: Path) -> str:
    try:
        return printable(str(path.absolute().relative_to(Path.cwd())))
    except (ValueError, OSError):
        return printable(str(path))
