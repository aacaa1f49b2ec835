"""For your tests: see the spans that a piece of code makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from spanhook import dspy_compat
from spanhook.config import Settings
from spanhook.config_files import LoadedConfig
from spanhook.dspy_source import DSPySource
from spanhook.errors import InstallError
from spanhook.plugins import loading
from spanhook.span import Span
from spanhook.tracer import Tracer

__all__ = ["capture_spans"]


@contextmanager
def capture_spans(tracer: Tracer | None = None) -> Iterator[list[Span]]:
    """Collect the spans of a `with capture_spans() as spans:` block, each as soon as its call ends.

    Args:
        tracer: whose spans. None: of the tracer that is configured, or, where none is, of one made for this block, with
            the default extractors and no backend.

    A span comes after the spans under it, those of other threads included.
    """
    spans: list[Span] = []
    tracer = tracer or next((c.owner for c in dspy_compat.callbacks() if isinstance(c, DSPySource)), None)
    if tracer is not None:
        with tracer.listen(spans.append):
            yield spans
        return
    settings = Settings()
    own = Tracer(settings, loading.load(LoadedConfig(settings, "capture_spans()"), kinds=("extractor",)))
    # For the threads that the program makes itself; where DSPy lets only another thread do that, this context is what
    # can be seen. Inside of `dspy.context` the process-wide callbacks don't count, so there the context's too.
    with suppress(InstallError):
        own.install()
    overrides = dspy_compat.Overrides(
        callbacks=[*(c for c in dspy_compat.callbacks() if c is not own.callback), own.callback]
    )
    try:
        with own.listen(spans.append):
            yield spans
    finally:
        overrides.undo()
        own.shutdown()
