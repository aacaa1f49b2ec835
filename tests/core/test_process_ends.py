"""Signals and calls that end a process: which of them deliver all that waits, and which what was sent before."""

from __future__ import annotations

import signal

import pytest

from processes import MARKS

pytestmark = MARKS

ENDS: dict[str, tuple[str, int]] = {
    "SIGINT": (  # what a shell runs in the background ignores it, and so do the tests that it runs
        "signal.signal(signal.SIGINT, signal.default_int_handler); os.kill(os.getpid(), signal.SIGINT); time.sleep(60)",
        -signal.SIGINT,
    ),
    "SIGTERM with a handler": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
        143,
    ),
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
