"""What the tree shows on terminals of any width: what matters is seen, and ids can be copied."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Sequence
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from structlog_screen import span

from spanhook import Signal, Span, SpanError, Usage
from spanhook_backends.terminal import FILE_WIDTH, Terminal
from spanhook_backends.terminal.waiting import Waiting

MODEL = "anthropic/claude-sonnet-4-5-20250929"
EVENT = "01a20293-dd0b-7879-9f25-d43f09f187e2"
IDS = {"user_id": "user-4f7a9c1e-0d1b-4a55-8c0f", "convo_id": "conv-2026-10-04-8d1e-77aa"}
USAGE = Usage(1234, 567, 1801, cached_input_tokens=1000, reasoning_output_tokens=320)


class Stream(io.StringIO):
    """Stands for a terminal, or for a file."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def shown(
    columns: int | None, spans: Sequence[Span] = (), signals: Sequence[Signal] = (), users: Sequence[str] = ()
) -> list[str]:
    """The lines for spans, signals and users in a terminal of so many columns; None: in a file."""
    environment = {"TERM": "dumb"} | ({"COLUMNS": str(columns)} if columns is not None else {})
    with mock.patch.dict(os.environ, environment, clear=True):
        stream = Stream(columns is not None)
        terminal = Terminal(stream, Waiting(), show_adapters=False, max_children=50)
        terminal.emit(spans)
        for signal in signals:
            terminal.track_signal(signal)
        for user_id in users:
            terminal.identify(user_id, {"plan": "enterprise", "email": "ada@example.com"})
    return stream.getvalue().splitlines()


def lm(number: int, parent: int | None, **more: object) -> Span:
    """A call of a model with a long name that was cut off."""
    values = {"model": MODEL, "usage": USAGE, "cost_usd": 0.0123, "finish_reason": "length", **more}
    return span("LM", number, parent, kind="lm", **values)


def program(depth: int = 1, **more: object) -> list[Span]:
    """An interaction with an LM call beneath `depth` modules."""
    modules = [span("Predict", number, number - 1, kind="module") for number in range(2, depth + 2)]
    root = span("support_question", 1, kind="interaction", **IDS)
    spans = [lm(depth + 2, depth + 1, **more), *reversed(modules), root]
    for one in spans:
        one.event_id, one.trace_id = EVENT, EVENT.replace("-", "")
    return spans


def block(text: str) -> list[str]:
    return [line.removeprefix("|").rstrip() for line in textwrap.dedent(text).strip("\n").splitlines()]


def test_all_that_matters_has_room_at_80() -> None:
    """With ids, a model and numbers of usual lengths; each id is on one line."""
    signal = Signal(EVENT, "thumbs_up", "feedback", comment="That was quick, thank you!", sentiment="POSITIVE")
    assert shown(80, program(4), [signal], [IDS["user_id"]]) == block(f"""
        |  2.0 ms  support_question  1 LM call · $0.012 · 1,234→567 tokens
        |          event {EVENT}
        |          user {IDS["user_id"]} · convo {IDS["convo_id"]}
        |  2.0 ms  └─ Predict
        |  2.0 ms     └─ Predict
        |  2.0 ms        └─ Predict
        |  2.0 ms           └─ Predict
        |  2.0 ms              └─ lm anthropi…0250929  length · $0.012 · 1,234→567 tokens
        |
        |  signal  thumbs_up  feedback · positive · comment="That was quick, thank you!"
        |          event {EVENT}
        |identify  {IDS["user_id"]}
        |          plan="enterprise" email="ada@example.com"
    """)


def test_at_60_lines_say_less_and_totals_wrap() -> None:
    """The word "tokens" goes, and most of a model's name, before a number does."""
    assert shown(60, program(2, finish_reason="stop")) == block(f"""
        |  2.0 ms  support_question  1 LM call · $0.012
        |          1,234→567 tokens
        |          event {EVENT}
        |          user {IDS["user_id"]}
        |          convo {IDS["convo_id"]}
        |  2.0 ms  └─ Predict
        |  2.0 ms     └─ Predict
        |  2.0 ms        └─ lm anthro…50929  $0.012 · 1,234→567
        |
    """)


