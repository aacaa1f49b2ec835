"""From the configuration to checked plugins: every problem at once, and nothing left running when there is one."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from spanhook.config import PluginOptions
from spanhook.config_files import LoadedConfig
from spanhook.config_problems import did_you_mean, problem_lines, without_values
from spanhook.errors import ConfigError, PluginError
from spanhook.guard import Guard, attempt, located
from spanhook.plugins.discovery import KINDS, Installed, PluginKind, installed
from spanhook.plugins.registration import Plugin, register


def load(
    config: LoadedConfig, given: Mapping[str, Any] | None = None, kinds: Sequence[PluginKind] = KINDS
) -> list[Plugin]:
    """Load the plugins that the configuration names, each list in its order, then register the `given` objects.

    Raises:
        ConfigError: with every problem, those of the configuration itself first: an unknown name, a name that two
            distributions have, an import that fails, wrong options, an object that is no plugin.
    """
    problems: list[str] = list(config.problems)
    plugins: list[Plugin] = []
    found: dict[PluginKind, list[Installed]] = {kind: installed(kind) for kind in KINDS}
    for kind in kinds:
        _check_sections(kind, config, found[kind], problems)
        names: Sequence[str] = getattr(config.settings.tracing, f"{kind}s")
        for index, name in enumerate(names):
            where = config.where("tracing", f"{kind}s", index)
            try:
                if name in names[:index]:
                    raise PluginError(f"{name!r} is named twice")
                plugins.append(register(kind, name, _create(_select(kind, name, found), config)))
            except PluginError as error:
                problems.append(f"{where}: {error}")
            except ConfigError as error:
                problems += error.problems
    if given is not None and not isinstance(given, Mapping):
        problems.append(f"configure(plugins=…): must be a dict of plugins by name, not a {type(given).__name__}")
        given = None
    for name, instance in (given or {}).items():
        try:
            plugin = register(None, name, instance)
            if any((other.kind, other.name) == (plugin.kind, name) for other in plugins):
                raise PluginError(f"{plugin.kind} {name!r} is in the configuration too; give one of them another name")
            plugins.append(plugin)
        except PluginError as error:
            problems.append(f"configure(plugins=…): {error}")
    if "backend" in kinds and not problems and not any(plugin.kind == "backend" for plugin in plugins):
        problems.append(f"{config.where('tracing', 'backends')}: name at least one backend, or set enabled = false")
    if problems:
        close(plugins)
        raise ConfigError(problems)
    return plugins


def close(plugins: Iterable[Plugin]) -> None:
    """Let plugins go that were created but will not run."""
    guard = Guard()
    for plugin in plugins:
        if "shutdown" in plugin.hooks:
            with guard(f"{plugin.label}: shutdown"):
                plugin.hooks["shutdown"](0.0)


def _check_sections(
    kind: PluginKind, config: LoadedConfig, available: Sequence[Installed], problems: list[str]
) -> None:
    """Options for a plugin that is not installed are a mistake; for one that is not chosen they are not."""
    known = {plugin.name for plugin in available}
    for name in getattr(config.settings, f"{kind}s"):
        if name not in known:
            where = config.where(f"{kind}s", name)
            problems.append(f"{where}: no {kind} of this name is installed{did_you_mean(name, known)}")


def _select(kind: PluginKind, name: str, found: Mapping[PluginKind, Sequence[Installed]]) -> Installed:
    matches = [plugin for plugin in found[kind] if plugin.name == name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        owners = " and ".join(plugin.distribution for plugin in matches)
        raise PluginError(f"{kind} {name!r} comes from two distributions, {owners}; uninstall one of them")
    other: PluginKind = "backend" if kind == "extractor" else "extractor"
    if any(plugin.name == name for plugin in found[other]):
        raise PluginError(f"{name!r} is the name of {'an' if other[0] == 'e' else 'a'} {other}; list it under {other}s")
    raise PluginError(f"no {kind} named {name!r} is installed{did_you_mean(name, (p.name for p in found[kind]))}")


def _create(plugin: Installed, config: LoadedConfig) -> Any:
    """The plugin's object: its class called with what its signature asks for, of `options` and `tracing`."""
    target = plugin.load()
    section = (f"{plugin.kind}s", plugin.name)
    options: Mapping[str, Any] = getattr(config.settings, section[0]).get(plugin.name, {})
    model = getattr(target, "Options", None)
    arguments: dict[str, Any] = {"tracing": config.settings.tracing}
    if isinstance(model, type) and issubclass(model, BaseModel):
        arguments["options"] = _validate(model, options, config, section)
    elif model is not None:
        raise PluginError(f"its Options is no pydantic model; derive it from spanhook.PluginOptions ({plugin.source})")
    elif options:
        raise ConfigError(
            [f"{config.where(*section, key)}: {plugin.kind} {plugin.name} takes no options" for key in options]
        )
    if not callable(target):
        return target
    signature, _ = attempt(lambda: inspect.signature(target))  # a class written in C may have none
    wanted = {
        name: parameter
        for name, parameter in (signature.parameters.items() if signature else ())
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    if strange := [n for n, p in wanted.items() if n not in arguments and p.default is p.empty]:
        raise PluginError(
            f"{plugin.kind} {plugin.name!r} ({plugin.source}): {plugin.entry_point.attr} asks for "
            f"{', '.join(strange)}; it may ask for {' and '.join(sorted(arguments))}"
        )
    instance, error = attempt(lambda: target(**{name: arguments[name] for name in wanted if name in arguments}))
    # What a plugin says of its options may repeat a secret, and so may the exception itself.
    if isinstance(error, ValidationError):
        raise ConfigError(list(problem_lines(error, PluginOptions, config.where, section, hidden=options))) from None
    if error is not None:
        said = error.problems if isinstance(error, ConfigError) else [f"{plugin.kind} {plugin.name}: {located(error)}"]
        raise ConfigError([_placed(line, config, section, model, options) for line in said]) from None
    return instance


def _placed(line: str, config: LoadedConfig, section: tuple[str, str], model: Any, options: Mapping[str, Any]) -> str:
    """What a plugin says of its options, with the place: that of the option which the line begins with.

    A line that begins with an environment variable has its place.
    """
    name, colon, rest = line.partition(": ")
    if colon and name in getattr(model, "model_fields", ()):
        return f"{config.where(*section, name)}: {without_values(rest, options)}"
    line = without_values(line, options)
    return line if colon and name in os.environ else f"{config.where(*section)}: {line}"


def _validate(
    model: type[BaseModel], options: Mapping[str, Any], config: LoadedConfig, section: tuple[str, str]
) -> BaseModel:
    problems: list[str] = []
    if model.model_config.get("extra", "ignore") == "ignore":
        known = [info.alias or name for name, info in model.model_fields.items()]
        accepted = {*known, *(model.model_fields if model.model_config.get("populate_by_name") else ())}
        problems += [
            f"{config.where(*section, key)}: unknown option{did_you_mean(key, known)}"
            for key in options
            if key not in accepted
        ]
    try:
        validated = model.model_validate(options)
    except ValidationError as error:
        problems += problem_lines(error, model, config.where, section, hidden=options, told=config.problems)
        raise ConfigError(problems) from None  # pydantic's own message shows values, which may be secrets
    if problems:
        raise ConfigError(problems)
    return validated
