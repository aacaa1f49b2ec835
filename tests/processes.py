"""Programs in processes of their own, which all send their spans to one receiver over HTTP, which counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from doubles import WAIT_S
from http_server import Exchange, HTTPServer

# For the tests that start them.
MARKS = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork"),
    pytest.mark.timeout(180),
]

# What all programs of these tests begin with. It is a module of its own, as spawned workers import it again.
TRACED = """
import json, os, sys, threading, time, urllib.request
import spanhook

RECEIVER = os.environ["RECEIVER"]

class Sender:
    @spanhook.hookimpl
    def emit(self, spans):
        body = json.dumps([{"pid": os.getpid(), "name": span.name, "id": span.span_id} for span in spans]).encode()
        urllib.request.urlopen(urllib.request.Request(RECEIVER, body), timeout=20).close()

def configure(**delivery):
    config = {"tracing": {"backends": [], "extractors": []}, "delivery": delivery}
    return spanhook.configure(config, plugins={"sender": Sender()})

def one_span(tracer, name):
    with tracer.span(name):
        pass
"""


class Receiver(HTTPServer):
    """Takes spans from any number of processes."""

    def __init__(self) -> None:
        super().__init__()
        self._spans: list[dict[str, Any]] = []
        self._changed = threading.Condition()

    def serve(self, exchange: Exchange) -> None:
        with self._changed:
            self._spans += json.loads(exchange.body)
            self._changed.notify_all()
        exchange.reply(200)

    def names(self, pid: int | None = None) -> list[str]:
        """The names of all spans that arrived, sorted; none of them twice."""
        with self._changed:
            spans = list(self._spans)
        assert max(Counter(span["id"] for span in spans).values(), default=1) == 1
        return sorted(span["name"] for span in spans if pid in (None, span["pid"]))

    def wait_for(self, name: str) -> None:
        """Until a span of this name has arrived."""
        with self._changed:
            assert self._changed.wait_for(lambda: any(span["name"] == name for span in self._spans), WAIT_S), name


class Program:
    """A program in a folder of its own."""

    def __init__(self, folder: Path, receiver: Receiver) -> None:
        self._folder = folder
        self._environment = {
            **os.environ, "RECEIVER": f"http://127.0.0.1:{receiver.port}/", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        self.write("traced", TRACED)

    def write(self, module: str, source: str) -> Path:
        file = self._folder / f"{module}.py"
        file.write_text(textwrap.dedent(source))
        return file

    @contextmanager
    def start(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """Run `python COMMAND` while the block runs; it is killed if it doesn't end by itself soon after."""
        process = subprocess.Popen(
            [sys.executable, *command], cwd=self._folder, env=self._environment, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            yield process
            process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()

    def run(self, source: str, status: int = 0) -> list[str]:
        """Run a script to its end; the lines of its standard output."""
        file = self.write("script", f"from traced import *\n\n{textwrap.dedent(source)}")
        process = subprocess.run(
            [sys.executable, str(file)], cwd=self._folder, env=self._environment, capture_output=True, text=True,
            check=False, timeout=90,
        )  # fmt: skip
        assert process.returncode == status, process.stderr
        return process.stdout.splitlines()
