"""Traces in a file on this machine, to look at with `spanhook traces`, `spanhook show` or SQL: no service, no key."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from spanhook import PluginOptions, RetryLater, Signal, Span, TracingSettings, hookimpl
from spanhook_backends.local.store import Store

DEFAULT_PATH = Path(".spanhook", "traces.db")


class LocalBackend:
    """Keeps spans, identities and signals in an SQLite database, for some time and up to some size."""

    class Options(PluginOptions):
        """`[backends.local]`."""

        path: Annotated[Path, AfterValidator(lambda path: Path(os.path.expanduser(path)))] = DEFAULT_PATH
        """The file; several processes may share it. It and its folder are made readable for their user only."""

        max_days: float = Field(default=30.0, gt=0, allow_inf_nan=False)
        """How long a trace stays, in days."""

        max_mb: float = Field(default=500.0, ge=1, allow_inf_nan=False)
        """How much there may be in the file, in megabytes; beyond it the oldest traces are deleted."""

    def __init__(self, options: Options | None = None, tracing: TracingSettings | None = None) -> None:
        options = options if options is not None else self.Options()
        service = tracing.service if tracing is not None else None
        self._store = Store(options.path, service, max_days=options.max_days, max_bytes=int(options.max_mb * 1e6))
        self._store.check()

    @hookimpl
    def emit(self, spans: Sequence[Span]) -> None:
        """Write the spans; one that is there already is replaced."""
        with _retried():
            self._store.add_spans(spans)

    @hookimpl
    def identify(self, user_id: str, traits: Mapping[str, object]) -> None:
        """Write who a user is; what was said before still holds, but for traits of the same name."""
        with _retried():
            self._store.add_user(user_id, traits)

    @hookimpl
    def track_signal(self, signal: Signal) -> None:
        """Write a user's feedback."""
        with _retried():
            self._store.add_signal(signal)


@contextmanager
def _retried() -> Iterator[None]:
    """What may be over soon is tried again: a lock, a full disk, a folder that is not there now."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise RetryLater(str(error)) from error
    except OSError as error:
        raise RetryLater(error.strerror or type(error).__name__) from error
