"""DSPy programs that several tests trace."""

from __future__ import annotations

from typing import Any

import dspy
from dspy.utils.dummies import DummyLM


class Answerer(dspy.Module):
    """One predictor in a module."""

    def __init__(self, signature: str = "question -> answer") -> None:
        super().__init__()
        self.respond = dspy.Predict(signature)

    def forward(self, **inputs: Any) -> dspy.Prediction:
        return self.respond(**inputs)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        return await self.respond.acall(**inputs)


class FanOut(dspy.Module):
    """Runs a predictor over several questions with dspy.Parallel."""

    def __init__(self, threads: int = 4) -> None:
        super().__init__()
        self.respond = Answerer()
        self.threads = threads

    def forward(self, questions: list[str]) -> dspy.Prediction:
        pairs = [(self.respond, {"question": question}) for question in questions]
        parallel = dspy.Parallel(num_threads=self.threads, disable_progress_bar=True)
        return dspy.Prediction(answers=[prediction.answer for prediction in parallel(pairs)])


def ask_dummy() -> dspy.Prediction:
    """Ask a predictor, whose model is DSPy's dummy, once."""
    with dspy.context(lm=DummyLM([{"answer": "Paris"}]), adapter=dspy.ChatAdapter()):
        return dspy.Predict("question -> answer")(question="France?")
