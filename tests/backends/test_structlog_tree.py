"""What the structlog backend prints on a terminal."""

from __future__ import annotations

import builtins
import io
import os
import pty
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from typing import Any

import dspy
import pytest
import structlog
from rich.cells import cell_len

import spanhook
from lm_server import LMServer, Reply, Tokens
from spanhook import Signal, Span, SpanError, Tracer, Usage
from spanhook_backends.structlog import StructlogBackend, facts
from spanhook_backends.structlog.waiting import Waiting

Configure = Callable[..., Tracer]


class Screen:
    """What was printed to stdout."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def text(self) -> str:
        """All since the last look."""
        return self._capsys.readouterr().out

    def tree(self) -> str:
        """The same from column 7 on, with every duration as `~` and every id of ours as `ID`."""
        text = re.sub(r"(?m)^ +[\d.]+ (ms|µs|s)  ", "~  ", self.text())
        text = re.sub(r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b", "ID", text)
        return re.sub(r"(?m)^ {7}| +$", "", text)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Screen:
    """A screen of 100 columns, without colours."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    return Screen(capsys)


@pytest.fixture
def backend(screen: Screen) -> StructlogBackend:
    """The backend alone, on the screen."""
    return StructlogBackend(StructlogBackend.Options(format="tree", stream="stdout"))


@pytest.fixture
def configure(screen: Screen) -> Iterator[Configure]:
    """`spanhook.configure` for the tree, with the backend's options as arguments."""
    tracers = []

    def configured(tracing: Mapping[str, Any] | None = None, **options: Any) -> Tracer:
        settings = {
            "tracing": tracing or {},
            "delivery": {"batch_spans": 2},  # a trace comes in several batches
            "backends": {"structlog": {"format": "tree", "stream": "stdout", **options}},
        }
        tracers.append(spanhook.configure(settings))
        return tracers[-1]

    yield configured
    for tracer in tracers:
        tracer.shutdown()


@pytest.fixture
def server() -> Iterator[LMServer]:
    with LMServer(finish_reasons=["stop"]) as running:
        yield running


def block(text: str) -> str:
    """An expected trace: dedented, with the empty line that ends it."""
    return textwrap.dedent(text).removeprefix("\n") + "\n"


def answer(fields: Mapping[str, Any], prompt: int, completion: int, **more: Any) -> Reply:
    return Reply(fields=fields, tokens=Tokens(prompt, completion, **more), finish_reason="stop")


def act(thought: str, tool: str, **arguments: Any) -> dict[str, Any]:
    return {"next_thought": thought, "next_tool_name": tool, "next_tool_args": arguments}


def order_status(order_id: str) -> str:
    """Look up where an order is."""
    return {"17": "on its way"}[order_id]


