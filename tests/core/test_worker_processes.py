"""Workers of multiprocessing and of `os.fork`: what they and their parent have made arrives, once."""

from __future__ import annotations

import textwrap

import pytest

from processes import MARKS

pytestmark = MARKS
WORK = """
from traced import *
import dspy
from dspy.utils.dummies import DummyLM

tracer = configure(interval_s=60)

def work(number):
    with dspy.context(lm=DummyLM([{"answer": "a"}])), tracer.span(f"worker {number}"):
        dspy.Predict("question -> answer")(question="Why?")
"""
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
    """Workers of every kind, which end without Python's exit handlers: all that they made arrives, and the parent's.

    DSPy's calls, too: a forked worker has the parent's tracer, a spawned one that of the module that it imports.
    """
    program.write("work", WORK)
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
    of_each = ["ChatAdapter.format", "ChatAdapter.parse", "DummyLM", "Predict"]
    assert receiver.names() == sorted([*of_each * 3, "parent", "worker 0", "worker 1", "worker 2"])


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
