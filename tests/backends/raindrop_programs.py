"""The same programs, traced by raindrop-dspy or by Spanhook: `python raindrop_programs.py theirs|ours ENDPOINT KEY`.

At Raindrop each has a conversation of its own name. Prints as JSON what each of them returned or raised, and what the
language model said it counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ["RAINDROP_WORKSHOP"] = "0"
sys.path.append(str(Path(__file__).parents[1]))

import dspy

from lm_server import LMServer, Reply

ENGINES = ("lm15", "litellm")


class TwoPredictors(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict("question -> notes")
        self.second = dspy.Predict("notes -> answer")

    def forward(self, question: str) -> Any:
        return self.second(notes=self.first(question=question).notes)

    async def aforward(self, question: str) -> Any:
        return await self.second.acall(notes=(await self.first.acall(question=question)).notes)


class AsyncForward(dspy.Module):
    async def forward(self, question: str) -> Any:
        return await dspy.Predict("question -> answer").acall(question=question)


class Listing(dspy.Module):
    def forward(self, question: str, hints: list[str], limit: int) -> Any:
        return dspy.Prediction(answers=["a", "b"], found=True, score=0.5, missing=None)


def fail(word: str) -> str:
    """Looks a word up."""
    raise LookupError(f"no {word}")


REACT = [
    {"next_thought": "Look.", "next_tool_name": "fail", "next_tool_args": {"word": "tree"}},
    {"next_thought": "Enough.", "next_tool_name": "finish", "next_tool_args": {}},
]


def predict() -> Any:
    return dspy.Predict("question -> answer")


# name: the module, how it is called, and what the model is to answer if not the fields that it is asked for
PROGRAMS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], list[Any]]] = {
    "Predict": (predict, lambda p: p(question="Why?"), []),
    "ChainOfThought": (lambda: dspy.ChainOfThought("question -> answer"), lambda p: p(question="Why?"), []),
    "two predictors": (TwoPredictors, lambda p: p(question="Why?"), []),
    "ReAct": (lambda: dspy.ReAct("question -> answer", tools=[fail]), lambda p: p(question="Why?"), REACT),
    "LM error": (predict, lambda p: p(question="Why?"), [Reply(status=500)]),
    "error after success": (
        TwoPredictors,
        lambda p: p(question="Why?"),
        [{"notes": "n"}, Reply(status=500)],
    ),
    "acall": (TwoPredictors, lambda p: asyncio.run(p.acall(question="Why?")), []),
    "async forward": (AsyncForward, lambda p: asyncio.run(p(question="Why?")), []),
    "other values": (Listing, lambda p: p(question="Why?", hints=["é", "ü"], limit=3), []),
}


def main(side: str, endpoint: str, key: str) -> None:
    """Run them all on both engines, each with a wrapper of its own."""
    if side == "theirs":
        from raindrop_dspy import RaindropDSPy
    else:
        from spanhook_backends.raindrop.drop_in import RaindropDSPy
    outcomes: dict[str, Any] = {}
    wrappers = []

    def run(name: str, make: Callable[[], Any], call: Callable[[Any], Any]) -> None:
        raindrop = RaindropDSPy(key, "u1", name, endpoint=endpoint, app_git=False)
        wrappers.append(raindrop)
        asked = len(server.answered)
        try:
            outcome = call(raindrop.wrap(make())).toDict()
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        answered = [server.answered[serial] for serial in range(asked + 1, len(server.answered) + 1)]
        counted = [answer.tokens for answer in answered if answer.tokens is not None]
        outcomes[name] = {
            "outcome": outcome,
            "tokens": [sum(t.prompt for t in counted), sum(t.completion for t in counted)] if counted else None,
            "finish_reason": answered[-1].finish_reason if answered else None,
        }

    with LMServer(finish_reasons=("stop",)) as server:
        for engine in ENGINES:
            with dspy.context(lm=server.lm(engine=engine)):
                for name, (make, call, script) in PROGRAMS.items():
                    server.script(script)
                    run(f"{name}, {engine}", make, call)
                with dspy.context(lm=server.lm(model="openai/pinned", engine=engine)):
                    pinned = predict()
                    pinned.lm = dspy.settings.lm
                run(f"own LM, {engine}", lambda pinned=pinned: pinned, lambda p: p(question="Why?"))
            with dspy.context(lm=server.lm(engine=engine, cache=True, temperature=0.01 + ENGINES.index(engine))):
                for number in ("first", "second"):
                    run(f"{number} of a cache, {engine}", predict, lambda p: p(question="Again?"))
    feedback = wrappers[0]
    feedback.identify("u1")
    feedback.identify("u2", traits={"plan": "pro", "seats": 3})
    feedback.track_signal("e1", "whole", "feedback", comment="Good.", sentiment="POSITIVE", properties={"a": {"b": 1}})
    feedback.track_signal("e1", "edit", "edit", after="New.", timestamp="2026-01-02T03:04:05+00:00", attachment_id="a1")
    feedback.track_signal("e1", "feedback without comment", "feedback")
    feedback.track_signal("e1", "edit without text", "edit")
    feedback.track_signal("e1", "default with comment", comment="By the way")
    with ThreadPoolExecutor(len(wrappers)) as pool:
        list(pool.map(lambda raindrop: raindrop.shutdown(), wrappers))
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
