"""Notebooks: cells that are run again, errors and interrupts in them, and kernels that are killed."""

from __future__ import annotations

import importlib.util
import signal

import pytest

from processes import MARKS

pytestmark = [
    *MARKS,
    pytest.mark.skipif(importlib.util.find_spec("IPython") is None, reason="needs IPython"),
]


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
