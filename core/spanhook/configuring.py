"""`spanhook.configure`: from a configuration to a tracer that is at work."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spanhook.delivery import spool
from spanhook.errors import InstallError
from spanhook.tracer import Tracer

if TYPE_CHECKING:
    from spanhook.config import Settings


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
    # Half of what there is to import; a program that never gets here goes without.
    from spanhook import config_files
    from spanhook.plugins import loading

    loaded = config_files.read(config)
    enabled = loaded.settings.tracing.enabled or bool(loaded.problems)
    folder = loaded.settings.delivery.spool
    if enabled and folder is not None and (problem := spool.check(folder)):
        loaded = replace(
            loaded, problems=[*loaded.problems, f"{loaded.where('delivery', 'spool')}: {folder} {problem}"]
        )
    chosen = loading.load(loaded, plugins) if enabled else []
    tracer = Tracer(loaded.settings, chosen)
    try:
        replaced = tracer.install()
    except InstallError:
        loading.close(chosen)
        raise
    for old in replaced:
        old.shutdown()
    if not enabled:
        tracer.shutdown()
    return tracer
