"""`spanhook.configure`: from a configuration to a tracer that is at work."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spanhook.delivery import spool
from spanhook.errors import ConfigError, InstallError
from spanhook.printable import printable
from spanhook.tracer import Tracer

if TYPE_CHECKING:
    from spanhook.config.files import LoadedConfig
    from spanhook.config.settings import Settings
    from spanhook.plugins.registration import Plugin


def configure(
    config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None = None,
    *,
    plugins: Mapping[str, Any] | None = None,
) -> Tracer:
    """Load the configuration and its plugins, and trace DSPy from now on.

    A tracer that was configured before is replaced: it is shut down, and DSPy has one callback of ours at any time.
    Only tracers with `instrument = "wrapped"` replace nobody, and nobody replaces them. Other callbacks stay.
    Call it where you call `dspy.configure`: DSPy lets one thread only change its settings.

    Args:
        config: a `tracing.toml`, a dict of its shape, or `Settings`; None searches, see the reference.
        plugins: plugin objects by name that run beside those of the configuration, without an entry point.

    Raises:
        ConfigError: with every problem of the file and its plugins; nothing has changed then.
        InstallError: DSPy refuses a callback in this thread or task; nothing has changed then.
    """
    from spanhook.plugins import loading

    loaded, chosen = prepare(config, plugins)
    tracer = Tracer(loaded.settings, chosen)
    try:
        replaced = install(tracer)
    except InstallError:
        loading.close(chosen)
        raise
    for old in replaced:
        old.shutdown()
    if not loaded.settings.tracing.enabled:
        tracer.shutdown()
    return tracer


def read_settings(
    config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None = None, *, problems: list[str] | None = None
) -> Settings:
    """The settings that `configure` would use, for a command or a test that looks at them; nothing is configured.

    Args:
        config: as for `configure`.
        problems: takes what is wrong, a line each, in place of an exception; the defaults stand where it is.

    Raises:
        ConfigError: with every problem. The options of plugins are for the plugins to check.
    """
    from spanhook.config import files

    loaded = files.read(config)
    if problems is not None:
        problems += loaded.problems
    elif loaded.problems:
        raise ConfigError(loaded.problems)
    return loaded.settings


def prepare(
    config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None = None,
    plugins: Mapping[str, Any] | None = None,
) -> tuple[LoadedConfig, list[Plugin]]:
    """Read a configuration, check it and load its plugins, none where it is off; `spanhook check` does no more.

    Args:
        config: as for `configure`.
        plugins: as for `configure`.

    Raises:
        ConfigError: with every problem.
    """
    # Half of what there is to import; a program that never gets here goes without.
    from spanhook.config import files
    from spanhook.plugins import loading

    loaded = files.read(config)
    if not loaded.settings.tracing.enabled and not loaded.problems:
        return loaded, []
    folder = loaded.settings.delivery.spool
    if folder is not None and (problem := spool.check(folder)):
        shown = f"{loaded.places.of('delivery', 'spool')}: {printable(str(folder))} {problem}"
        loaded = replace(loaded, problems=[*loaded.problems, shown])
    return loaded, loading.load(loaded, plugins)


def install(tracer: Tracer) -> list[Tracer]:
    """Have DSPy call this tracer, and begin with what is left in the spool.

    Returns the tracers that it replaces: one for all calls takes the place of another, one for wrapped programs lives
    beside it.

    Raises:
        InstallError: DSPy refuses a callback in this thread or task.
    """
    return tracer._install()  # noqa: SLF001 - no method for those who hold a tracer: it is done when they get it
