"""The bytes that reach a real terminal when a model's answer, a tool or a user tries to give it orders."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

PROGRAM = r"""
import dspy, spanhook, structlog
from dspy.utils.dummies import DummyLM

FORMAT = {format!r}
ORDERS = [
    "\x1b]0;title\x07", "\x1b]52;c;cm0gLXJmIH4=\x07", "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\x1b[2J\x1b[H", "\x1b[31m", "\x1bP+q544e\x1b\\", "\x1bc", "\x9b2J", "\x9d0;x\x9c", "over\rwritten",
    "gone\b\b\b\b", "\x07", "\x0b\x0c", "\u202egpj.exe", "\u2066\u2069", "\x7f", "\x00",
]
hostile = "a" + "b".join(ORDERS) + "z"
if FORMAT.startswith("events"):
    logger = structlog.PrintLoggerFactory(open(2, "w", closefd=False))
    structlog.configure(logger_factory=logger)
    if FORMAT == "events as JSON":
        structlog.configure(processors=[structlog.processors.JSONRenderer(ensure_ascii=False)], logger_factory=logger)
name = FORMAT.split()[0]
tracer = spanhook.configure({{"backends": {{"structlog": {{"format": name, "show_adapters": True}}}}}})

def work():
    "A tool."
    raise ValueError(hostile)

with tracer.interaction(hostile, hostile, hostile, event_id=hostile, properties={{hostile: hostile}}) as it:
    for order in ORDERS:
        with dspy.context(lm=DummyLM([{{"answer": order}}]), adapter=dspy.ChatAdapter()):
            dspy.Predict("question -> answer")(question=hostile)
    with tracer.span(hostile, **{{hostile: [hostile, {{hostile: hostile}}]}}) as span:
        span.outputs, span.attributes = hostile, {{hostile: hostile}}
    try:
        dspy.Tool(work, name=hostile)()
    except ValueError:
        pass
tracer.identify(hostile, {{hostile: hostile}})
tracer.track_signal(it.event_id, hostile, "edit", comment=hostile, after=hostile, properties={{hostile: hostile}})
tracer.track_signal(hostile, hostile, hostile)
tracer.shutdown()
print("done")
"""


@pytest.mark.parametrize("format", ["tree", "json", "events", "events as JSON"])
def test_nothing_but_colours(format):
    """Of all control characters a terminal gets our own colours and line ends, whatever was in the texts."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", "COLUMNS": "300"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(format=format)],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        written = b"".join(iter(lambda: _read(ours), b""))
        assert process.stdout is not None
        assert process.stdout.read() == b"done\n"
    os.close(ours)
    text = re.sub(r"\x1b\[[\d;]*m", "", written.decode("utf-8")).replace("\r\n", "\n")
    orders = re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", text)
    assert orders == []
    assert len(text) > 5_000
    assert r"\x1b" in text or r"\u001b" in text


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # Linux: the other side has no more writers
        return b""