class Desk(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.topic = dspy.Predict("question -> topic")
        self.agent = dspy.ReAct("question -> answer", tools=[order_status], max_iters=3)

    def forward(self, question: str) -> dspy.Prediction:
        topic = self.topic(question=question).topic
        return dspy.Prediction(topic=topic, answer=self.agent(question=question).answer)


def span(name: str, number: int, parent: int | None = None, trace: str = "a", **more: Any) -> Span:
    """A finished span; its id is its number, and it starts in that order."""
    return Span(
        trace_id=trace * 32,
        span_id=f"{number:016x}",
        parent_id=None if parent is None else f"{parent:016x}",
        event_id=f"event-{trace}",
        name=name,
        start_ns=number * 1_000_000,
        end_ns=number * 1_000_000 + 2_000_000,
        **{"kind": "custom", **more},
    )


def test_a_program_with_an_agent_and_a_failing_tool(configure: Configure, screen: Screen, server: LMServer) -> None:
    """Modules, LM calls and tools in their order, with tokens, finish reasons and the tool's error; totals on top."""
    tracer = configure()
    server.script(
        [
            answer({"topic": "delivery"}, 176, 11),
            answer(act("I look up 17.", "order_status", order_id="17"), 1448, 37, reasoning=12),
            answer(act("And 23.", "order_status", order_id="23"), 561, 36),
            answer(act("One is known.", "finish"), 904, 29),
            answer({"reasoning": "Only 17.", "answer": "Friday"}, 873, 52, cached=768),
        ]
    )
    user = {"user_id": "ada", "convo_id": "c42"}
    with dspy.context(lm=server.lm(), adapter=dspy.JSONAdapter()), tracer.interaction(**user, event="support"):
        Desk()(question="Where?")
    tracer.flush()
    assert screen.tree() == block("""
       ~  support  1 error · user ada · convo c42 · 5 LM calls · 3,962→165 tokens
          question="Where?" → topic="delivery" answer="Friday"
          event ID
       ~  └─ Desk
       ~     ├─ Predict  → topic="delivery"
       ~     │  └─ lm openai/test-model  176→11 tokens · stop
       ~     └─ ReAct  → reasoning="Only 17." answer="Friday" trajectory={thought_0: "I look up 17.…
       ~        ├─ Predict  trajectory="" → next_thought="I look up 17." next_tool_name="order_stat…
       ~        │  └─ lm openai/test-model  1,448→37 (12 reasoning) tokens · stop
       ~        ├─ tool order_status  order_id="17" → "on its way"
       ~        ├─ Predict  trajectory=… → next_thought="And 23." next_tool_name="order_status" nex…
       ~        │  └─ lm openai/test-model  561→36 tokens · stop
       ~        ├─ tool order_status  order_id="23"
                │     ✗ KeyError: '23'
       ~        ├─ Predict  trajectory=… → next_thought="One is known." next_tool_name="finish" nex…
       ~        │  └─ lm openai/test-model  904→29 tokens · stop
       ~        ├─ tool finish  → "Completed."
       ~        └─ ChainOfThought  trajectory=… → reasoning="Only 17." answer="Friday"
       ~           └─ Predict  question, trajectory → reasoning, answer
       ~              └─ lm openai/test-model  873 (768 cached)→52 tokens · stop
    """)


@pytest.fixture
def memory_cache() -> Iterator[None]:
    """DSPy's cache, new and in memory: nothing from an earlier run, no file left behind."""
    before = dspy.cache
    dspy.configure_cache(enable_disk_cache=False)
    yield
    dspy.cache = before


@pytest.mark.usefixtures("memory_cache")
def test_an_answer_from_the_cache_says_so_and_what_it_saved(
    configure: Configure, screen: Screen, server: LMServer
) -> None:
    """The second call has no tokens and no cost of its own; LM calls are counted with those from the cache."""
    tracer = configure()
    lm = server.lm("openai/gpt-4o-mini", cache=True)
    server.script([answer({"answer": "yes"}, 1000, 100)])
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()), tracer.interaction():
        for _ in range(2):
            dspy.Predict("question -> answer")(question="Twice?")
    tracer.flush()
    text = screen.tree()
    first, second = [line for line in text.splitlines() if " lm " in line]
    assert first.endswith("lm openai/gpt-4o-mini  1,000→100 tokens · $0.00021 · stop")
    assert second.endswith("lm openai/gpt-4o-mini  cache hit, $0.00021 saved · stop")
    assert "  2 LM calls, 1 cached · 1,000→100 tokens · $0.00021\n" in text


def test_an_error_is_explained_where_it_began_and_named_above(
    configure: Configure, screen: Screen, server: LMServer
) -> None:
    """An answer was cut off: the finish reason, the adapter that could not read it, the callers that it came up to."""
    tracer = configure()
    server.script([Reply('{"reasoning": "because', tokens=Tokens(20, 4), finish_reason="length")])
    with dspy.context(lm=server.lm(), adapter=dspy.JSONAdapter()), pytest.raises(Exception, match="JSONAdapter"):
        dspy.ChainOfThought("question -> answer")(question="Why?")
    tracer.flush()
    lines = screen.tree().splitlines()
    assert lines[0] == "~  ChainOfThought  1 error · 1 LM call · 20→4 tokens"
    assert lines[2:6] == [
        "   ✗ AdapterParseError",
        "   event ID",
        "~  └─ Predict  ✗ AdapterParseError  question → reasoning, answer",
        "~     ├─ lm openai/test-model  20→4 tokens · length",
    ]
    assert lines[6].startswith("~     └─ adapter JSONAdapter.parse  ")
    assert lines[7].startswith("            ✗ AdapterParseError: ")
    assert len(lines) == 9


def test_adapters_are_shown_on_request(configure: Configure, screen: Screen, server: LMServer) -> None:
    """`show_adapters` has a line for each format and parse."""
    tracer = configure(show_adapters=True)
    with dspy.context(lm=server.lm(), adapter=dspy.ChatAdapter()):
        dspy.Predict("question -> answer")(question="Why?")
    tracer.flush()
    assert re.findall(r"adapter (\w+\.\w+)", screen.tree()) == ["ChatAdapter.format", "ChatAdapter.parse"]


