"""`kill -9` at any moment: with a spool, what ended a second before arrives after the next start."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from doubles import WAIT_S, tracer_of
from receiver import HTTPBackend, Receiver

KILLS = int(os.environ.get("KILLS", "6"))  # in one folder, three processes at a time
AT_ONCE = 3
SAFE_S = 1.0

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks what is killed"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]


def make_spans(port: int, spool: Path, log: Path) -> None:
    """In the process that will be killed: spans without end, and a line with the time when each has ended."""
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    tracer = tracer_of(HTTPBackend(port), delivery={"spool": str(spool), "queue_spans": 200, "batch_spans": 20})
    number = 0
    while True:
        number += 1
        name = f"{os.getpid()}-{number}"
        with tracer.span(name, text="x" * 500):
            pass
        os.write(file, f"{name} {time.time()}\n".encode())
        time.sleep(0.002)


def run_and_kill(port: int, spool: Path, log: Path, after_s: list[float]) -> dict[str, float]:
    """Processes that end by `kill -9`, each after its time; names of spans that have ended, with how long before."""
    children = []
    for _ in after_s:
        child = os.fork()
        if child == 0:
            try:
                make_spans(port, spool, log)
            finally:
                os._exit(1)
        children.append(child)
    killed = {}
    start = time.monotonic()
    for child, after in sorted(zip(children, after_s, strict=True), key=lambda pair: pair[1]):
        time.sleep(max(0.0, start + after - time.monotonic()))
        killed[child] = time.time()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    ended = {}
    for line in log.read_text().splitlines():
        name, at = line.split()
        if int(name.split("-")[0]) in killed:
            ended[name] = killed[int(name.split("-")[0])] - float(at)
    return ended


@pytest.mark.timeout(60 + 10 * KILLS)
def test_what_ended_a_second_before_a_kill_arrives_after_the_next_start(tmp_path, capsys):
    """Whether the receiver could be reached meanwhile or not; by its span id each is there once."""
    with Receiver() as receiver:
        ended: dict[str, float] = {}
        for round_of in range(0, KILLS, AT_ONCE):
            receiver.trouble = 503 if round_of // AT_ONCE % 2 else None
            after_s = [random.uniform(1.2, 2.5) for _ in range(min(AT_ONCE, KILLS - round_of))]
            ended |= run_and_kill(receiver.port, tmp_path / "spool", tmp_path / "log", after_s)
            receiver.heal()
            tracer = tracer_of(HTTPBackend(receiver.port), delivery={"spool": str(tmp_path / "spool")})
            safe = {name for name, before_s in ended.items() if before_s > SAFE_S}
            assert safe
            receiver.wait_for(lambda: safe <= set(receiver.names.values()))  # noqa: B023
            assert tracer.shutdown(WAIT_S)
        arrived = list(receiver.names.values())
        assert len(set(arrived)) == len(arrived), "a span never has two ids"
        assert list((tmp_path / "spool").iterdir()) == []
        missing = [ended[name] for name in set(ended) - set(arrived)]
        again = sum(count > 1 for count in receiver.arrivals.values())
        if KILLS > 6:
            with capsys.disabled():
                print(f"\n{KILLS} kills: {len(ended)} spans ended, {len(safe)} over {SAFE_S} s before;")
                oldest_s = max(missing, default=0)
                print(f"{len(missing)} lost, the oldest {oldest_s:.3f} s before its kill; {again} came again")
