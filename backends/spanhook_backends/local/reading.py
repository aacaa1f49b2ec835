"""What there is to ask of the file. Nothing here changes it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from spanhook import Signal, Span, SpanhookError
from spanhook_backends.local.rows import Row, signal_of, span_of, value_of
from spanhook_backends.local.schema import FORMAT

MIN_PART = 4  # hex digits of a trace id that are enough to ask for it

_TRACES = """
SELECT * FROM traces
WHERE (:user_id IS NULL
       OR EXISTS (SELECT * FROM spans WHERE spans.trace_id = traces.trace_id AND spans.user_id = :user_id))
  AND (:convo_id IS NULL
       OR EXISTS (SELECT * FROM spans WHERE spans.trace_id = traces.trace_id AND spans.convo_id = :convo_id))
  AND (:service IS NULL OR service = :service)
  AND (:signal IS NULL
       OR event_id IN (SELECT event_id FROM signals WHERE signals.name = :signal)
       OR trace_id IN (SELECT trace_id FROM signals JOIN spans USING (event_id)
                       WHERE signals.name = :signal AND spans.kind = 'interaction'))
  AND (NOT :failed OR errors > 0)
  AND start_ns >= :since_ns
ORDER BY start_ns DESC LIMIT :limit
"""
_BY_ID = (
    "SELECT trace_id FROM roots WHERE trace_id = :hex",
    "SELECT trace_id FROM spans WHERE event_id = :id AND kind = 'interaction'",
    "SELECT trace_id FROM spans WHERE span_id = :hex",
    f"SELECT trace_id FROM roots WHERE length(:hex) >= {MIN_PART} AND substr(trace_id, -length(:hex)) = :hex",
)


class NotThere(SpanhookError):  # noqa: N818 - it reads as what is the matter
    """The file can't be read, or has no such trace; the message says what to do."""


@dataclass(slots=True, frozen=True)
class Wanted:
    """Which traces; None, False and 0: all."""

    user_id: str | None = None  # of anything in it
    convo_id: str | None = None  # the same
    service: str | None = None
    signal: str | None = None  # by name
    failed: bool = False  # whether something in it failed
    since_ns: int = 0  # Unix time of their beginning


@contextmanager
def reading(path: Path) -> Iterator[Reading]:
    """Open a file to read it.

    Raises:
        NotThere: it can't be read.
    """
    path = path.absolute()
    if not path.is_file():
        raise NotThere(f'{path}: no such file; is the backend "local" in tracing.toml, and has the program run?')
    db = None
    try:
        db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5.0)
        db.row_factory = sqlite3.Row
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version != FORMAT:
            raise NotThere(f"{path}: no file of Spanhook's traces, or of another release (format {version})")
        yield Reading(db)
    except sqlite3.Error as error:
        raise NotThere(f"{path}: can't be read: {error}") from error
    finally:
        if db is not None:
            db.close()


class Reading:
    """An open file."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def traces(self, wanted: Wanted, limit: int) -> list[Row]:
        """Rows of the view `traces`, the latest first."""
        given = {name: getattr(wanted, name) for name in Wanted.__dataclass_fields__}
        return [_plain(row) for row in self._db.execute(_TRACES, {**given, "limit": limit})]

    def latest(self) -> str:
        """The id of the trace that began last.

        Raises:
            NotThere: there is none.
        """
        for row in self._db.execute("SELECT trace_id FROM roots ORDER BY start_ns DESC LIMIT 1"):
            return str(row["trace_id"])
        raise NotThere("there is no trace yet")

    def find(self, given: str) -> str:
        """The id of the trace that is meant by its id, its last digits, an event's id or a span's.

        Raises:
            NotThere: there is none, or more than one.
        """
        ids = {"id": given, "hex": given.replace("-", "").lower()}
        for query in _BY_ID:
            found = {str(row["trace_id"]) for row in self._db.execute(query, ids)}
            if len(found) > 1:
                raise NotThere(f"{given}: that may be any of {', '.join(sorted(found))}")
            if found:
                return found.pop()
        raise NotThere(f"{given}: no such trace; `spanhook traces` lists them")

    def spans(self, trace_id: str, *, roots_last: bool = False) -> Iterator[Span]:
        """The spans of a trace, by their start; `roots_last`: those that are at the top in their process at the end."""
        first = "parent_id IS NULL OR span_id IS local_root_id, " if roots_last else ""
        query = f"SELECT * FROM spans WHERE trace_id = ? ORDER BY {first}start_ns, rowid"
        return (span_of(row) for row in self._db.execute(query, (trace_id,)))

    def root(self, row: Row) -> Span:
        """The span that stands for a row of the view `traces`."""
        query = "SELECT * FROM spans WHERE trace_id = ? AND span_id = ?"
        return span_of(self._db.execute(query, (row["trace_id"], row["span_id"])).fetchone())

    def signals(self, trace_id: str) -> list[Signal]:
        """The feedback on what is in a trace, by time."""
        query = """
        SELECT * FROM signals WHERE event_id IN (SELECT event_id FROM spans WHERE trace_id = ?) ORDER BY time_ns
        """
        return [signal_of(row) for row in self._db.execute(query, (trace_id,))]

    def traits(self, user_id: str) -> dict[str, object]:
        """What is known of a user."""
        for row in self._db.execute("SELECT traits FROM users WHERE user_id = ?", (user_id,)):
            return dict(value_of(row["traits"]))
        return {}


def _plain(row: Row) -> Row:
    values = {name: row[name] for name in row.keys()}  # noqa: SIM118 - a sqlite3.Row is no mapping
    return {**values, "inputs": value_of(values["inputs"]), "outputs": value_of(values["outputs"])}
