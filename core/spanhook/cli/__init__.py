"""The `spanhook` command: one file a subcommand."""

from __future__ import annotations

import click

import spanhook
from spanhook.cli.check import check
from spanhook.cli.demo import demo
from spanhook.cli.plugins import plugins
from spanhook.cli.streams import take_every_character


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(spanhook.__version__, prog_name="spanhook")
def main() -> None:
    """Trace DSPy programs: every call, its tokens, its cost, its user."""
    take_every_character()


for command in (demo, check, plugins):
    main.add_command(command)
