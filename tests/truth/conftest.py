"""What the tests of the truth of a trace start from."""

from __future__ import annotations

from collections.abc import Iterator

import dspy
import pytest

from lm_server import LMServer
from watched import Watched


@pytest.fixture
def server() -> Iterator[LMServer]:
    with LMServer() as running:
        yield running


@pytest.fixture
def watched() -> Iterator[Watched]:
    """A tracer, and what it saw."""
    watching = Watched()
    with watching.tracer.listen(watching.note):
        yield watching


@pytest.fixture(autouse=True)
def _nothing_in_dspy() -> Iterator[None]:
    """No module is left in DSPy's settings as one that still runs."""
    yield
    assert dspy.settings.caller_modules in (None, [])
