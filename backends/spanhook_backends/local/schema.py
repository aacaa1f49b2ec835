"""The tables of the file. They are part of what users rely on: anybody may ask them by SQL."""

from __future__ import annotations

from dataclasses import fields

from spanhook import Usage

FORMAT = 1
"""In the file as `user_version`. 0: nothing is there yet."""

TOKENS = tuple(field.name for field in fields(Usage))

SPAN_COLUMNS = {
    "trace_id": "TEXT NOT NULL",
    "span_id": "TEXT NOT NULL",
    "parent_id": "TEXT",
    "local_root_id": "TEXT",
    "event_id": "TEXT NOT NULL",
    "kind": "TEXT NOT NULL",
    "name": "TEXT NOT NULL",
    "start_ns": "INTEGER NOT NULL",
    "end_ns": "INTEGER",
    "duration_s": "REAL",
    "user_id": "TEXT",
    "convo_id": "TEXT",
    "model": "TEXT",
    "response_model": "TEXT",
    "provider": "TEXT",
    **dict.fromkeys(TOKENS, "INTEGER"),
    "cost_usd": "REAL",
    "finish_reason": "TEXT",
    "cache_hit": "INTEGER",
    "time_to_first_token_s": "REAL",
    "error_type": "TEXT",
    "error_message": "TEXT",
    "error_traceback": "TEXT",
    "inputs": "TEXT",
    "outputs": "TEXT",
    "attributes": "TEXT",
    "sources": "TEXT",
    "event_is_remote": "INTEGER NOT NULL",
}
"""Name and type of each column of `spans`. The last ones but one are JSON; NULL is "not known", as None is."""

_COLUMNS = ",\n  ".join(f"{name} {kind}" for name, kind in SPAN_COLUMNS.items())
_TOKENS = ", ".join(f"span.{name}" for name in ("input_tokens", "output_tokens", "total_tokens"))

SCHEMA = f"""
CREATE TABLE spans (
  {_COLUMNS},
  PRIMARY KEY (trace_id, span_id)
);
-- What each process has of a trace, by `Span.local_trace_key`, with the span that stands for it: its root, and as long
-- as that has not ended, the one that began first.
CREATE TABLE roots (
  trace_key TEXT PRIMARY KEY,
  trace_id TEXT NOT NULL,
  span_id TEXT NOT NULL,
  start_ns INTEGER NOT NULL,
  is_complete INTEGER NOT NULL,
  service TEXT
);
CREATE INDEX roots_by_start ON roots (start_ns);
CREATE INDEX roots_by_trace ON roots (trace_id);
CREATE INDEX spans_by_event ON spans (event_id) WHERE kind = 'interaction';
CREATE TABLE signals (
  event_id TEXT NOT NULL,
  name TEXT NOT NULL,
  type TEXT NOT NULL,
  time_ns INTEGER NOT NULL,
  sentiment TEXT,
  comment TEXT,
  after TEXT,
  attachment_id TEXT,
  properties TEXT NOT NULL
);
CREATE UNIQUE INDEX signals_by_event ON signals (event_id, name, time_ns, ifnull(attachment_id, ''));
CREATE TABLE users (user_id TEXT PRIMARY KEY, traits TEXT NOT NULL, time_ns INTEGER NOT NULL);
CREATE VIEW traces AS
SELECT root.trace_id, span.event_id, span.span_id, root.is_complete, root.service, span.kind, span.name,
  datetime(root.start_ns / 1000000000, 'unixepoch') AS started_at, root.start_ns, span.duration_s,
  span.user_id, span.convo_id, {_TOKENS}, span.cost_usd,
  (SELECT count(*) FROM spans AS one WHERE one.trace_id = root.trace_id AND one.kind = 'lm') AS lm_calls,
  (SELECT count(*) FROM spans AS one WHERE one.trace_id = root.trace_id AND one.error_type IS NOT NULL) AS errors,
  span.error_type, span.error_message, span.inputs, span.outputs
FROM roots AS root JOIN spans AS span ON span.trace_id = root.trace_id AND span.span_id = root.span_id;
PRAGMA user_version = {FORMAT};
"""
