"""A test's spans, to be compared with what was to come."""

from __future__ import annotations

from collections.abc import Sequence

from spanhook import Span


def tree(spans: Sequence[Span]) -> list[str]:
    """The spans as indented `kind name` lines, in the order in which they started."""
    depth: dict[str | None, int] = {None: -1}
    lines = []
    for span in sorted(spans, key=lambda span: span.start_ns):
        depth[span.span_id] = depth[span.parent_id] + 1
        lines.append(f"{'  ' * depth[span.span_id]}{span.kind} {span.name}")
    return lines


def only(spans: Sequence[Span], kind: str) -> Span:
    """The one span of a kind."""
    (found,) = [span for span in spans if span.kind == kind]
    return found
