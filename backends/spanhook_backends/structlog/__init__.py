"""Traces in the program's own log, or on the terminal: the backend that needs no key, no network and no file."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, TextIO

import structlog
from pydantic import Field
from rich.console import Console

from spanhook import PluginOptions, Signal, Span, TracingSettings, hookimpl, without_forks
from spanhook_backends.structlog.events import EventLog, log_to_program
from spanhook_backends.structlog.json_lines import write_lines
from spanhook_backends.terminal import Terminal
from spanhook_backends.terminal.waiting import Waiting


class StructlogBackend:
    """One log event a span through the program's structlog; where that is not configured, a tree or JSON lines.

    No fork comes in between: the child could never write to the same stream or log again.
    """

    class Options(PluginOptions):
        """`[backends.structlog]`."""

        format: Literal["auto", "tree", "json", "events"] = "auto"
        """"events": one event a span through the program's own structlog configuration; "tree": an indented tree a
        trace; "json": one line of JSON a span. "auto": events where structlog is configured, else the tree on a
        terminal or in a notebook, else JSON."""

        stream: Literal["stderr", "stdout"] = "stderr"
        """Where the tree and the JSON lines go. Events go where the program's configuration sends them."""

        show_adapters: bool = False
        """Whether the tree has a line for every adapter call, not only for those that failed."""

        max_children: int = Field(default=50, ge=1)
        """How many calls the tree shows under one call; the others are summed up in one line."""

    def __init__(self, options: Options | None = None, tracing: TracingSettings | None = None) -> None:
        self._options = options if options is not None else self.Options()
        service = tracing.service if tracing is not None else None
        self._common = {"service": service} if service else {}
        self._waiting = Waiting()
        self._pid = os.getpid()

    @hookimpl
    def emit(self, spans: Sequence[Span]) -> None:
        """Log the spans; the tree keeps them until the root of their trace has ended."""
        with without_forks():
            self._output().emit(spans)

    @hookimpl
    def identify(self, user_id: str, traits: Mapping[str, object]) -> None:
        """Log what the program said of a user."""
        with without_forks():
            self._output().identify(user_id, traits)

    @hookimpl
    def track_signal(self, signal: Signal) -> None:
        """Log a user's feedback."""
        with without_forks():
            self._output().track_signal(signal)

    @hookimpl
    def flush(self) -> None:
        """Show what has ended of the traces that still run; each is shown as a whole when its root ends.

        There is nothing more to do at shutdown: a flush comes before it.
        """
        if self._traces().has_news:
            with without_forks():
                self._terminal(self._stream()).show_unfinished()

    def _output(self) -> EventLog | Terminal:
        """Decided for each batch: a program may configure structlog, or redirect its streams, at any time."""
        wanted = self._options.format
        if wanted == "events" or (wanted == "auto" and structlog.is_configured()):
            return EventLog(log_to_program, self._common)
        stream = self._stream()
        if wanted == "tree" or (wanted == "auto" and _is_read_by_people(stream)):
            return self._terminal(stream)
        return EventLog(partial(write_lines, stream), self._common)

    def _terminal(self, stream: TextIO) -> Terminal:
        options = self._options
        return Terminal(stream, self._traces(), show_adapters=options.show_adapters, max_children=options.max_children)

    def _traces(self) -> Waiting:
        if self._pid != os.getpid():  # forked: what waits here is the parent's to show
            self._waiting, self._pid = Waiting(), os.getpid()
        return self._waiting

    def _stream(self) -> TextIO:
        stream: TextIO | None = getattr(sys, self._options.stream)
        if stream is None:
            raise RuntimeError(f"this process has no {self._options.stream} to write to")
        return stream


def _is_read_by_people(stream: TextIO) -> bool:
    isatty = getattr(stream, "isatty", None)  # what a program puts in the place of a stream may have only `write`
    return bool(isatty and isatty()) or Console().is_jupyter
