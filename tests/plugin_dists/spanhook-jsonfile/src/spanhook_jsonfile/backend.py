"""The backend `jsonfile`: one JSON line for each span, identity and signal."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import spanhook


class JSONFileBackend:
    """Appends to a file."""

    class Options(spanhook.PluginOptions):
        """`[backends.jsonfile]` in tracing.toml."""

        path: Path
        errors_only: bool = False

    def __init__(self, options: Options) -> None:
        self._options = options
        if not options.path.parent.is_dir():
            raise ValueError(f"there is no folder {options.path.parent} for the file")

    @spanhook.hookimpl
    def emit(self, spans: Sequence[spanhook.Span]) -> None:
        """Write a batch of finished spans."""
        wanted = [span for span in spans if span.error is not None or not self._options.errors_only]
        self._append([{"record": "span", **span.to_dict()} for span in wanted])

    @spanhook.hookimpl
    def identify(self, user_id: str, traits: Mapping[str, Any]) -> None:
        """Write who a user is."""
        self._append([{"record": "identity", "user_id": user_id, "traits": traits}])

    @spanhook.hookimpl
    def track_signal(self, signal: spanhook.Signal) -> None:
        """Write a user's feedback."""
        self._append([{"record": "signal", **asdict(signal)}])

    def _append(self, records: Sequence[Mapping[str, Any]]) -> None:
        with self._options.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
