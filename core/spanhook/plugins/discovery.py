"""Finding installed plugins through their entry points, and importing one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from spanhook.errors import PluginError
from spanhook.guard import attempt, describe

PluginKind = Literal["extractor", "backend", "command"]
KINDS: tuple[PluginKind, ...] = ("extractor", "backend")  # that a configuration chooses
_NOT_NORMAL = re.compile(r"[-_.]+")


def group_of(kind: PluginKind) -> str:
    """The entry-point group of a kind: `spanhook.extractors` for example."""
    return f"spanhook.{kind}s"


@dataclass(slots=True, frozen=True)
class Installed:
    """An entry point in one of our groups."""

    name: str
    kind: PluginKind
    entry_point: EntryPoint
    distribution: str
    version: str
    extras: frozenset[str] = frozenset()

    @property
    def source(self) -> str:
        """Where it comes from, for messages."""
        point = self.entry_point
        return f"entry point {point.name} = {point.value}, distribution {self.distribution} {self.version}"

    @property
    def install_command(self) -> str | None:
        """What brings what is missing: the extra that the entry point names, or else the one of the plugin's name."""
        # Metadata holds an extra's name normalised: `my_plugin` stands there as `my-plugin`.
        named_alike = {self.name, _NOT_NORMAL.sub("-", self.name).lower()} & self.extras
        needed = self.entry_point.extras or ([self.name] if named_alike else [])
        return f'pip install "{self.distribution}[{",".join(needed)}]"' if needed else None

    def remedy(self, error: BaseException | None) -> str | None:
        """The command that is likely to help when the import raises this: not where its own package is missing."""
        if not isinstance(error, ImportError):
            return None
        missing, own = (name.partition(".")[0] for name in (error.name or "", self.entry_point.module))
        return None if missing == own else self.install_command

    def load(self) -> Any:
        """Import the entry point's target.

        Raises:
            PluginError: naming the entry point, the distribution and what to install.
        """
        target, error = attempt(self.entry_point.load)
        if error is None:
            return target
        remedy = self.remedy(error)
        advice = f"; to install what it needs: {remedy}" if remedy else ""
        raise PluginError(
            f"{self.kind} {self.name!r} can't be loaded ({self.source}): {describe(error)}{advice}"
        ) from error


def installed(kind: PluginKind) -> list[Installed]:
    """Every installed plugin of a kind, by name. Imports none of them."""
    found: dict[tuple[str, str], Installed] = {}
    for point in entry_points(group=group_of(kind)):
        plugin = _installed(point, kind)
        # One distribution may be seen twice: an editable install beside its own build metadata.
        found.setdefault((plugin.name, plugin.distribution), plugin)
    return sorted(found.values(), key=lambda plugin: (plugin.name, plugin.distribution))


def _installed(point: EntryPoint, kind: PluginKind) -> Installed:
    metadata, _ = attempt(lambda: point.dist.metadata if point.dist is not None else None)
    if metadata is None or "Name" not in metadata or "Version" not in metadata:  # an interrupted install leaves that
        return Installed(point.name, kind, point, "of an unknown name", "?")
    extras = frozenset(metadata.get_all("Provides-Extra") or ())
    return Installed(point.name, kind, point, metadata["Name"], metadata["Version"], extras)
