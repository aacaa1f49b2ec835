"""From an installed plugin to a checked one: its options validated, its class called, no secret in what goes wrong."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import BaseModel, ValidationError

from spanhook.config.files import LoadedConfig
from spanhook.config.names import did_you_mean, ignored_keys
from spanhook.config.problems import LISTS, TABLES, Places, problem_lines
from spanhook.config.secrets import hide, marked_secrets, secrets_in
from spanhook.config.settings import PluginOptions, listed
from spanhook.errors import ConfigError, PluginError
from spanhook.guard import attempt, located
from spanhook.plugins.discovery import Installed
from spanhook.plugins.registration import Plugin, register


def create(plugin: Installed, config: LoadedConfig) -> Plugin:
    """Import the plugin, call it with what its signature asks for, of `options` and `tracing`, and check the result.

    Raises:
        PluginError: it can't be imported, or is no usable plugin.
        ConfigError: its options are wrong, or its constructor refuses them. Without a line where the configuration's
            own problems say already what is wrong with them: it would be called with something else in their place.
    """
    target = plugin.load()
    places, section = config.places, (f"{plugin.kind}s", plugin.name)
    given: Mapping[str, Any] = getattr(config.settings, section[0]).get(plugin.name, {})
    model = getattr(target, "Options", None)
    available: dict[str, Any] = {"tracing": config.settings.tracing}
    secrets: frozenset[str] = frozenset()
    if isinstance(model, type) and issubclass(model, BaseModel):
        given = _with_texts_read(model, given)
        secrets = secrets_in(given, model)
        available["options"] = _validated(model, given, config, section, secrets)
        secrets |= secrets_in(available["options"])
    elif model is not None:
        raise PluginError(f"its Options is no pydantic model; derive it from spanhook.PluginOptions ({plugin.source})")
    elif given:
        raise ConfigError(
            [f"{places.of(*section, key)}: {plugin.kind} {plugin.name} takes no options" for key in given]
        )
    place = places.of(*section)
    if any(line.startswith((f"{place}:", f"{place}.")) for line in config.problems):
        raise ConfigError(())
    instance, error = _called(target, plugin, available) if callable(target) else (target, None)
    # What a plugin says of its options may repeat a secret, and so may the exception itself.
    if isinstance(error, ValidationError):
        raise ConfigError(list(problem_lines(error, PluginOptions, places, section, secrets=secrets))) from None
    if isinstance(error, ConfigError):
        lines = [_placed(line, places, section, model, secrets) for line in error.problems]
        raise ConfigError(lines) from None
    if error is not None:
        said = located(error, partial(hide, secrets=secrets))
        raise ConfigError([f"{place}: {plugin.kind} {plugin.name}: {said}"]) from None
    try:
        registered = register(plugin.kind, plugin.name, instance)
    except PluginError as problem:
        raise PluginError(hide(str(problem), secrets)) from None
    return replace(registered, secrets=marked_secrets(available.get("options")))


def _called(target: Any, plugin: Installed, available: Mapping[str, Any]) -> tuple[Any, Exception | None]:
    signature, _ = attempt(lambda: inspect.signature(target))  # a class written in C may have none
    wanted = {
        name: parameter
        for name, parameter in (signature.parameters.items() if signature else ())
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    if strange := [n for n, p in wanted.items() if n not in available and p.default is p.empty]:
        may = "options and tracing" if "options" in available else "tracing, and for options if it has a class Options"
        raise PluginError(
            f"{plugin.kind} {plugin.name!r} ({plugin.source}): {plugin.entry_point.attr} asks for "
            f"{', '.join(strange)}; it may ask for {may}"
        )
    return attempt(lambda: target(**{name: available[name] for name in wanted if name in available}))


def _placed(line: str, places: Places, section: tuple[str, str], model: Any, secrets: frozenset[str]) -> str:
    """What a plugin says of its options, with the place: that of the option which the line begins with.

    A line that begins with an environment variable has its place.
    """
    name, colon, rest = line.partition(": ")
    if colon and name in getattr(model, "model_fields", ()):
        return f"{places.of(*section, name)}: {hide(rest, secrets)}"
    line = hide(line, secrets)
    return line if colon and name in os.environ else f"{places.of(*section)}: {line}"


def _with_texts_read(model: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with lists and tables where the model wants them and a text is given: `a,b` or JSON, as variables do."""
    read = dict(given)
    try:
        model.model_validate(given)
    except ValidationError as error:
        for item in error.errors(include_url=False, include_context=False, include_input=False):
            text = read.get(str(item["loc"][0])) if len(item["loc"]) == 1 else None
            if isinstance(text, str) and item["type"] in LISTS:
                read[str(item["loc"][0])] = listed(text)
            elif isinstance(text, str) and item["type"] in TABLES:
                with suppress(ValueError):
                    read[str(item["loc"][0])] = json.loads(text)
    return read


def _validated(
    model: type[BaseModel],
    options: Mapping[str, Any],
    config: LoadedConfig,
    section: tuple[str, str],
    secrets: frozenset[str],
) -> BaseModel:
    places = config.places
    problems = [
        f"{places.of(*section, *path)}: unknown option{did_you_mean(str(path[-1]), known)}"
        for path, known in ignored_keys(model, options)
    ]
    try:
        validated = model.model_validate(options)
    except ValidationError as error:
        problems += problem_lines(error, model, places, section, secrets=secrets, told=config.problems)
        raise ConfigError(problems) from None  # pydantic's own message shows values, which may be secrets
    if problems:
        raise ConfigError(problems)
    return validated
