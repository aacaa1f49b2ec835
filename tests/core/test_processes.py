"""Real servers and ways to start and to end a process: each delivers its own spans, once.

Every process of a test sends what its backend gets to one receiver over HTTP, which counts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from doubles import WAIT_S
from http_server import Exchange, HTTPServer

pytestmark = [
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


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


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


@pytest.fixture
def program(tmp_path: Path, receiver: Receiver) -> Program:
    return Program(tmp_path, receiver)


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


needs_gunicorn = pytest.mark.skipif(importlib.util.find_spec("gunicorn") is None, reason="needs gunicorn")
needs_uvicorn = pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="needs uvicorn")
needs_ipython = pytest.mark.skipif(importlib.util.find_spec("IPython") is None, reason="needs IPython")


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


POOLS = {
    "process": """
        with_context = multiprocessing.get_context(METHOD)
        workers = [with_context.Process(target=work, args=(number,)) for number in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        """,
    "pool": """
        with multiprocessing.get_context(METHOD).Pool(2) as pool:
            pool.map(work, range(3))
            pool.close()
            pool.join()
        """,
    "executor": """
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(METHOD)) as executor:
            list(executor.map(work, range(3)))
        """,
}


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize(
    ("method", "pool"),
    [("fork", pool) for pool in POOLS] + [("spawn", "process"), ("spawn", "executor"), ("forkserver", "pool")],
)
def test_multiprocessing(program, receiver, method, pool):
    """Workers of every kind, which end without Python's exit handlers: all that they made arrives, and the parent's."""
    program.write(
        "work", "from traced import *\ntracer = configure(interval_s=60)\ndef work(n): one_span(tracer, f'worker {n}')"
    )
    script = f"""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from work import tracer, work

    METHOD = {method!r}
    if __name__ == "__main__":
        one_span(tracer, "parent")
        {textwrap.indent(textwrap.dedent(POOLS[pool]), " " * 8)}
    """
    program.run(script)
    assert receiver.names() == ["parent", "worker 0", "worker 1", "worker 2"]


def test_a_worker_that_uses_os_fork(program, receiver):
    """Parent, child and grandchild, each with an exit of its own."""
    program.run("""
    tracer = configure(interval_s=60)
    one_span(tracer, "parent")
    if os.fork() == 0:
        one_span(tracer, "child")
        if os.fork() == 0:
            one_span(tracer, "grandchild")
            sys.exit()
        os.wait()
        sys.exit()
    os.wait()
    """)
    assert receiver.names() == ["child", "grandchild", "parent"]


ENDS: dict[str, tuple[str, int]] = {
    "SIGINT": (  # what a shell runs in the background ignores it, and so do the tests that it runs
        "signal.signal(signal.SIGINT, signal.default_int_handler); os.kill(os.getpid(), signal.SIGINT); time.sleep(60)",
        -signal.SIGINT,
    ),
    "SIGTERM with a handler": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
        143,
    ),
    "an error": ("1 / 0", 1),
    "sys.exit": ("sys.exit(3)", 3),
    "os._exit after a flush": ("tracer.flush(); os._exit(4)", 4),
    "daemon threads": ("threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", 0),
}


@pytest.mark.parametrize("end", ENDS)
def test_ends_that_deliver_everything(program, receiver, end):
    """What waits for a batch is delivered before the process is gone."""
    code, status = ENDS[end]
    script = f"import signal\ntracer = configure(interval_s=60)\none_span(tracer, 'last')\n{code}"
    program.run(script, status)
    assert receiver.names() == ["last"]


@pytest.mark.parametrize(("code", "status"), [("os._exit(4)", 4), ("os.kill(os.getpid(), signal.SIGTERM)", -15)])
def test_ends_that_deliver_what_was_sent_before(program, receiver, code, status):
    """`os._exit`, and a signal that nobody handles, end the process at once: what was still waiting is lost with it."""
    script = f"""
    import signal
    tracer = configure(interval_s=0.05)
    one_span(tracer, "earlier")
    while tracer.stats().backends["sender"].delivered < 1:
        time.sleep(0.01)
    {code}
    """
    program.run(script, status)
    assert receiver.names() == ["earlier"]


def test_daemon_threads_at_exit(program, receiver):
    """What they have ended is delivered; a call in which they still are is not waited for."""
    program.run("""
    tracer = configure(interval_s=60)
    inside = threading.Event()
    def work():
        one_span(tracer, "ended")
        with tracer.span("still running"):
            inside.set()
            time.sleep(60)
    threading.Thread(target=work, daemon=True).start()
    inside.wait()
    """)
    assert receiver.names() == ["ended"]


@needs_ipython
def test_a_notebook(program, receiver):
    """A cell that configures is run again and again, an interrupt and an error in between; then the kernel ends."""
    cells = [
        "from traced import *",
        "tracer = configure(interval_s=60)",
        "one_span(tracer, 'a')",
        "1 / 0",
        "tracer = configure(interval_s=60)\none_span(tracer, 'b')",
        "raise KeyboardInterrupt",
        "one_span(tracer, 'c')",
    ]
    file = program.write(
        "notebook",
        f"""
        from IPython.core.interactiveshell import InteractiveShell
        shell = InteractiveShell.instance()
        shell.history_manager.enabled = False
        for cell in {cells!r}:
            shell.run_cell(cell)
        """,
    )
    with program.start(str(file)) as process:
        pass
    assert process.returncode == 0
    assert receiver.names() == ["a", "b", "c"]


@needs_ipython
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_kernel_that_is_killed(program, receiver, how):
    """As "restart" does with one that doesn't answer: what was sent is there, and the next kernel starts anew."""
    cell = "from traced import *\\none_span(configure(interval_s=0.05), {name!r})"
    source = """
    from IPython.core.interactiveshell import InteractiveShell
    InteractiveShell.instance().history_manager.enabled = False
    InteractiveShell.instance().run_cell("CELL")
    input()
    """
    for name in ("first kernel", "second kernel"):
        file = program.write("notebook", source.replace("CELL", cell.format(name=name)))
        with program.start(str(file)) as process:
            receiver.wait_for(name)
            process.send_signal(how)
        assert process.returncode == -how
    assert receiver.names() == ["first kernel", "second kernel"]
