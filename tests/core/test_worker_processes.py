"""Workers of multiprocessing and of `os.fork`: what they and their parent have made arrives, once."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from processes import MARKS

pytestmark = MARKS
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


WORKERS = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import dspy, spanhook
from dspy.utils.dummies import DummyLM

class ToFile:
    @spanhook.hookimpl
    def emit(self, spans):
        with open(sys.argv[1], "a") as file:
            file.writelines(f"{span.kind}\\n" for span in spans)

def trace():
    spanhook.configure({"tracing": {"backends": []}}, plugins={"file": ToFile()})

def work(number):
    if spanhook.current_span() is None and not dspy.settings.callbacks:
        trace()  # a spawned worker starts with nothing
    with dspy.context(lm=DummyLM([{"answer": "a"}])):
        dspy.Predict("question -> answer")(question=str(number))

if __name__ == "__main__":
    trace()
    context = multiprocessing.get_context(sys.argv[2])
    process = context.Process(target=work, args=(0,))
    process.start()
    process.join()
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        list(pool.map(work, range(4)))
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_multiprocessing_deliver_their_spans(tmp_path: Path, method: str) -> None:
    """DSPy's calls, with a tracer of the parent's where they are forked: every span of theirs arrives, once."""
    script, out = tmp_path / "workers.py", tmp_path / "spans"
    script.write_text(WORKERS)
    subprocess.run([sys.executable, script, out, method], check=True, timeout=100, capture_output=True)
    assert sorted(out.read_text().split()) == sorted(["adapter_format", "lm", "adapter_parse", "module"] * 5)
