"""The terminal under the tree: its streams, its width, text that is no friend of it, and traces that wait."""

from __future__ import annotations

import builtins
import io
import os
import pty
import re
import subprocess
import sys
import textwrap
from typing import Any

import pytest
import structlog
from rich.cells import cell_len
from structlog_screen import Configure, Screen, span

from spanhook import Signal, SpanError, Usage
from spanhook_backends.structlog import StructlogBackend
from spanhook_backends.terminal import facts
from spanhook_backends.terminal.waiting import Waiting


def test_what_waits_for_a_root_is_bounded() -> None:
    """Beyond the bound the oldest trace is let go as incomplete; its root then says that a part is above."""
    waiting = Waiting(max_spans=3)
    assert waiting.add([span("old", 1, parent=9, trace="a"), span("new", 2, parent=8, trace="b")]) == []
    (let_go,) = waiting.add([span("new", 3, parent=8, trace="b"), span("new", 4, parent=8, trace="b")])
    assert (let_go.state, [s.name for s in let_go.spans]) == ("incomplete", ["old"])
    (rest,) = waiting.add([span("root", 9, trace="a")])
    assert (rest.state, rest.continued, [s.name for s in rest.spans]) == ("complete", True, ["root"])
    assert [group.trace_id[0] for group in waiting.unfinished()] == ["b"]


def test_a_waiting_span_holds_on_to_no_long_text() -> None:
    """The program's texts can be freed while a trace waits for its root."""
    waiting = Waiting()
    text = "x" * 1_000_000
    error = SpanError("ValueError", text, text)
    big = span("s" * 10_000, 1, parent=9, inputs={"a": text, "b": [text]}, outputs=text, error=error)
    waiting.add([big])
    (group,) = waiting.unfinished()
    assert len(str(group.spans[0].to_dict())) < 2_000


HOSTILE = "a\x1b]0;title\x07b\x1b[2Jc\rd\x9bm\u202ee\U000e0041[red]f[/red]\n[link=https://x]g[/link]\ud800"


