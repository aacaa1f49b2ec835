"""Runs random plans as real DSPy programs: modules, agents, tools, threads and tasks.

A program knows of each part of its plan how often it ran, and what each time came of it: what spans are compared with.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import dspy

from lm_replies import Body, Reply, asked_fields
from random_plans import LEAVES, MODULES, NAME, Part, Plan
from spanhook import Tracer

TOOL = "helper"  # of an agent
Work = Callable[[Part, bool], Coroutine[Any, Any, Any]]


def named(kind: type, part: Part) -> Any:
    """A class of the program's own, which has the part in its name."""
    return type(f"{kind.__name__}_{part.name}", (kind,), {})


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("it waits")


def error_type(error: BaseException) -> str:
    """As spans have it."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class _Module(dspy.Module):  # type: ignore[misc]
    def __init__(self, program: Program, part: Part) -> None:
        super().__init__()
        self.program, self.part = program, part

    def forward(self, name: str) -> Any:
        return at_once(self.program.noted(self.part, self.program.steps, False))

    async def aforward(self, name: str) -> Any:
        return await self.program.noted(self.part, self.program.steps, True)


@dataclass
class Program:
    """Runs a plan once.

    Args:
        tracer: None runs it without one.
        lms: the models by name.
    """

    plan: Plan
    tracer: Tracer | None
    lms: dict[str, Any]
    ended: dict[str, list[str | None]] = field(default_factory=lambda: defaultdict(list))
    interactions: list[tuple[str, Any]] = field(default_factory=list)
    _asked: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _lock: Any = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.parts = {part.name: part for part in self.plan.root.all()}

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self

    def run(self) -> Any:
        """What comes of it, a result or an error, without the numbers that differ from run to run."""
        is_async, root = self.plan.is_async, self.plan.root
        with dspy.context(lm=self.lms[self.plan.model]):
            try:
                made = asyncio.run(self.take(root, True)) if is_async else at_once(self.take(root, False))
            except Exception as error:
                made = error_type(error), str(error)
        return re.sub(r"-\d+\b|request \d+", "", str(made))

    def answer(self, body: Body) -> Any:
        """What the model says to a request: as the plan wants it of the part that asks."""
        part = self.parts[NAME.findall(str(body))[0]]
        with self._lock:
            number = self._asked[part.name]
            self._asked[part.name] += 1
        move = part.moves[number] if number < len(part.moves) else "answer"
        if move.isdigit():
            return Reply(status=int(move), retry_after_s=0.0)
        more: dict[str, Any] = {"finish_reason": "length" if move == "length" else "stop"}
        if move == "no tokens":
            more["tokens"] = None
        _, wanted = asked_fields(body)
        if not wanted or move == "no field":
            return Reply(f"{part.name}-{{serial}}", **more)
        fields: dict[str, Any] = dict.fromkeys(wanted, f"{part.name}-{{serial}}")
        if "next_tool_name" in fields:
            is_done = "observation_0" in str(body)
            fields |= {"next_tool_name": "finish" if is_done else TOOL, "next_tool_args": {}}
        return Reply(fields=fields, **more)

    async def noted(self, part: Part, work: Work, is_async: bool) -> Any:
        """Do the work of a part, and note how that ended."""
        try:
            made = await work(part, is_async)
        except BaseException as error:
            self.ended[part.name].append(error_type(error))
            raise
        self.ended[part.name].append(None)
        return made

    def now(self, part: Part) -> Any:
        """Run a part without async code."""
        return at_once(self.take(part, False))

    async def inner(self, part: Part, is_async: bool) -> list[Any]:
        """Run what is inside of a part, one after the other."""
        return [await self.take(inner, is_async) for inner in part.inside]

    async def take(self, part: Part, is_async: bool) -> Any:
        """Run a part."""
        if part.kind in LEAVES:
            return await self.noted(part, self.ask, is_async)
        if part.kind in MODULES:
            module = named(_Module, part)(self, part)
            return await module.acall(name=part.name) if is_async else module(name=part.name)
        return await getattr(self, f"in_{part.kind.replace(' ', '_')}")(part, is_async)

    async def ask(self, part: Part, is_async: bool) -> Any:
        """A leaf: something of DSPy's own that asks a model."""
        question, lm = f"What of {part.name}?", self.lms[part.lm] if part.lm is not None else None
        if part.kind == "lm":
            lm = lm or dspy.settings.lm
            return await lm.acall(question) if is_async else lm(question)
        kind = {"predict": dspy.Predict, "chain of thought": dspy.ChainOfThought, "refine": dspy.BestOfN}[part.kind]
        if part.kind == "refine":
            once = dspy.Predict("question -> answer")
            module = named(kind, part)(once, N=2, reward_fn=lambda inputs, made: 0.0, threshold=1.0)
        else:
            module = copy.deepcopy(named(kind, part)("question -> answer"))
        if lm is not None:
            module.set_lm(lm)
        is_async = is_async and part.kind != "refine"
        return await module.acall(question=question) if is_async else module(question=question)

    async def steps(self, part: Part, is_async: bool) -> Any:
        """What a module does."""
        if part.kind == "catches":
            with contextlib.suppress(Exception):
                return await self.inner(part, is_async)
            return "caught"
        if part.kind == "retries":
            for _ in range(2):
                with contextlib.suppress(Exception):
                    return await self.inner(part, is_async)
        if part.kind == "parallel":
            parallel = dspy.Parallel(num_threads=2, disable_progress_bar=True, max_errors=99)
            return parallel([(lambda inner=inner, **_: self.now(inner), {"x": 1}) for inner in part.inside])
        if part.kind in ("threads", "lone threads"):
            return self.in_threads(part, dspy.settings.lm)
        if part.kind == "together" and is_async:
            tasks = [self.take(inner, True) for inner in part.inside]
            return [str(made) for made in await asyncio.gather(*tasks, return_exceptions=True)]
        made = await self.inner(part, is_async)
        if part.kind == "raises":
            raise LookupError(part.name)
        return made

    def in_threads(self, part: Part, lm: Any) -> list[Any]:
        """Threads of the program's own, with the context or without."""

        def alone(inner: Part) -> Any:
            with dspy.context(lm=lm):
                return self.now(inner)

        with ThreadPoolExecutor(2) as pool:
            if part.kind == "lone threads":
                futures = [pool.submit(alone, inner) for inner in part.inside]
            else:
                futures = [pool.submit(contextvars.copy_context().run, self.now, inner) for inner in part.inside]
        return [future.result() for future in futures]

    async def in_interaction(self, part: Part, is_async: bool) -> Any:
        if self.tracer is None:
            return await self.inner(part, is_async)
        with self.tracer.interaction(user_id=part.user, event=f"event {part.name}") as interaction:
            self.interactions.append((part.name, interaction))
            return await self.noted(part, self.inner, is_async)

    async def in_span(self, part: Part, is_async: bool) -> Any:
        with self.tracer.span(f"own {part.name}") if self.tracer is not None else contextlib.nullcontext():
            return await self.noted(part, self.inner, is_async)

    async def in_tool(self, part: Part, is_async: bool) -> Any:

        async def work(part: Part, is_async: bool) -> Any:
            return await self.noted(part, self.inner, is_async)

        tool = self.tool(part.name, part, work, is_async)
        return await tool.acall() if is_async else tool()

    def tool(self, name: str, part: Part, work: Work, is_async: bool) -> Any:
        """A tool that does some work of a part."""

        def call() -> str:
            return str(at_once(work(part, False)))

        async def acall() -> str:
            return str(await work(part, True))

        return dspy.Tool(acall if is_async else call, name=name, desc="It helps.")

    async def in_agent(self, part: Part, is_async: bool) -> Any:
        return await self.noted(part, self.agent, is_async)

    async def agent(self, part: Part, is_async: bool) -> Any:
        """An agent that uses its tools in turn."""
        question = f"What of {part.name}?"
        agent = named(dspy.ReAct, part)(
            "question -> answer", tools=[self.tool(TOOL, part, self.inner, is_async)], max_iters=3
        )
        made = await agent.acall(question=question) if is_async else agent(question=question)
        return made.answer  # the rest has tracebacks, with lines of DSPy's that depend on whether it has callbacks

    async def in_evaluation(self, part: Part, is_async: bool) -> Any:
        return await self.noted(part, self.evaluate, is_async)

    async def evaluate(self, part: Part, is_async: bool) -> Any:
        """An evaluation of two examples."""
        devset = [dspy.Example(number=number).with_inputs("number") for number in range(2)]
        evaluate = named(dspy.Evaluate, part)(
            devset=devset, metric=lambda *_: 1.0, num_threads=1, display_progress=False, max_errors=99
        )
        return evaluate(lambda number: dspy.Prediction(made=at_once(self.inner(part, False)))).score

    async def in_generator(self, part: Part, is_async: bool) -> Any:
        async def body() -> Any:
            for inner in part.inside:
                yield await self.take(inner, True)

        if is_async:
            return [made async for made in body()]
        return list(map(self.now, part.inside))

    async def in_history_off(self, part: Part, is_async: bool) -> Any:
        with dspy.context(disable_history=True):
            return await self.inner(part, is_async)

    async def in_usage(self, part: Part, is_async: bool) -> Any:
        with dspy.context(track_usage=True):
            return await self.inner(part, is_async)

    async def in_other_model(self, part: Part, is_async: bool) -> Any:
        with dspy.context(lm=self.lms[part.lm or self.plan.model]):
            return await self.inner(part, is_async)
