"""Work on threads of a test's own, and the end of ours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from doubles import WAIT_S, wait_for


@contextmanager
def in_thread(work: Any) -> Iterator[list[Any]]:
    """Run `work` beside the block; its result is there afterwards."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    yield results
    thread.join(WAIT_S)
    assert not thread.is_alive()


def in_threads(work: Any, number: int) -> None:
    """Run `work(index)` in threads that start together."""
    barrier = threading.Barrier(number)

    def run(index: int) -> None:
        barrier.wait(WAIT_S)
        work(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()


def end_of(name: str) -> None:
    """Wait until the thread of this name has ended."""
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(WAIT_S)
            assert not thread.is_alive()


def end_of_all() -> None:
    """Wait until no thread of ours is left."""
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("spanhook-")])
