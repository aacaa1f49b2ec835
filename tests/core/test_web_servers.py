"""Real web servers, with workers and reloads: each process delivers its own spans, once, to the last one."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest

from doubles import WAIT_S
from processes import MARKS

pytestmark = MARKS
needs_gunicorn = pytest.mark.skipif(importlib.util.find_spec("gunicorn") is None, reason="needs gunicorn")
needs_uvicorn = pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="needs uvicorn")

APP = """
import os
from traced import configure, one_span

tracer = configure(interval_s=INTERVAL)
one_span(tracer, f"start {os.getpid()}")

def wsgi(environ, start_response):
    one_span(tracer, environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            if event == "lifespan.shutdown":
                tracer.shutdown()  # uvicorn ends with the signal that it got, and Python's exit handlers don't run
            await send({"type": event + ".complete"})
            if event == "lifespan.shutdown":
                return
    one_span(tracer, scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": VERSION + str(os.getpid()).encode()})
"""


def get(port: int, path: str) -> str:
    """Ask the server until it answers: it needs some time to start."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
                return str(answer.read().decode())
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > deadline:
                raise  # only a request that nobody has seen is made again
            time.sleep(0.05)


def port_of(process: subprocess.Popen[str], said: str) -> int:
    """The port that a server chose, from the line of its log that has `said` in it."""
    assert process.stderr is not None
    for line in process.stderr:
        if said in line:
            threading.Thread(target=process.stderr.read, daemon=True).start()  # or the pipe would fill up
            return int(line.rsplit(":", 1)[1].split()[0].rstrip(")/"))
    raise AssertionError("the server ended")


@needs_gunicorn
@pytest.mark.parametrize("interval_s", [0.2, 60])
@pytest.mark.parametrize("preload", [True, False], ids=["preload", "each"])
def test_gunicorn(program, receiver, preload, interval_s):
    """Two workers: every request's span arrives once, from the worker that answered, also what waits at the end."""
    program.write("app", APP.replace("INTERVAL", str(interval_s)).replace("VERSION", "b''"))
    flags = ["--preload"] if preload else []
    command = ["-m", "gunicorn", "app:wsgi", "--bind=127.0.0.1:0", "--workers=2", "--threads=2", "--timeout=90"]
    with program.start(*command, *flags) as process:
        port = port_of(process, "Listening at")
        answered = {f"/{number}": int(get(port, f"/{number}")) for number in range(20)}
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    started = [name for name in receiver.names() if name.startswith("start")]
    assert len(started) == (1 if preload else 2)
    assert receiver.names() == sorted([*answered, *started])
    for path, pid in answered.items():
        assert path in receiver.names(pid)


@needs_uvicorn
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_uvicorn(program, receiver, end):
    """With a shutdown of the tracer in the application's own, what waits is delivered."""
    program.write("app", APP.replace("INTERVAL", "60").replace("VERSION", "b''"))
    with program.start("-m", "uvicorn", "app:asgi", "--port=0") as process:
        port = port_of(process, "Uvicorn running on")
        pid = int(get(port, "/a"))
        process.send_signal(end)
    assert receiver.names(pid) == receiver.names() == ["/a", f"start {pid}"]


@needs_uvicorn
def test_uvicorn_s_reload(program, receiver):
    """The process before a change of the code and the one after it each deliver their own."""
    source = APP.replace("INTERVAL", "60")
    app = program.write("app", source.replace("VERSION", "b'1 '"))
    with program.start("-m", "uvicorn", "app:asgi", "--port=0", "--reload", "--reload-dir=.") as process:
        port = port_of(process, "Uvicorn running on")
        first = get(port, "/before")
        program.write("app", source.replace("VERSION", "b'2 '"))
        later = time.time() + 10
        os.utime(app, (later, later))  # some file systems count in seconds
        receiver.wait_for("/before")
        second = get(port, "/after")
        os.killpg(process.pid, signal.SIGINT)
    pids = [int(answer.split()[1]) for answer in (first, second)]
    assert (first[0], second[0]) == ("1", "2")
    assert receiver.names(pids[0]) == ["/before", f"start {pids[0]}"]
    assert receiver.names(pids[1]) == ["/after", f"start {pids[1]}"]
    assert len(receiver.names()) == 4
