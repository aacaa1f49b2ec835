"""What the tests of the truth of a trace start from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lm_server import LMServer


@pytest.fixture
def server() -> Iterator[LMServer]:
    with LMServer() as running:
        yield running
