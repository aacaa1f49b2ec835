"""Placeholder."""

from __future__ import annotations

from spanhook import hookimpl


class StructlogBackend:
    """Placeholder."""

    @hookimpl
    def emit(self, spans):
        """Print."""
        for s in spans:
            print(s.kind, s.name, s.parent_id, s.span_id, s.usage, s.finish_reason, s.cache_hit, s.inputs, s.outputs, s.error and s.error.type, s.attributes)
