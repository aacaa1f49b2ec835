"""A worker: a DSPy program behind HTTP that continues the trace of whoever calls it."""

from __future__ import annotations

import os
from typing import Any

import dspy
from dspy.utils import DummyLM
from serving import Handler, serve

import spanhook

model = os.environ.get("MODEL")
if model:
    dspy.configure(lm=dspy.LM(model, api_base=os.environ.get("API_BASE")))
else:
    dspy.configure(lm=DummyLM([{"reasoning": "I know it.", "answer": "Yes."}] * 100))
spanhook.configure()
program = dspy.ChainOfThought("question -> answer")


class Worker(Handler):
    def answer(self, question: Any) -> Any:
        with spanhook.attach(self.headers):  # from here on it is the caller's trace
            return {"answer": program(question=question).answer}


if __name__ == "__main__":
    serve(Worker)
