"""From the configuration to checked plugins: every problem at once, and nothing left running when there is one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spanhook.config.files import LoadedConfig
from spanhook.config.names import did_you_mean
from spanhook.config.secrets import hiding
from spanhook.errors import ConfigError, PluginError
from spanhook.guard import Guard
from spanhook.plugins.creation import create
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
            where = config.places.of("tracing", f"{kind}s", index)
            try:
                if name in names[:index]:
                    raise PluginError(f"{name!r} is named twice")
                plugins.append(create(_select(kind, name, found), config))
            except PluginError as error:
                problems.append(f"{where}: {error}")
            except ConfigError as error:
                problems += error.problems
    if given is not None and not isinstance(given, Mapping):
        problems.append(f"configure(plugins=…): must be a dict of plugins by name, not a {type(given).__name__}")
        given = None
    for name, instance in (given or {}).items():
        try:
            if not isinstance(name, str) or not name.strip():
                what = "an empty one" if isinstance(name, str) else f"a {type(name).__name__}"
                raise PluginError(f"a plugin's name must be a text, not {what}")
            plugin = register(None, name, instance)
            if any((other.kind, other.name) == (plugin.kind, name) for other in plugins):
                raise PluginError(f"{plugin.kind} {name!r} is in the configuration too; give one of them another name")
            plugins.append(plugin)
        except PluginError as error:
            problems.append(f"configure(plugins=…): {error}")
    if "backend" in kinds and not problems and not any(plugin.kind == "backend" for plugin in plugins):
        problems.append(f"{config.places.of('tracing', 'backends')}: name at least one backend, or set enabled = false")
    if problems:
        close(plugins)
        raise ConfigError(problems)
    return plugins


def close(plugins: Iterable[Plugin]) -> None:
    """Let plugins go that were created but will not run."""
    for plugin in plugins:
        if "shutdown" in plugin.hooks:
            with Guard(hide=hiding(plugin.secrets))(f"{plugin.label}: shutdown"):
                plugin.hooks["shutdown"](0.0)


def _check_sections(
    kind: PluginKind, config: LoadedConfig, available: Sequence[Installed], problems: list[str]
) -> None:
    """Options for a plugin that is not installed are a mistake; for one that is not chosen they are not."""
    known = {plugin.name for plugin in available}
    for name in getattr(config.settings, f"{kind}s"):
        if name not in known:
            where = config.places.of(f"{kind}s", name)
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
