"""Forked processes: the child has its own queues and threads, and what the parent had accepted is the parent's."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import spanhook
from doubles import WAIT_S, Gate, Memory, one_span, tracer_of
from forks import Writing, in_child
from spanhook import Tracer

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),  # forking with threads is what is tested
]


def named(memory: Memory) -> list[str]:
    return [span.name for span in memory.spans]


def our_threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("spanhook-"))


def test_the_child_starts_with_nothing_and_the_parent_delivers_its_own():
    """Empty queues and counts, no thread until there is something to do; nothing is delivered twice."""
    memory = Memory()
    tracer = tracer_of(memory, delivery={"interval_s": 60})
    for name in "abc":
        one_span(tracer, name)

    def child() -> Any:
        before = (tracer.stats().backends["a"].accepted, our_threads())
        one_span(tracer, "child")
        identified = tracer.identify("u")
        flushed = tracer.flush(WAIT_S)
        stats = tracer.stats().backends["a"]
        return [*before, identified, flushed, named(memory), stats.accepted, stats.delivered, our_threads()]

    assert in_child(child) == [0, [], True, True, ["child"], 2, 2, ["spanhook-a", "spanhook-intake"]]
    assert tracer.flush(WAIT_S)
    assert named(memory) == ["a", "b", "c"]
    assert tracer.stats().backends["a"].delivered == 3


def test_while_a_backend_is_sending():
    """A parent's thread in the middle of a send stays the parent's; the child's backend is free."""
    gate = Gate()
    memory = Memory(lambda _: gate() if os.getpid() == parent else None)
    parent = os.getpid()
    tracer = tracer_of(memory)
    one_span(tracer, "sending")
    assert tracer.flush(0) is False
    assert gate.reached.wait(WAIT_S)

    def child() -> Any:
        one_span(tracer, "child")
        return [tracer.flush(WAIT_S), named(memory), tracer.shutdown(WAIT_S)]

    assert in_child(child) == [True, ["child"], True]
    gate.open()
    assert tracer.flush(WAIT_S)
    assert named(memory) == ["sending"]


@contextmanager
def held(lock: Any) -> Iterator[None]:
    """Another thread holds `lock`, as it may in the moment of a fork."""
    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            release.wait(WAIT_S)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(WAIT_S)
    try:
        yield
    finally:
        release.set()
        thread.join(WAIT_S)


LOCKS: dict[str, Callable[[Tracer], Any]] = {
    "of the counts of errors": lambda tracer: tracer._guard._lock.here,
    "of a backend's counts": lambda tracer: tracer._pipeline._workers["a"]._lock,
    "of the start of threads": lambda tracer: tracer._pipeline._lock.here,
}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_that_is_held_in_the_parent_holds_up_no_child(lock):
    """Whatever another thread was doing, the child traces, counts, flushes and shuts down."""
    memory = Memory()
    tracer = tracer_of(memory, delivery={"interval_s": 60})
    one_span(tracer, "parent")

    def child() -> Any:
        with tracer.span("child"):
            tracer.interaction(event_id=lambda: 1 / 0)  # an error that is counted  # type: ignore[arg-type]
        return [tracer.stats().errors, tracer.flush(WAIT_S), named(memory), tracer.shutdown(WAIT_S)]

    with held(LOCKS[lock](tracer)):
        assert in_child(child) == [{"interaction: event_id(): ZeroDivisionError": 1}, True, ["child"], True]
    assert tracer.flush(WAIT_S)
    assert named(memory) == ["parent"]


def test_a_fork_waits_until_a_block_is_over():
    """A plugin may write to what the program's child needs, too."""
    writing = Writing()

    def work() -> None:
        with spanhook.without_forks():
            writing()

    thread = threading.Thread(target=work)
    thread.start()
    assert writing.is_over_in_child()
    thread.join(WAIT_S)


def test_a_fork_waits_until_a_log_line_is_written(monkeypatch):
    """Of ours, by a handler of the program's: its lock, or its file's, would stay locked in the child."""
    writing = Writing()
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", writing)
    monkeypatch.setattr(logging.getLogger("spanhook"), "handlers", [handler])
    tracer = tracer_of(Memory(lambda _: 1 / 0))
    one_span(tracer)
    assert tracer.flush(0) is False
    assert writing.is_over_in_child()
    tracer.shutdown(WAIT_S)


def test_a_block_without_end_holds_up_a_fork_no_longer_than_a_second():
    """The program comes first; nothing waits for the block in the child."""
    with held(spanhook.without_forks()):
        assert in_child(_enter_a_block) == "entered"
    assert in_child(_enter_a_block) == "entered"


def test_a_thread_may_fork_in_its_own_block():
    """It does not wait for itself, and goes on in both processes."""
    with spanhook.without_forks(), spanhook.without_forks():
        assert in_child(_enter_a_block) == "entered"
    assert in_child(_enter_a_block) == "entered"


def _enter_a_block() -> str:
    with spanhook.without_forks():
        return "entered"


def test_a_child_that_traced_nothing_leaves_the_backends_alone():
    """What they hold is the parent's: a child's exit neither flushes it nor shuts them down."""
    memory = Memory()
    tracer = tracer_of(memory)
    one_span(tracer)
    assert tracer.flush(WAIT_S)
    assert in_child(lambda: [tracer.flush(), tracer.shutdown(), memory.hooks]) == [True, True, ["emit", "flush"]]
    one_span(tracer)
    assert tracer.shutdown(WAIT_S)
    assert memory.hooks == ["emit", "flush", "emit", "flush", "shutdown"]


def test_a_tracer_that_was_shut_down_stays_so_in_a_child():
    """Its backends let go of their files and sockets: a fork doesn't bring them back."""
    memory = Memory()
    tracer = tracer_of(memory)
    one_span(tracer)
    assert tracer.shutdown(WAIT_S)
    assert in_child(lambda: [tracer.identify("u"), our_threads(), len(memory.hooks)]) == [False, [], 3]


def test_parent_and_child_never_make_the_same_id():
    """Of traces and of spans, though they start from the same state."""
    tracer = tracer_of(Memory())

    def ids() -> list[str]:
        found = []
        for _ in range(50):
            with tracer.span("work") as span:
                found += [span.trace_id, span.span_id]
        return found

    all_ids = [*in_child(ids), *in_child(ids), *ids()]
    assert len(set(all_ids)) == len(all_ids) == 300


def test_a_grandchild():
    """Each generation starts anew."""
    memory = Memory()
    tracer = tracer_of(memory)
    one_span(tracer, "parent")

    def work(name: str) -> Any:
        one_span(tracer, name)
        return [tracer.flush(WAIT_S), named(memory)]

    def child() -> Any:
        one_span(tracer, "waiting")
        return [in_child(lambda: work("grandchild")), work("child")]

    grandchild, of_child = in_child(child)
    assert grandchild == [True, ["grandchild"]]
    assert of_child == [True, ["waiting", "child"]]
    assert tracer.flush(WAIT_S)
    assert named(memory) == ["parent"]