def test_hostile_text_is_shown_and_not_obeyed(
    backend: StructlogBackend, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Escape sequences, carriage returns, bidi overrides and markup, in every place where a text can stand."""
    monkeypatch.setenv("COLUMNS", "500")
    texts: dict[str, Any] = {
        "inputs": {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]},
        "outputs": HOSTILE,
        "user_id": HOSTILE,
        "convo_id": HOSTILE,
        "error": SpanError(HOSTILE, HOSTILE, HOSTILE),
    }
    model = {"model": HOSTILE, "finish_reason": HOSTILE, "inputs": {"prompt": HOSTILE}, "outputs": [{"text": HOSTILE}]}
    signature = {"kind": "module", "attributes": {"dspy.signature": HOSTILE}}
    root = span(HOSTILE, 4, **texts)
    root.event_id = HOSTILE
    backend.emit(
        [span(HOSTILE, 1, 4, kind="lm", **model), span(HOSTILE, 2, 4, **signature), span("x", 3, 4, **texts), root]
    )
    backend.identify(HOSTILE, {HOSTILE: HOSTILE})
    backend.track_signal(Signal(HOSTILE, HOSTILE, comment=HOSTILE, after=HOSTILE, properties={HOSTILE: HOSTILE}))
    text = screen.text()
    assert {char for char in text if not char.isprintable()} == {"\n"}
    assert r'"a\x1b]0;title\x07b\x1b[2Jc d\x9bm\u202ee\U000e0041[red]f[/red] [link=https://x]g[/link]\ud800"' in text


def test_text_of_any_script_stays_readable(backend: StructlogBackend, screen: Screen) -> None:
    """What is no danger is not escaped: accents, Arabic, joiners, emoji of several characters."""
    text = "naïve · سلام · می‌خواهم · 日本 · 👩‍💻"
    backend.emit([span("say", 1, outputs=text)])
    assert f'→ "{text}"' in screen.text()


def test_no_line_is_wider_than_the_terminal(
    backend: StructlogBackend, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long texts are cut with a mark, wide characters count double, and only an error goes over several lines."""
    monkeypatch.setenv("COLUMNS", "60")
    wide = "日本" * 200
    error = SpanError("ValueError", "no " * 200, None)
    many = {f"field{i}": wide for i in range(30)}
    backend.emit(
        [
            span("x" * 70, 1, 3, inputs=many, outputs=many),
            span("fails", 2, 3, error=error),
            span("root", 3, outputs=wide),
        ]
    )
    lines = screen.text().splitlines()
    assert max(map(cell_len, lines)) <= 60
    assert sum("no no no" in line for line in lines) == 3
    assert any(line.endswith("…") for line in lines)


def test_tokens_are_counted_once(backend: StructlogBackend, screen: Screen) -> None:
    """A module that reports the sum of its LM calls adds nothing; a tool that called a model itself does."""
    backend.emit(
        [
            span("LM", 3, 2, kind="lm", usage=Usage(10, 5, 15), cost_usd=0.5),
            span("Predict", 2, 1, kind="module", usage=Usage(10, 5, 15)),
            span("search", 4, 1, kind="tool", usage=Usage(100, 50, 150), cost_usd=0.25),
            span("Program", 1, kind="module", usage=Usage(110, 55, 165)),
        ]
    )
    assert "Program  1 LM call · $0.75 · 110→55 tokens\n" in screen.text()


def test_signals_and_identities_have_a_line(configure: Configure, screen: Screen) -> None:
    """In order with the traces."""
    tracer = configure()
    tracer.identify("ada", {"name": "Ada", "seats": 3, "beta": True})
    with tracer.interaction(event="chat", event_id="order-17"):
        pass
    properties = {"score": 0.5}
    tracer.track_signal("order-17", "thumbs_up", "feedback", None, properties, None, "Quick!", None, "POSITIVE")
    tracer.track_signal("order-17", "seen")
    tracer.flush()
    text = re.sub(r"trace [0-9a-f]{32}", "trace ID", screen.tree())
    assert text == textwrap.dedent("""\
        identify  ada  name="Ada" seats=3 beta=True
        ~  chat
           event order-17 · trace ID

          signal  thumbs_up  feedback · positive · comment="Quick!" score=0.5 · event order-17
          signal  seen  event order-17
    """)


def test_a_stream_that_takes_few_characters_gets_those(
    backend: StructlogBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an ASCII terminal guides become ASCII and what it can't show is escaped, instead of an error."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    backend.emit([span("b", 1, 2, outputs="日"), span("a", 2)])
    assert r'`- span b  > "\u65e5"' in raw.getvalue().decode("ascii")


@pytest.mark.parametrize("stream", ["closed", None])
def test_a_stream_that_is_gone_is_counted_as_failed(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, stream: str | None
) -> None:
    """Nothing reaches the program, and the tracer doesn't claim that it was delivered."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed if stream else None)
    tracer = configure()
    with tracer.interaction():
        pass
    assert not tracer.flush()
    assert tracer.stats().backends["structlog"].failed == 1


def test_a_forked_process_does_not_repeat_what_its_parent_holds(backend: StructlogBackend, screen: Screen) -> None:
    """The parent's unfinished trace is the parent's to show."""
    backend.emit([span("held", 1, parent=9)])
    child = os.fork()
    if child == 0:
        backend.flush()
        os._exit(bool(screen.text()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    backend.flush()
    assert "span held" in screen.text()


def test_a_notebook_gets_a_tree_in_colours(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its streams are no terminals, but people read them, and it shows ANSI colours."""
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)  # how a notebook is told
    monkeypatch.setenv("TERM", "xterm-color")
    structlog.reset_defaults()
    StructlogBackend(StructlogBackend.Options(stream="stdout")).emit([span("search", 1)])
    assert "\x1b[34msearch\x1b[0m\n" in screen.text()


PROGRAM = """
import fcntl, struct, termios
fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
import spanhook
tracer = spanhook.configure({})
with tracer.interaction(event="chat", user_id="u" * 70):
    with tracer.span("search") as span:
        span.outputs = "\\x1b[2J"
"""


@pytest.mark.parametrize(
    ("environment", "styles"),
    [
        ({"TERM": "xterm-256color"}, {"1", "2", "34"}),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, {"1", "2"}),
        ({"TERM": "dumb"}, set()),
    ],
)
def test_on_a_real_terminal(environment: dict[str, str], styles: set[str]) -> None:
    """A process whose stderr is a terminal: the tree comes at exit, within the width, as colourful as it may be."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR")} | (
        environment
    )
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        output = _read_all(ours)
        assert process.stdout is not None
        assert process.stdout.read() == b""
    os.close(ours)
    assert process.returncode == 0
    plain = re.sub(r"\x1b\[[\d;]*m", "", output)
    assert "\x1b" not in plain
    lines = plain.replace("\r\n", "\n").splitlines()
    assert lines[0].startswith("  ")
    assert lines[1] == r'          → "\x1b[2J"'
    assert lines[3:6] == ["user".rjust(14), "u" * 60, " " * 10 + "u" * 10]
    assert lines[6].endswith("└─ span search")
    assert styles == {number for codes in re.findall(r"\x1b\[([\d;]+)m", output) for number in codes.split(";")} - {"0"}


def _read_all(descriptor: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # Linux: the other side has no more writers
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 µs"),
        (0.000043, "43 µs"),
        (0.0042, "4.2 ms"),
        (0.412, "412 ms"),
        (0.9999, "1.00 s"),
        (59.99, "59.99 s"),
        (59.999, "1m 00s"),
        (125, "2m 05s"),
        (3_725, "1h 02m"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """Three digits that count, in the unit that fits."""
    assert facts.duration(seconds) == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [(1234.5, "$1,234.50"), (0.5, "$0.50"), (0.012, "$0.012"), (0.00021, "$0.00021"), (3.3e-8, "$0.000000033")],
)
def test_costs(usd: float, text: str) -> None:
    """Cents, and below them two digits that count."""
    assert facts.cost(usd) == text
