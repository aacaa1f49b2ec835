"""For moving over from Opik's own DSPy integration: its callback's name and parameters, with Spanhook behind it.

from spanhook_backends.opik.drop_in import OpikCallback

dspy.configure(lm=lm, callbacks=[OpikCallback(project_name="support", log_graph=True)])
"""

from __future__ import annotations

from typing import Any

import spanhook


class OpikCallback:
    """A DSPy callback that traces to Opik, usable wherever Opik's own is.

    It traces what it is a callback of: everything with `dspy.configure(callbacks=[…])`, a block with `dspy.context`,
    one module with its own `callbacks`. `tracer` is the tracer behind it, for interactions, users and signals. When all
    is moved, `spanhook.configure()` with a `tracing.toml` takes its place; with both, calls are traced twice.

    Args:
        project_name: the project; None or "": the one that Opik's SDK is configured with.
        log_graph: whether a trace carries a diagram of its program's modules.

    Raises:
        ConfigError: Opik's SDK is configured wrongly.
    """

    tracer: spanhook.Tracer

    def __init__(self, project_name: str | None = None, log_graph: bool = False) -> None:
        options = {"project_name": project_name or None, "log_graph": log_graph}
        self.tracer = spanhook.configure(
            {"tracing": {"instrument": "wrapped", "backends": ["opik"]}, "backends": {"opik": options}}
        )

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until Opik has everything, for at most `timeout_s` seconds; whether it has."""
        return self.tracer.flush(timeout_s)

    def __getattr__(self, name: str) -> Any:
        """DSPy's events, `on_module_start` and the others, go to the tracer's own callback."""
        if not name.startswith("on_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.tracer.callback, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> OpikCallback:
        """A copied program shares it."""
        return self
