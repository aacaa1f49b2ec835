"""The end of a process that traces to Raindrop, and processes that fork."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("raindrop")

from raindrop_server import RaindropServer
from raindrop_tracing import WAIT_S, traced

PROGRAM = """
import sys
import dspy
from dspy.utils import DummyLM
import spanhook

dspy.configure(lm=DummyLM([{"answer": "x"}] * 100))
tracer = spanhook.configure({
    "tracing": {"backends": ["raindrop"]},
    "delivery": {"exit_timeout_s": float(sys.argv[3])},
    "backends": {"raindrop": {"api_key": sys.argv[2], "endpoint": sys.argv[1], "app_git": False}},
})
predict = dspy.Predict("question -> answer")
for number in range(30):
    predict(question=f"{number}?")
"""


def run(endpoint: str, key: str, exit_timeout_s: float) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", PROGRAM, endpoint, key, str(exit_timeout_s)]
    return subprocess.run(program, capture_output=True, text=True, timeout=100)


def test_a_short_script_loses_nothing(raindrop: RaindropServer) -> None:
    """It ends at once after its calls, without a flush: everything has arrived, and nothing is complained of."""
    done = run(raindrop.endpoint, raindrop.key, 60)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(raindrop.events) == 30
    assert len(raindrop.spans) == 30
    assert raindrop.problems == []


@pytest.mark.parametrize(("trouble", "timeout_s"), [("hang", 2), ("nobody there", 60)])
def test_an_exit_waits_for_nobody(raindrop: RaindropServer, trouble: str, timeout_s: float) -> None:
    """A server that hangs, or none: the process ends, and says what is lost.

    The SDK's own thread never has anything to send, or the SDK would wait for it, ten seconds beyond our timeout.
    """
    raindrop.fault(hang=True)
    endpoint = raindrop.endpoint if trouble == "hang" else "http://127.0.0.1:1/v1/"
    done = run(endpoint, raindrop.key, timeout_s)
    assert done.returncode == 0
    lost = "not sent in time" if trouble == "hang" else "dropped (not reachable)"
    assert f"not delivered: backend raindrop: 120 {lost}" in done.stderr
    assert len(raindrop.requests) == (trouble == "hang")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_worker_sends_its_own(raindrop: RaindropServer) -> None:
    """A process that has traced already forks: parent and child each send their own events, and each of them once."""
    with traced(raindrop) as tracer:
        with tracer.interaction(event_id="before") as interaction:
            interaction.inputs = {"question": "Why?"}
        assert tracer.flush(WAIT_S)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with tracer.interaction(event_id="child") as interaction:
                    interaction.inputs = {"question": "Why?"}
                status = 0 if tracer.shutdown(WAIT_S) else 2
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        with tracer.interaction(event_id="parent") as interaction:
            interaction.inputs = {"question": "Why?"}
    assert sorted(event["event_id"] for event in raindrop.events) == ["before", "child", "parent"]
    assert len([request for request in raindrop.requests if request.path.endswith("events/track")]) == 3
