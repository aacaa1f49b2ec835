"""`spanhook plugins`: what is installed, what is chosen, and why one can't be loaded."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from spanhook.cli.streams import tick
from spanhook.config import files
from spanhook.errors import PluginError
from spanhook.plugins.discovery import KINDS, Installed, group_of, installed
from spanhook.printable import printable


@click.command(short_help="List what is installed: extractors and backends.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array instead of a list for people.")
@click.option("--verbose", "-v", is_flag=True, help="The whole reason why one can't be loaded.")
def plugins(as_json: bool, verbose: bool) -> None:
    """List every installed plugin: its group, its distribution, whether it is chosen, whether it loads.

    "Chosen" is what `spanhook.configure()` would take from here. Imports every plugin, creates none.
    """
    err = Console(stderr=True, highlight=False, soft_wrap=True)
    config = files.read()
    for problem in config.problems:
        err.print(Text(printable(problem), style="red"))
    chosen = {kind: [] if config.problems else list(getattr(config.settings.tracing, f"{kind}s")) for kind in KINDS}
    rows = [_row(plugin, plugin.name in chosen[plugin.kind]) for kind in KINDS for plugin in installed(kind)]
    met = Counter((row["group"], row["name"]) for row in rows)
    for row in rows:
        if met[row["group"], row["name"]] > 1:
            row["error"] = row["error"] or "another distribution has this name, too; uninstall one of them"
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        _show(rows, verbose)
    for kind in KINDS:
        for name in chosen[kind]:
            if not any(row["name"] == name and row["group"] == group_of(kind) for row in rows):
                err.print(Text(f"{config.places.of('tracing', f'{kind}s')}: {name!r} is not installed", style="red"))


def _show(rows: list[dict[str, Any]], verbose: bool) -> None:
    out = Console(highlight=False, soft_wrap=True)
    mark = tick(out)
    width = max((len(row["name"]) for row in rows), default=0)
    source = max((len(f"{row['distribution']} {row['version']}") for row in rows), default=0)
    for kind in KINDS:
        out.print(Text(group_of(kind), style="bold"))
        for row in (row for row in rows if row["group"] == group_of(kind)):
            line = Text(f"  {mark} " if row["selected"] else "    ", style="green")
            line.append(f"{printable(row['name']):<{width}}  ", "default")
            line.append(printable(f"{row['distribution']} {row['version']}").ljust(source), "dim")
            if row["error"] and row["install"] and not verbose:
                line.append(f"  to install: {row['install']}", "yellow")
            elif row["error"]:
                line.append(f"  {printable(row['error'])}", "red")
            line.rstrip()
            out.print(line)
    out.print(Text(f"{mark} chosen by the configuration here", style="dim"))


def _row(plugin: Installed, selected: bool) -> dict[str, Any]:
    error = install = None
    try:
        plugin.load()
    except PluginError as problem:
        error = str(problem)
        install = plugin.remedy(problem.__cause__)
    return {
        "name": plugin.name,
        "group": group_of(plugin.kind),
        "distribution": plugin.distribution,
        "version": plugin.version,
        "entry_point": plugin.entry_point.value,
        "selected": selected,
        "error": error,
        "install": install,
    }