def test_what_no_call_reported_is_not_shown(configure: Configure, screen: Screen, server: LMServer) -> None:
    """An LM without usage: no tokens and no cost, rather than zeros."""
    tracer = configure()
    server.script([Reply(fields={"answer": "yes"}, tokens=None, finish_reason="stop")])
    with dspy.context(lm=server.lm()):
        dspy.Predict("question -> answer")(question="Why?")
    tracer.flush()
    assert screen.tree() == block("""
       ~  Predict  1 LM call
          question="Why?" → answer="yes"
          event ID
       ~  └─ lm openai/test-model  stop
    """)


def test_a_sum_that_misses_a_call_says_at_least(configure: Configure, screen: Screen, server: LMServer) -> None:
    """One of two answers came without usage."""
    tracer = configure()
    server.script([answer({"answer": "1"}, 10, 5), Reply(fields={"answer": "2"}, tokens=None)])
    with dspy.context(lm=server.lm()), tracer.interaction():
        dspy.Predict("question -> answer")(question="1?")
        dspy.Predict("question -> answer")(question="2?")
    tracer.flush()
    assert " 2 LM calls · ≥10→5 tokens\n" in screen.tree()


def test_an_lm_of_its_own_shows_what_it_was_asked(configure: Configure, screen: Screen, server: LMServer) -> None:
    """A call with no module around it is a trace of one line, with its own numbers."""
    tracer = configure()
    server.script([Reply("Because.", tokens=Tokens(3, 2), finish_reason="stop")])
    server.lm()("Why?")
    tracer.flush()
    assert screen.tree() == block("""
       ~  lm openai/test-model  3→2 tokens · stop
          "Why?" → "Because."
          event ID
    """)


def test_without_content_a_module_shows_its_signature(configure: Configure, screen: Screen, server: LMServer) -> None:
    """`capture = "metadata"`: the tree has structure and numbers, and nothing that was asked or answered."""
    tracer = configure({"capture": "metadata"})
    server.script([answer({"answer": "secret"}, 10, 5)])
    with dspy.context(lm=server.lm()):
        dspy.Predict("question -> answer")(question="secret?")
    tracer.flush()
    assert screen.tree() == block("""
       ~  Predict  1 LM call · 10→5 tokens
          question → answer
          event ID
       ~  └─ lm openai/test-model  10→5 tokens · stop
    """)


