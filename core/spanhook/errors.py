"""Every exception that Spanhook raises.

SpanhookError
├── ConfigError       the configuration is wrong: all its problems at once
├── PluginError       a plugin object can't be registered
└── InstallError      the tracer can't be put into DSPy's settings here
"""

from __future__ import annotations

from collections.abc import Sequence


class SpanhookError(Exception):
    """The root of the tree: catch this to catch everything that Spanhook raises."""


class ConfigError(SpanhookError):
    """The configuration can't be used; nothing was configured.

    Args:
        problems: one line a problem, each with its file (or variable), its dotted key and what to do.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        super().__init__("\n".join(self.problems))


class PluginError(SpanhookError):
    """An object is no usable plugin: a class, a misspelt or async hook, wrong arguments."""


class InstallError(SpanhookError):
    """DSPy refuses the tracer's callback in this thread or task."""