def test_a_wide_terminal_shows_all() -> None:
    """In two lines for the root, and one for the call."""
    assert shown(140, program(1, finish_reason="stop")) == block(f"""
        |  2.0 ms  support_question  1 LM call · $0.012 · 1,234→567 tokens
        |          event {EVENT} · user {IDS["user_id"]} · convo {IDS["convo_id"]}
        |  2.0 ms  └─ Predict
        |  2.0 ms     └─ lm {MODEL}  $0.012 · 1,234 (1,000 cached)→567 (320 reasoning) tokens · stop
        |
    """)


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (114, f"lm {MODEL}  $0.012 · 1,234 (1,000 cached)→567 (320 reasoning) tokens"),
        (100, f"lm {MODEL}  $0.012 · 1,234→567 tokens"),
        (82, f"lm {MODEL}  $0.012 · 1,234→567 tokens"),
        (70, "lm anthropic/cl…-5-20250929  $0.012 · 1,234→567 tokens"),
        (52, "lm anthro…50929  $0.012 · 1,234→567"),
        (42, "lm anthro…50929  $0.012"),
        (34, "lm ant…929  $0.012"),
    ],
)
def test_what_gives_way_first(columns: int, line: str) -> None:
    """How it ended well, parts of the tokens, the middle of the name, a word, a fact, most of the name."""
    assert shown(columns, program(1, finish_reason="stop"))[-2].endswith(f" └─ {line}")


def test_guides_of_a_deep_program_leave_room() -> None:
    """Where they would take more than a third of the width, the outer ones are counted; what it cost stays in view."""
    lines = shown(80, program(20))
    assert lines[-3].startswith("  2.0 ms  +13" + " " * 18 + "└─ Predict")
    assert lines[-2].startswith("  2.0 ms  +14" + " " * 18 + "└─ lm ")
    assert "  length · $0.012 · 1,234→567" in lines[-2]


IDENTIFIER = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=200)
TEXT = st.text(max_size=120)


@given(columns=st.integers(20, 200), texts=st.lists(TEXT, min_size=8, max_size=8), depth=st.integers(0, 30))
def test_no_line_is_wider_than_the_terminal(columns: int, texts: list[str], depth: int) -> None:
    """Whatever the names, ids, contents and errors are."""
    name, user, convo, model, reason, content, error, event = texts
    spans = program(depth, model=model, finish_reason=reason)
    spans[-1] = span(name, 1, user_id=user, convo_id=convo, inputs={name: content}, outputs=content)
    spans[0].error = spans[1].error = SpanError(error, content, None)
    spans.insert(0, span(name, depth + 3, 1, kind="tool", inputs=content, error=SpanError(name, error, None)))
    signal = Signal(event, name, content, comment=content, attachment_id=user, properties={name: content})
    lines = shown(columns, [one for one in spans if one.trace_id == spans[-1].trace_id], [signal], [user])
    lines += shown(columns, program(depth, model=model, finish_reason=reason))
    assert max(map(cell_len, lines)) <= columns


@given(columns=st.integers(50, 200), ids=st.lists(IDENTIFIER, min_size=4, max_size=4))
def test_no_id_is_cut(columns: int, ids: list[str]) -> None:
    """From 50 columns on each is whole, on one line if a line is as long, and else over several."""
    event, user, convo, attachment = ids
    root = span("support_question", 1, user_id=user, convo_id=convo)
    root.event_id = event
    signal = Signal(event, "thumbs_up", "feedback", comment="Quick! " * 12, attachment_id=attachment)
    for lines, expected in (
        (shown(columns, [root]), [event, root.trace_id, user, convo]),
        (shown(columns, [], [signal]), [event, attachment]),
        (shown(columns, [], [], [user]), [user]),
    ):
        together = "".join(line.strip() for line in lines)
        for one in expected:
            assert one in together
            assert len(one) > columns or any(one in line for line in lines)


@given(columns=st.integers(80, 200), depth=st.integers(0, 40), cost=st.floats(0.0001, 9_999))
def test_why_it_ended_and_what_it_cost_is_seen(columns: int, depth: int, cost: float) -> None:
    """From 80 columns on, with long ids and models, at any depth; on top the totals are whole."""
    lines = shown(columns, program(depth, cost_usd=cost))
    call = next(line for line in lines if " lm " in line)
    assert "  length · $" in call
    amount = call.partition("$")[2].split()[0]
    assert "…" not in amount
    assert f"1 LM call · ${amount} · 1,234→567 tokens" in lines[0]


def test_a_file_has_room_for_more_than_80_columns() -> None:
    """Nobody knows where it will be read; COLUMNS still decides if it is set."""
    content = {"question": "q" * 60, "context": "c" * 60}
    spans = [span("support_question", 1, inputs=content)]
    assert any("q" * 60 + '" context="' + "c" * 60 in line for line in shown(None, spans))
    assert max(map(len, shown(None, [span("s", 1, inputs={f"f{i}": "x" * 70 for i in range(9)})]))) == FILE_WIDTH
