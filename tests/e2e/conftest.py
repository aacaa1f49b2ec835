"""What the end-to-end tests share: the real model, and a way to run the program with spans sent to a receiver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import dspy
import program
import pytest
from program import Sent

import spanhook
from spanhook.cli.demo_model import DemoModel, real_model

FLUSH_TIMEOUT_S = 120.0  # the first writes to a new database are slow


@pytest.fixture(scope="session")
def model() -> Iterator[DemoModel]:
    """The small real model, in this process."""
    with real_model() as served:
        yield served


@pytest.fixture
def send(model: DemoModel) -> Iterator[Callable[..., Sent]]:
    """`send(**options)`: run the program with these options of the backend; everything has been delivered then."""
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)  # an answer of another run is no answer

    def run(**options: Any) -> Sent:
        sections = {
            "tracing": {"backends": ["otlp"], "service": "spanhook-e2e"},
            "backends": {"otlp": {"timeout_s": 30, **options}},
        }
        tracer = spanhook.configure(sections)
        sent = program.run(model, tracer)
        assert tracer.flush(FLUSH_TIMEOUT_S)
        counted = tracer.stats().backends["otlp"]
        assert (counted.delivered, counted.failed, counted.dropped) == (len(sent.spans) + 2, 0, {})
        tracer.shutdown()
        return sent

    yield run
    dspy.configure_cache()
