"""The `spanhook` command: one file a subcommand, and those that plugins bring."""

from __future__ import annotations

import click

import spanhook
from spanhook.cli.check import check
from spanhook.cli.demo import demo
from spanhook.cli.plugins import plugins
from spanhook.cli.streams import take_every_character
from spanhook.errors import PluginError
from spanhook.plugins.discovery import Installed, installed


class Commands(click.Group):
    """Our own subcommands, and every click command under the entry points `spanhook.commands`; our own are stronger."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return sorted({*super().list_commands(ctx), *(plugin.name for plugin in installed("command"))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of them; imports what brings it."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        return next((_loaded(plugin) for plugin in installed("command") if plugin.name == cmd_name), None)


def _loaded(plugin: Installed) -> click.Command:
    """A command of a plugin, or in its place one that says why there is none."""
    try:
        command = plugin.load()
        problem = "is no click command"
    except PluginError as error:
        command, problem = None, str(error)
    if isinstance(command, click.Command):
        return command
    problem = f"command {plugin.name!r} can't be used ({plugin.source}): {problem}"

    def refuse() -> None:
        raise click.ClickException(problem)

    return click.Command(plugin.name, callback=refuse, short_help="Can't be used here; run it to see why.")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(spanhook.__version__, prog_name="spanhook")
def main() -> None:
    """Trace DSPy programs: every call, its tokens, its cost, its user."""
    take_every_character()


for command in (demo, check, plugins):
    main.add_command(command)
