"""What is measured: DSPy programs whose language model takes no time, so that what is left is DSPy and the tracer."""

from __future__ import annotations

from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, TextPart, Usage

QUESTION = "What is the capital of Italy?"
_ANSWER = [TextPart("[[ ## answer ## ]]\nRome\n\n[[ ## completed ## ]]")]


class Engine:
    """Answers at once, with counts and a finish reason: a real `dspy.LM` with no network behind it."""

    def complete(self, request: Request) -> Response:
        message = Message.assistant(_ANSWER)
        usage = Usage(input_tokens=100, output_tokens=10, total_tokens=110)
        return Response(id="1", model="bench-1", message=message, finish_reason="stop", usage=usage)

    def close(self) -> None:
        """Nothing is open."""


def model() -> dspy.LM:
    """The language model of all programs."""
    return dspy.LM("openai/bench", engine=Engine(), cache=False)


def predict() -> dspy.Module:
    """One predictor: 4 spans."""
    return dspy.Predict("question -> answer")


def look_up(city: str) -> str:
    """What a tool does here: nothing that takes time."""
    return f"{city} is a city."


class Agent(dspy.Module):
    """Five predictors and five tools, by turns: 26 spans."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = [predict() for _ in range(5)]
        self.tools = [dspy.Tool(look_up) for _ in range(5)]

    def forward(self, question: str) -> dspy.Prediction:
        answer = dspy.Prediction(answer=question)
        for step, tool in zip(self.steps, self.tools, strict=True):
            answer = step(question=tool(city=answer.answer))
        return answer


class Wide(dspy.Module):
    """One module and `calls` tools right under it."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.tool = dspy.Tool(look_up)
        self.calls = calls

    def forward(self, question: str) -> Any:
        for _ in range(self.calls):
            self.tool(city=question)
        return None


class Deep(dspy.Module):
    """A module in a module in a module: `depth` of them below this one."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.inner = Deep(depth - 1) if depth else None

    def forward(self, question: str) -> Any:
        return self.inner(question=question) if self.inner is not None else None
