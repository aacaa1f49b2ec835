"""The dict that stays small."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from spanhook_backends.bounded import Bounded


@pytest.fixture
def _many_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_the_oldest_entry_goes_first() -> None:
    """One that is replaced is young again."""
    kept: Bounded[int] = Bounded(2)
    for number, key in enumerate(("a", "b", "a", "c")):
        kept.put(key, number)
    assert dict(kept) == {"a": 2, "c": 3}


@pytest.mark.usefixtures("_many_switches")
def test_threads_may_share_it() -> None:
    """New and known keys, put by many threads at once: nothing raises, and it stays small."""
    kept: Bounded[int] = Bounded(3)
    failed: list[BaseException] = []

    def put(own: int) -> None:
        try:
            for number in range(5_000):
                kept.put(f"{own} {number}" if number % 2 else f"{number % 8}", number)
        except KeyError as error:
            failed.append(error)

    threads = [threading.Thread(target=put, args=(own,)) for own in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(kept) <= 3
