"""`spanhook traces` and `spanhook show`: what is in the file."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from spanhook import SpanhookError, read_settings
from spanhook_backends.local import LocalBackend, listing, whole
from spanhook_backends.local.reading import Reading, Wanted, reading
from spanhook_backends.terminal import Terminal
from spanhook_backends.terminal.waiting import Waiting

F = TypeVar("F", bound=Callable[..., Any])

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _ago(ctx: click.Context, param: click.Parameter, value: str | None) -> int:
    """How long ago, as a Unix time in nanoseconds; 0 for any time."""
    if value is None:
        return 0
    found = _DURATION.fullmatch(value)
    if found is None:
        raise click.BadParameter(f"{value!r} is no duration; write 30m, 2h or 7d", ctx, param)
    return time.time_ns() - int(float(found[1]) * _SECONDS[found[2]] * 1e9)


def _of_a_file(command: F) -> F:
    """The options that both commands have."""
    file = click.option(
        "--path",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The file. By default that of [backends.local] in the configuration here.",
    )
    return file(click.option("--json", "as_json", is_flag=True, help="JSON in place of text for people.")(command))


@click.command(short_help="List the traces that the backend `local` has kept.")
@click.option("--user", "user_id", help="Those of this user.")
@click.option("--convo", "convo_id", help="Those of this conversation.")
@click.option("--service", help="Those of this program, by the `service` of its tracing.toml.")
@click.option("--signal", help="Those with feedback of this name, thumbs_down for example.")
@click.option("--failed", is_flag=True, help="Those in which something failed.")
@click.option("--since", "since_ns", callback=_ago, help="Those that began at most so long ago: 30m, 2h, 7d.")
@click.option("--limit", "-n", type=click.IntRange(min=1), default=20, show_default=True, help="How many at most.")
@_of_a_file
def traces(
    user_id: str | None,
    convo_id: str | None,
    service: str | None,
    signal: str | None,
    failed: bool,
    since_ns: int,
    limit: int,
    path: Path | None,
    as_json: bool,
) -> None:
    """List the traces that the backend `local` has kept, the latest first.

    A line for each, with the end of its id in front: `spanhook show` takes that.
    """
    wanted = Wanted(user_id, convo_id, service, signal, failed, since_ns)
    with _opened(path) as store:
        rows = store.traces(wanted, limit)
        if as_json:
            click.echo(json.dumps(rows, indent=2))
            return
        terminal = _terminal()
        terminal.show(
            listing.line(row, store.root(row), store.signals(row["trace_id"]), terminal.width) for row in rows
        )
        if not rows:
            click.echo("No such trace.", err=True)


@click.command(short_help="Show a trace that the backend `local` has kept.")
@click.argument("id", required=False)
@click.option("--full", is_flag=True, help="All inputs, outputs and attributes, whole, and tracebacks.")
@click.option("--adapters", is_flag=True, help="A line for every adapter call, not only for those that failed.")
@_of_a_file
def show(id: str | None, full: bool, adapters: bool, path: Path | None, as_json: bool) -> None:
    """Show a trace as a tree, with the feedback on it.

    ID is that of a trace or its last digits, of an event or of a span. Without one, the latest trace is shown.
    """
    with _opened(path) as store:
        trace_id = store.latest() if id is None else store.find(id)
        if as_json:
            click.echo(json.dumps(_as_data(store, trace_id), indent=2))
            return
        terminal = _terminal(show_adapters=adapters or full, max_children=sys.maxsize if full else 50)
        terminal.emit(store.spans(trace_id, roots_last=True))
        terminal.show_unfinished()
        if full:
            terminal.show(whole.block(span) for span in store.spans(trace_id))
        for signal in store.signals(trace_id):
            terminal.track_signal(signal)
        for user_id in dict.fromkeys(span.user_id for span in store.spans(trace_id) if span.user_id is not None):
            if traits := store.traits(user_id):
                terminal.identify(user_id, traits)


def _as_data(store: Reading, trace_id: str) -> dict[str, Any]:
    spans = list(store.spans(trace_id))
    users = dict.fromkeys(span.user_id for span in spans if span.user_id is not None)
    return {
        "trace_id": trace_id,
        "spans": [span.to_dict() for span in spans],
        "signals": [asdict(signal) for signal in store.signals(trace_id)],
        "users": {user_id: store.traits(user_id) for user_id in users},
    }


@contextmanager
def _opened(path: Path | None) -> Iterator[Reading]:
    problems: list[str] = []
    try:
        with reading(path or _configured_path(problems)) as store:
            yield store
    except SpanhookError as error:  # what is wrong with the configuration may be why
        raise click.ClickException("\n".join([str(error), *problems])) from error


def _configured_path(problems: list[str]) -> Path:
    section = read_settings(problems=problems).backends.get("local", {})
    try:
        return LocalBackend.Options(**section).path
    except ValidationError:
        raise click.ClickException("[backends.local] is not valid here; `spanhook check` says why") from None


def _terminal(*, show_adapters: bool = False, max_children: int = 50) -> Terminal:
    return Terminal(sys.stdout, Waiting(sys.maxsize), show_adapters=show_adapters, max_children=max_children)
