"""The line that `spanhook traces` has for a trace."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.text import Text

from spanhook import Signal, Span
from spanhook_backends.local.rows import Row
from spanhook_backends.terminal import facts
from spanhook_backends.terminal.lines import Fact, fit
from spanhook_backends.terminal.previews import clip, slim

ID_DIGITS = 8  # of a trace's id, its last ones: the first are the time
MIN_PREVIEW = 24  # cells that the rest of a line leaves to what was asked and answered


def line(row: Row, root: Span, signals: Sequence[Signal], width: int) -> Text:
    """When it was, what it was, what went wrong, what it cost, whose it was, and what was asked and answered.

    Args:
        row: of the view `traces`.
        root: its span.
        signals: the feedback on it.
        width: in cells.
    """
    span = slim(root)
    began = datetime.fromtimestamp(row["start_ns"] / 1e9).strftime("%m-%d %H:%M:%S")
    took = "…" if root.duration_s is None else facts.duration(root.duration_s)
    start = Text.assemble((row["trace_id"][-ID_DIGITS:], "cyan"), "  ", (f"{began} {took:>8}  ", "dim"))
    start = start + facts.label(span)
    said = list(_said(row, span, signals))
    if not (span.inputs or span.outputs):
        return fit(start, facts.name(span), said, width)
    shown = fit(start, facts.name(span), said, max(width - MIN_PREVIEW, start.cell_len)).append("  ")
    return shown.append_text(facts.in_out(span.inputs, span.outputs, max(1, width - shown.cell_len)))


def _said(row: Row, span: Span, signals: Sequence[Signal]) -> list[Fact]:
    said: list[Fact] = []
    if not row["is_complete"]:
        said.append((Text("incomplete", "yellow"),))
    if span.error is not None:
        said.append((Text(f"✗ {span.error.type}", "red"),))
    elif errors := row["errors"]:
        said.append((Text(f"{errors} error{'s' if errors > 1 else ''}", "red"),))
    styles = {"POSITIVE": "green", "NEGATIVE": "red"}
    said += [(Text(clip(signal.name, 40), styles.get(signal.sentiment or "", "bold")),) for signal in signals[:3]]
    if span.user_id is not None:
        user = Text(f"user {clip(span.user_id, 40)}", "dim")
        said.append((user, Text(f"user {clip(span.user_id, 16)}", "dim")))
    if span.cost_usd:
        said.append((Text(facts.cost(span.cost_usd)),))
    if span.usage:
        said.append((Text(facts.tokens(span.usage)), Text(facts.tokens(span.usage).removesuffix(" tokens"))))
    if calls := row["lm_calls"]:
        said.append((Text(f"{calls} LM call{'s' if calls > 1 else ''}", "dim"), Text()))
    if row["service"]:
        said.append((Text(clip(row["service"], 40), "dim"), Text()))
    return said
