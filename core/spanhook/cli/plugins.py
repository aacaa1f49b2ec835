"""`spanhook plugins`: what is installed, what is chosen, and why one can't be loaded."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spanhook import config_files
from spanhook.errors import ConfigError, PluginError
from spanhook.plugins.discovery import KINDS, Installed, group_of, installed


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON array instead of a table.")
def plugins(as_json: bool) -> None:
    """List every installed plugin: its group, its distribution, whether it is chosen, whether it loads.

    "Chosen" is what `spanhook.configure()` would take from here. Imports every plugin, creates none.
    """
    try:
        tracing = config_files.load().settings.tracing
        chosen = {"extractor": tracing.extractors, "backend": tracing.backends}
    except ConfigError as error:
        Console(stderr=True, soft_wrap=True).print(
            Text(f"{error}\nNothing is chosen: the configuration is wrong.", style="red")
        )
        chosen = {"extractor": [], "backend": []}
    rows = [_row(plugin, plugin.name in chosen[kind]) for kind in KINDS for plugin in installed(kind)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "group", "distribution", "version", "chosen", "loads"):
        table.add_column(column, overflow="fold")
    for row in rows:
        loads = Text("yes", style="green") if row["error"] is None else Text(row["error"], style="red")
        table.add_row(
            row["name"], row["group"], row["distribution"], row["version"], "yes" if row["selected"] else "", loads
        )
    Console(highlight=False).print(table)


def _row(plugin: Installed, selected: bool) -> dict[str, Any]:
    error = None
    try:
        plugin.load()
    except PluginError as problem:
        error = str(problem)
    return {
        "name": plugin.name,
        "group": group_of(plugin.kind),
        "distribution": plugin.distribution,
        "version": plugin.version,
        "entry_point": plugin.entry_point.value,
        "selected": selected,
        "error": error,
    }