def test_traces_that_run_at_the_same_time_are_not_mixed(configure: Configure, screen: Screen) -> None:
    """The spans of two traces take turns, over several batches; each trace is printed whole, when its root ends."""
    tracer = configure()
    turn = threading.Barrier(2, timeout=10)

    def run(name: str) -> None:
        with tracer.interaction(event=name):
            for step in range(3):
                with tracer.span(f"{name}{step}"):
                    turn.wait()

    threads = [threading.Thread(target=run, args=(name,)) for name in ("tick", "tock")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracer.flush()
    expected = [
        block(f"""
       ~  {name}
          event ID
       ~  ├─ span {name}0
       ~  ├─ span {name}1
       ~  └─ span {name}2
    """)
        for name in ("tick", "tock")
    ]
    assert screen.tree() in ("".join(expected), "".join(reversed(expected)))


def test_a_flush_shows_what_has_ended_and_the_end_shows_all(configure: Configure, screen: Screen) -> None:
    """A trace whose root still runs is shown once as incomplete, and whole when its root ends."""
    tracer = configure()
    with tracer.interaction(event="chat", user_id="ada"):
        with tracer.span("first"):
            pass
        tracer.flush()
        tracer.flush()
    assert screen.tree() == block("""
       …  trace  incomplete, its root has not ended · user ada
          event ID
       ~  └─ span first
    """)
    tracer.flush()
    assert screen.tree() == block("""
       ~  chat  user ada
          event ID
       ~  └─ span first
    """)


def test_what_is_left_at_shutdown_is_shown(configure: Configure, screen: Screen) -> None:
    """A root that never ends does not take the calls beneath it along."""
    tracer = configure()
    interaction = tracer.interaction(event="chat")
    interaction.__enter__()
    with tracer.span("first"):
        pass
    assert tracer.shutdown()
    interaction.__exit__(None, None, None)
    text = screen.tree()
    assert "incomplete, its root has not ended" in text
    assert "└─ span first" in text


def test_calls_that_end_after_their_root_are_shown_on_their_own(configure: Configure, screen: Screen) -> None:
    """A thread outlives the interaction that started it: a mark says so, and its finished child was not lost."""
    tracer = configure()
    root_ended, inner_ended = threading.Event(), threading.Event()

    def background() -> None:
        with tracer.span("slow"):
            with tracer.span("inner"):
                pass
            inner_ended.set()
            root_ended.wait(10)

    with tracer.interaction(event="chat"):
        thread = threading.Thread(target=copy_context().run, args=(background,))
        thread.start()
        inner_ended.wait(10)
    tracer.flush()
    root_ended.set()
    thread.join()
    tracer.flush()
    assert screen.tree() == block("""
       ~  chat
          event ID
       ~  └─ span inner  its caller has not ended
    """) + block("""
       …  trace  late calls of a trace that is shown above
          event ID
       ~  └─ span slow
    """)


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


def test_an_evaluation_is_summed_up(configure: Configure, screen: Screen, server: LMServer) -> None:
    """Of many examples the first are shown, and those that failed; one line counts the rest."""
    tracer = configure(max_children=2)
    server.script(
        [Reply(fields={"answer": "yes"}, tokens=Tokens(10, 5), status=500 if i == 5 else 200) for i in range(8)]
    )
    devset = [dspy.Example(question=f"{i}?", answer="yes").with_inputs("question") for i in range(8)]
    evaluate = dspy.Evaluate(devset=devset, metric=lambda example, made, trace=None: True, num_threads=1, max_errors=9)
    with dspy.context(lm=server.lm(), adapter=dspy.JSONAdapter()):
        evaluate(dspy.Predict("question -> answer"))
    tracer.flush()
    lines = screen.tree().splitlines()
    assert lines[0] == "~  eval Evaluate  1 error · 8 LM calls · 70→35 tokens"
    assert "8 examples" in lines[1]
    calls = [re.sub(r"✗ \w+Error", "✗ Error", line[3:]) for line in lines if re.match(r"[├└]", line[3:])]
    assert calls == [
        '├─ Predict  score True  question="0?" → answer="yes"',
        '├─ Predict  score True  question="1?" → answer="yes"',
        '├─ Predict  ✗ Error  question="5?"',
        "└─ 5 more  5 LM calls · 50→25 tokens",
    ]


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
    assert "Program  1 LM call · 110→55 tokens · $0.75\n" in screen.text()


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
           event order-17 trace ID

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


@pytest.mark.parametrize("no_color", [False, True])
def test_on_a_real_terminal(no_color: bool) -> None:
    """A process whose stderr is a terminal: the tree comes at exit, in colours unless NO_COLOR, within the width."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR")}
    environment |= {"TERM": "xterm-256color", **({"NO_COLOR": "1"} if no_color else {})}
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
    assert lines[0].endswith("…")
    assert len(lines[0]) == 60
    assert lines[1] == r'          → "\x1b[2J"'
    assert lines[3].endswith("└─ span search")
    assert ("\x1b[34m" in output) is not no_color


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


def test_what_an_evaluation_scored(server: LMServer, configure: Configure, screen: Screen) -> None:
    """The run's score, each example's, why one has none, and which trial of an optimizer it was."""

    def metric(example: Any, prediction: Any, trace: Any = None) -> float:
        return 1 / example.number

    devset = [dspy.Example(question=f"q{i}", number=i).with_inputs("question") for i in range(3)]
    tracer = configure({"capture": "metadata"})
    with dspy.context(lm=server.lm()), tracer.span("my optimizer", kind="compile"):
        dspy.Evaluate(devset=devset, metric=metric, num_threads=1, display_progress=False)(
            dspy.Predict("question -> x")
        )
    assert tracer.flush()
    lines = screen.text().splitlines()
    (run,) = [line for line in lines if "eval Evaluate" in line]
    assert "trial 1 · score 50" in run
    scored = [line for line in lines if "Predict" in line]
    assert ["no score: its metric raised" in line for line in scored] == [True, False, False]
    assert ["score 1" in line for line in scored] == [False, True, False]
    assert "score 0.5" in scored[2]
