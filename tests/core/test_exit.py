"""The end of a process: what was accepted is delivered, and nothing holds the end up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator

import pytest

BEGIN = """
import atexit, sys, threading
import spanhook

class Backend:
    def __init__(self, emit=lambda spans: None, shutdown=lambda timeout: None):
        self._emit, self._shutdown = emit, shutdown

    @spanhook.hookimpl
    def emit(self, spans):
        self._emit(spans)
        self.say("emit", *(span.name for span in spans))

    @spanhook.hookimpl
    def identify(self, user_id):
        self.say("identify", user_id)

    @spanhook.hookimpl
    def track_signal(self, signal):
        self.say("signal", signal.name)

    @spanhook.hookimpl
    def shutdown(self, timeout):
        self._shutdown(timeout)
        self.say("shutdown")

    def say(self, *words):
        print(*words, flush=True)

def hang(_):
    threading.Event().wait()

def configure(backend, **delivery):
    config = {"tracing": {"backends": [], "extractors": []}, "delivery": delivery}
    return spanhook.configure(config, plugins={"it": backend})

def one_span(name):
    with tracer.span(name):
        pass
"""
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the scripts run in forks")

# Runs each script in a fork of its own, so that DSPy is imported once and not once a script.
SERVER = """
import json, os, sys, tempfile
import spanhook

for line in sys.stdin:
    script = json.loads(line)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            exec(script, {"__name__": "__main__"})
            break
        _, status = os.waitpid(child, 0)
        texts = [os.pread(file.fileno(), 1_000_000, 0).decode() for file in (output, errors)]
        print(json.dumps([os.waitstatus_to_exitcode(status), *texts]), flush=True)
"""
Run = Callable[..., tuple[list[str], list[str]]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """A function: runs a script in a process to its end; the lines of its output and of its errors."""
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def run(script: str, status: int = 0) -> tuple[list[str], list[str]]:
            server.stdin.write(json.dumps(BEGIN + textwrap.dedent(script)) + "\n")
            ended, output, errors = json.loads(server.stdout.readline())
            assert ended == status, errors
            return output.splitlines(), errors.splitlines()

        yield run
        server.stdin.close()
        assert server.wait(60) == 0


@pytest.fixture(scope="module")
def threads_at_exit(run: Run) -> bool:
    """Whether this Python lets an exit handler start a thread; 3.12 doesn't."""
    try_it = """
    def start():
        thread = threading.Thread(target=lambda: print("started", flush=True))
        thread.start()
        thread.join()
    atexit.register(start)
    """
    return run(try_it)[0] == ["started"]


def test_a_short_script_delivers_everything():
    """It ends right after its first span, without a flush."""
    script = """
tracer = configure(Backend())
one_span("a")
tracer.identify("u1")
tracer.track_signal("e1", "thumbs_up")
"""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + script], capture_output=True, text=True, check=False, timeout=90
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["emit a", "identify u1", "signal thumbs_up", "shutdown"]


def test_a_script_that_exits_delivers_everything(run):
    """With the exit status that it chose."""
    assert run("tracer = configure(Backend())\none_span('a')\nsys.exit(3)", status=3) == (["emit a", "shutdown"], [])


def test_a_script_that_fails_delivers_everything(run):
    """Its last spans are the interesting ones."""
    output, errors = run("tracer = configure(Backend())\nwith tracer.span('last'):\n    1 / 0", status=1)
    assert output == ["emit last", "shutdown"]
    assert errors[-1] == "ZeroDivisionError: division by zero"


def test_a_script_that_traced_nothing(run):
    """The backend may let go of what it has, and nothing is said."""
    assert run("tracer = configure(Backend())") == (["shutdown"], [])


def test_a_backend_that_hangs_holds_the_exit_up_no_longer_than_its_timeout(run):
    """The other has everything; what was not sent is said in one line."""
    script = """
    config = {"tracing": {"backends": [], "extractors": []}, "delivery": {"exit_timeout_s": 0.3}}
    tracer = spanhook.configure(config, plugins={"stuck": Backend(hang), "free": Backend()})
    one_span("a")
    one_span("b")
    """
    assert run(script) == (["emit a b", "shutdown"], ["spanhook: not delivered: backend stuck: 2 not sent in time"])


@pytest.mark.parametrize("span", ["one_span('a')", ""])
def test_a_backend_that_hangs_in_shutdown(run, threads_at_exit, span):
    """Nor does that hold the exit up. What it has taken may be lost then, which is said; not where it took nothing."""
    if not span and not threads_at_exit:
        pytest.skip("an idle backend is shut down on the exiting thread")
    output, errors = run(f"tracer = configure(Backend(shutdown=hang), exit_timeout_s=0.3)\n{span}")
    told = ["spanhook: not delivered: backend it: its shutdown has not ended"]
    assert (output, errors) == ((["emit a"], told) if span else ([], []))


def test_a_shutdown_on_a_daemon_thread(run):
    """The exit waits for it, and says what it has not come to."""
    script = """
    tracer = configure(Backend(hang), exit_timeout_s=0.3)
    one_span("a")
    threading.Thread(target=tracer.shutdown, args=(60,), daemon=True).start()
    while not tracer._pipeline._closed:
        threading.Event().wait(0.001)
    """
    output, errors = run(script)
    assert output == []
    assert errors[-1] == "spanhook: not delivered: backend it: 1 not sent in time"


def test_spans_of_exit_handlers(run):
    """Of those that run before the tracer's own all is delivered; later ones find it shut down, which is said."""
    script = """
    atexit.register(lambda: one_span("too late"))
    tracer = configure(Backend())
    atexit.register(lambda: one_span("in time"))
    one_span("a")
    """
    output, errors = run(script)
    assert output == ["emit a in time", "shutdown"]
    assert [line.partition(" (")[0] for line in errors] == ["spanhook: tracer.span: refused"]


def test_the_first_span_of_all_in_an_exit_handler(run, threads_at_exit):
    """Where no thread can be started any more, the loss is said, and the exit is as usual."""
    script = """
    tracer = configure(Backend())
    atexit.register(lambda: one_span("a"))
    """
    output, errors = run(script)
    if threads_at_exit:
        assert (output, errors) == (["emit a", "shutdown"], [])
    else:
        assert output == ["shutdown"]
        assert errors[-1] == "spanhook: not delivered: backend it: 1 dropped (no thread)"
        assert not any("Traceback" in line for line in errors)


def test_spans_that_never_end(run):
    """A thread that is still in a call when the process ends: said, and no hindrance."""
    script = """
    tracer = configure(Backend())
    inside = threading.Event()
    def work():
        with tracer.span("endless"):
            inside.set()
            hang(None)
    threading.Thread(target=work, daemon=True).start()
    inside.wait()
    one_span("a")
    """
    output, _ = run(script)
    assert output == ["emit a", "shutdown"]


def test_a_forked_child_that_exits_like_a_program_delivers_its_own(run):
    """The child's exit handler delivers what the child made, and the parent's what the parent made."""
    script = """
    import os
    tracer = configure(Backend(), interval_s=60)
    one_span("parent")
    child = os.fork()
    if child == 0:
        one_span("child")
        sys.exit()
    os.waitpid(child, 0)
    """
    output, _ = run(script)
    assert output == ["emit child", "shutdown", "emit parent", "shutdown"]
