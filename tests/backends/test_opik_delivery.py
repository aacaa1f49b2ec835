"""What is counted as delivered has arrived: refusals, outages, hangs, the end of the process, and odd content."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM
from opik_case import OpikCase, opik_case, options
from opik_server import OpikServer

import spanhook
from http_server import Exchange, HTTPServer
from programs import Answerer
from spanhook import TracingSettings

PROGRAM = """
import json, os, sys
import dspy, spanhook
from dspy.utils import DummyLM

tracer = spanhook.configure(json.loads(sys.argv[1]))
dspy.configure(lm=DummyLM([{"answer": "Rome"}] * 9))
answer = dspy.Predict("question -> answer")(question="Why?").answer
"""


@pytest.fixture
def case() -> Iterator[OpikCase]:
    with opik_case() as running:
        yield running


def run(settings: dict[str, Any], then: str) -> subprocess.CompletedProcess[str]:
    """A process that traces one call, does `then` and ends."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM + then, json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=60,  # the SDK alone would take two minutes and more
        check=False,
    )


def settings(server: OpikServer, exit_timeout_s: float = 5.0) -> dict[str, Any]:
    return {
        "tracing": {"backends": ["opik"]},
        "delivery": {"exit_timeout_s": exit_timeout_s},
        "backends": {"opik": options(server)},
    }


@pytest.mark.parametrize(("status", "hint"), [(401, "check api_key"), (400, "refused it")])
def test_a_refusal_is_counted_and_said_once(
    case: OpikCase, caplog: pytest.LogCaptureFixture, status: int, hint: str
) -> None:
    """The program doesn't notice; the statistics and the flush tell of every span, the log once and of the reason."""
    with case.opik.fail(status), caplog.at_level(logging.WARNING, "spanhook"):
        for _ in range(2):
            assert Answerer()(question="Why?").answer.startswith("answer-")
            assert not case.tracer.flush(30.0)
    stats = case.tracer.stats().backends["opik"]
    assert (stats.accepted, stats.failed, stats.delivered, stats.queued) == (10, 10, 0, 0)
    (record,) = [record for record in caplog.records if record.name == "spanhook"]
    assert hint in record.getMessage()
    assert f"HTTP {status}" in record.getMessage()
    assert case.opik.url in record.getMessage()
    assert str(case.opik.api_key) not in record.getMessage()


def test_what_comes_after_a_refusal_arrives(case: OpikCase) -> None:
    """One refused batch loses nothing but itself, and the next flush is about what came since."""
    with case.opik.fail(400):
        Answerer()(question="Why?")
        assert not case.tracer.flush(30.0)
    Answerer()(question="Why?")
    assert case.tracer.flush(30.0)
    assert len(case.traces) == 1


@pytest.mark.parametrize(("status", "arrives"), [(307, True), (308, True), (301, False), (302, False)])
def test_a_redirect(status: int, arrives: bool, caplog: pytest.LogCaptureFixture) -> None:
    """One that keeps the request is followed, and what arrives counts; one that makes a GET of it is a refusal."""

    class Redirecting(HTTPServer):
        def serve(self, exchange: Exchange) -> None:
            exchange.reply(status, headers={"Location": f"http://127.0.0.1:{opik.port}{exchange.path}"})

    with OpikServer(api_key=None) as opik, Redirecting() as front:
        moved = {**options(opik), "host": f"http://127.0.0.1:{front.port}/api/", "api_key": None}
        tracer = spanhook.configure({"tracing": {"backends": ["opik"]}, "backends": {"opik": moved}})
        with caplog.at_level(logging.WARNING, "spanhook"), tracer.interaction(), tracer.span("x"):
            pass
        assert tracer.flush(30.0) == arrives
        stats = tracer.stats().backends["opik"]
        assert (stats.delivered, stats.failed, len(opik.traces)) == ((2, 0, 1) if arrives else (0, 2, 0))
        assert (f"HTTP {status}, a redirect: set `host`" in caplog.text) != arrives
        tracer.shutdown()


def test_spans_of_a_root_that_never_ends_have_their_trace() -> None:
    """At a flush, and so at the end, Opik is told of the traces whose spans it has: else nobody would see them."""
    with opik_case() as case:
        interaction = case.tracer.interaction(event="endless").__enter__()
        with case.tracer.span("x"):
            pass
        assert case.tracer.shutdown(30.0)
        (trace,) = case.opik.traces
        assert (trace.fields["name"], trace.fields["id"]) == ("interaction", interaction.event_id)
        assert trace.tree() == ["general x"]
        assert not case.opik.lost_spans
        interaction.__exit__(None, None, None)


def test_what_can_be_tried_again_is(case: OpikCase) -> None:
    """A 500, a 429 and a connection that breaks, each once: the SDK repeats, and everything is there once."""
    with case.opik.fail(500, "traces", times=1), case.opik.fail("break", "spans", times=1):
        Answerer()(question="Why?")
        assert case.tracer.flush(30.0)
    with case.opik.fail(429, times=1):
        Answerer()(question="Why?")
        assert case.tracer.flush(30.0)
    assert [len(trace.spans) for trace in case.traces] == [4, 4]


