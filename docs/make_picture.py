"""Makes docs/trace.svg, the README's picture: what Spanhook prints for a program that really runs.

    python docs/make_picture.py [FILE]

The program is real DSPy and talks HTTP to a server on this machine, whose answers and token counts are scripted.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import dspy
from dspy.utils.exceptions import AdapterParseError
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

import spanhook

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests"))

from lm_server import LMServer, Reply, Tokens  # noqa: E402 - the tests' language model

WIDTH = 112
MODEL = "gpt-4o-mini"
QUESTION = "Where are my orders 17 and 23?"
ORDERS = {"17": "on its way, arrives on Friday"}


def order_status(order_id: str) -> str:
    """Look up where an order is."""
    return ORDERS[order_id]


class SupportDesk(dspy.Module):
    """Finds the topic of a question, then an agent answers it."""

    def __init__(self) -> None:
        super().__init__()
        self.topic = dspy.Predict("question -> topic")
        self.agent = dspy.ReAct("question -> answer", tools=[order_status], max_iters=3)

    def forward(self, question: str) -> dspy.Prediction:
        return dspy.Prediction(topic=self.topic(question=question).topic, answer=self.agent(question=question).answer)


def reply(fields: Mapping[str, Any], prompt: int, completion: int, **more: Any) -> Reply:
    """A scripted answer with the usage that a real one of its length has."""
    return Reply(fields=fields, tokens=Tokens(prompt, completion, **more), finish_reason="stop", delay_s=prompt / 2500)


def look_up(order_id: str) -> dict[str, Any]:
    return {
        "next_thought": f"I look up order {order_id}.",
        "next_tool_name": "order_status",
        "next_tool_args": {"order_id": order_id},
    }


ANSWERS = [
    reply({"topic": "delivery"}, 176, 11),
    reply(look_up("17"), 448, 37),
    reply(look_up("23"), 561, 37),
    reply({"next_thought": "One is known.", "next_tool_name": "finish", "next_tool_args": {}}, 904, 29),
    reply({"reasoning": "The tool knows 17.", "answer": "17 arrives on Friday; I can't find 23."}, 873, 52, cached=768),
]


class Screen(io.StringIO):
    """Stands for the terminal and keeps what is written to it."""

    def isatty(self) -> bool:
        return True


def printed() -> str:
    """What a terminal shows: the program twice, the second time partly from DSPy's cache, and what the user says."""
    screen = Screen()
    terminal = {"TERM": "xterm-256color", "COLUMNS": str(WIDTH), "LINES": "60"}
    with mock.patch.dict(os.environ, terminal), mock.patch.object(sys, "stderr", screen), LMServer() as server:
        os.environ.pop("NO_COLOR", None)
        logging.getLogger("dspy").setLevel(logging.ERROR)  # it would warn of the answer that is cut off on purpose
        dspy.configure_cache(enable_disk_cache=False)
        server.script(ANSWERS)
        lm = server.lm(f"openai/{MODEL}", cache=True)
        dspy.configure(lm=lm, adapter=dspy.JSONAdapter())
        tracer = spanhook.configure({"backends": {"structlog": {"format": "tree"}}})
        program = SupportDesk()
        with tracer.interaction(user_id="ada", convo_id="c42", event="support_question") as interaction:
            program(question=QUESTION)
        tracer.track_signal(interaction.event_id, "thumbs_up", "feedback", comment="Quick!", sentiment="POSITIVE")
        tracer.flush()
        screen.write("\n")
        server.script([Reply('{"reasoning": "The customer asks for', tokens=Tokens(189, 8), finish_reason="length")])
        with tracer.interaction(user_id="ada", convo_id="c42", event="support_question"):
            try:
                program.topic(question=QUESTION)
                dspy.ChainOfThought("question -> refund: bool")(question=QUESTION)
            except AdapterParseError:
                pass
        tracer.shutdown()
    return screen.getvalue()


def draw(ansi: str) -> str:
    """Terminal output as an SVG that needs no font or file from anywhere else."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(ansi.rstrip("\n")))
    return console.export_svg(title="", theme=THEME, code_format=SVG, unique_id="trace")


INK, PAPER, GREY = (214, 218, 224), (24, 26, 31), (110, 116, 128)
HUES = [(240, 113, 120), (145, 200, 130), (232, 192, 100), (110, 170, 240), (200, 150, 235), (100, 200, 205)]
THEME = TerminalTheme(PAPER, INK, [PAPER, *HUES, INK], [GREY, *HUES, (255, 255, 255)])

SVG = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
  <style>
    .{unique_id}-matrix {{
      font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
      font-size: {char_height}px;
      line-height: {line_height}px;
    }}
    {styles}
  </style>
  <defs>
    <clipPath id="{unique_id}-clip-terminal">
      <rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
    </clipPath>
    {lines}
  </defs>
  {chrome}
  <g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
    {backgrounds}
    <g class="{unique_id}-matrix">
      {matrix}
    </g>
  </g>
</svg>
"""


if __name__ == "__main__":
    text = printed()
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "trace.svg"
    target.write_text(draw(text), encoding="utf-8")
    print(Text.from_ansi(text))
