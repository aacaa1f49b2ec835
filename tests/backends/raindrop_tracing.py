"""What the tests of the Raindrop backend share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from raindrop_server import RaindropServer

import spanhook

WAIT_S = 30.0


@contextmanager
def traced(raindrop: RaindropServer, **options: Any) -> Iterator[spanhook.Tracer]:
    """A tracer whose only backend is Raindrop; everything has arrived, and was as it should be, when the block ends."""
    with tracing(raindrop, **options) as tracer:
        yield tracer
        assert tracer.flush(WAIT_S)
    assert raindrop.problems == []
    counted = tracer.stats()
    assert counted.errors == {}
    assert counted.backends["raindrop"].delivered == counted.backends["raindrop"].accepted


def wait_for_threads() -> None:
    """For the end of those that a hanging server held up."""
    while held_up := [thread for thread in threading.enumerate() if thread.name.startswith("spanhook-raindrop")]:
        held_up[0].join(WAIT_S)


@contextmanager
def tracing(
    raindrop: RaindropServer, *, section: dict[str, Any] | None = None, **options: Any
) -> Iterator[spanhook.Tracer]:
    """A tracer whose only backend is Raindrop, with more options for it; `section` is more of `[tracing]`."""
    tracer = spanhook.configure(
        {
            "tracing": {"backends": ["raindrop"], **(section or {})},
            "backends": {"raindrop": {**raindrop.options, **options}},
        }
    )
    try:
        yield tracer
    finally:
        tracer.shutdown(WAIT_S)