def test_an_outage_loses_nothing_that_fits_into_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the server is away a flush says False and everything waits; when it is back, everything arrives."""
    monkeypatch.setenv("OPIK_CONNECTION_MONITOR_PING_INTERVAL", "0.5")
    with OpikServer() as server:
        port = server.port
        tracer = spanhook.configure(settings(server))
        with dspy.context(lm=DummyLM([{"answer": "Rome"}] * 300)):
            Answerer()(question="Why?")
            assert tracer.flush(30.0)
            server.__exit__()
            for _ in range(200):
                Answerer()(question="Why?")
            assert not tracer.flush(0.5)
            assert tracer.stats().backends["opik"].queued == 1000
            with OpikServer(port=port) as again:
                assert tracer.flush(60.0)
                assert len(again.traces) == 200
                assert not again.refused
                assert not again.lost_spans
                tracer.shutdown()
        assert not tracer.stats().backends["opik"].lost()


def test_the_last_spans_of_a_process_arrive() -> None:
    """A script that ends right after its only call has delivered it, without a flush of its own."""
    with OpikServer() as server:
        done = run(settings(server), "print(answer)")
        assert (done.returncode, done.stdout) == (0, "Rome\n"), done.stderr
        assert "not delivered" not in done.stderr
        assert server.trace("Predict").tree()[1].startswith("llm")


@pytest.mark.parametrize("trouble", ["hang", "break", 500])
def test_a_server_in_trouble_does_not_keep_a_process(trouble: Any) -> None:
    """It ends within its timeout, whatever Opik's SDK would wait for, and says what was not sent."""
    with OpikServer() as server, server.fail(trouble, path=""):
        done = run(settings(server, exit_timeout_s=0.5), "print(answer, tracer.flush(0.5))")
    assert (done.returncode, done.stdout) == (0, "Rome False\n"), done.stderr
    assert "not delivered: backend opik: 4 not sent in time" in done.stderr


def test_nobody_at_the_address_does_not_keep_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where nothing listens; and what the SDK has put aside meanwhile does not stay on the disk."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with OpikServer() as server:
        nowhere = settings(server, exit_timeout_s=0.5)
    done = run(nowhere, "import tempfile; print(answer, tempfile.gettempdir())")
    assert (done.returncode, done.stdout) == (0, f"Rome {tmp_path}\n"), done.stderr
    assert "not delivered: backend opik: 4 not sent in time" in done.stderr
    assert list(tmp_path.glob("**/opik*")) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_delivers() -> None:
    """The SDK's threads stay with the parent, so the child gets a client of its own; each delivers its own."""
    fork = """
assert tracer.flush(30.0)
pid = os.fork()
name = "parent" if pid else "child"
with tracer.interaction(event=name):
    dspy.Predict("question -> answer")(question="Why?")
print(name, tracer.flush(30.0), flush=True)
if pid:
    assert os.waitpid(pid, 0)[1] == 0
"""
    with OpikServer() as server:
        done = run(settings(server), fork)
        assert done.returncode == 0, done.stderr
        assert sorted(done.stdout.splitlines()) == ["child True", "parent True"]
        assert [len(server.trace(name).spans) for name in ("Predict", "parent", "child")] == [3, 4, 4]
        assert not server.refused


def test_odd_content_arrives(case: OpikCase) -> None:
    """Half of a surrogate pair, what is no JSON, cycles, huge numbers: the span arrives, with something readable."""
    cycle: list[Any] = []
    cycle.append(cycle)
    odd = {
        "surrogate": "a\ud800b",
        "lock": threading.Lock(),
        "generator": (n for n in range(3)),
        "cycle": cycle,
        "nan": float("nan"),
        "huge": 10**400,
        "bytes": b"\xff",
        "key": {("a", 1): object()},
        "prediction": dspy.Prediction(answer="x"),
        "image": dspy.Image("data:image/png;base64,iVBORw0KGgo="),
        "array": pytest.importorskip("numpy").zeros((100, 100)),
        "options": TracingSettings(service="s"),  # a pydantic model
    }
    case.tracer.identify("u\ud800", {"name": "\ud800"})
    interaction = case.tracer.interaction(user_id="u\ud800", convo_id="\ud800", event="odd")
    with interaction, case.tracer.span("inner", **odd) as span:
        span.outputs = odd
        span.attributes["odd"] = odd
    case.tracer.track_signal(interaction.event_id, "\ud800", comment="\ud800", properties={"why": "\ud800"})
    trace = case.trace("odd")
    assert set(trace.scores) == {"?"}
    inner = trace.span("inner")
    assert inner["input"]["surrogate"] == "a?b"
    assert "lock" in inner["input"]["lock"]
    assert inner["output"]["output"]["prediction"] == {"answer": "x"}
    assert inner["input"]["options"]["service"] == "s"
    assert list(odd["generator"]) == [0, 1, 2]


def test_fifty_megabytes_are_told_and_the_others_arrive(case: OpikCase) -> None:
    """Opik's SDK leaves out content beyond its own limit of 20 MB and says so in its place; the trace is there."""
    with case.tracer.span("big", pages=["x" * 90_000] * 600):
        pass
    Answerer()(question="Why?")
    assert case.trace("big").fields["input"]["opik_truncated"] is True
    assert case.trace("Answerer").fields["input"] == {"question": "Why?"}


def test_a_switched_off_opik_stays_off(case: OpikCase) -> None:
    """`opik.set_tracing_active(False)`, or OPIK_TRACK_DISABLE, holds for Spanhook's backend, too."""
    import opik

    opik.set_tracing_active(False)
    try:
        Answerer()(question="Why?")
        assert case.tracer.flush(30.0)
    finally:
        opik.reset_tracing_to_config_default()
    assert case.traces == []


def test_a_client_of_the_programs_own_is_left_alone(case: OpikCase) -> None:
    """Its configuration is the same, its connection is not: closing ours doesn't close it."""
    import opik

    client = opik.Opik(**options(case.opik))
    Answerer()(question="Why?")
    case.tracer.shutdown()
    client.trace(name="mine", output={"a": 1})
    assert client.flush(timeout=10)
    client.end(timeout=5)
    assert case.opik.trace("mine").fields["output"] == {"a": 1}
