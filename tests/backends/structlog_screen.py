"""What the tests of the tree on the terminal share."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from spanhook import Span, Tracer

Configure = Callable[..., Tracer]


class Screen:
    """What was printed to stdout."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def text(self) -> str:
        """All since the last look."""
        return self._capsys.readouterr().out

    def tree(self) -> str:
        """The same from column 7 on, with every duration as `~` and every id of ours as `ID`."""
        text = re.sub(r"(?m)^ +[\d.]+ (ms|µs|s)  ", "~  ", self.text())
        text = re.sub(r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b", "ID", text)
        return re.sub(r"(?m)^ {7}| +$", "", text)


def block(text: str) -> str:
    """An expected trace: dedented, with the empty line that ends it."""
    return textwrap.dedent(text).removeprefix("\n") + "\n"


def span(name: str, number: int, parent: int | None = None, trace: str = "a", **more: Any) -> Span:
    """A finished span; its id is its number, and it starts in that order."""
    return Span(
        trace_id=trace * 32,
        span_id=f"{number:016x}",
        parent_id=None if parent is None else f"{parent:016x}",
        event_id=f"event-{trace}",
        name=name,
        start_ns=number * 1_000_000,
        end_ns=number * 1_000_000 + 2_000_000,
        **{"kind": "custom", **more},
    )
