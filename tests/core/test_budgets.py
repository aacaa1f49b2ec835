"""What an interaction says of its own tokens and cost, and what happens when it costs more than it may."""

from __future__ import annotations

import asyncio
import math
import re
import threading
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

import spanhook
from doubles import WAIT_S, Memory, messages, tracer_of, wait_for
from lm_server import LMServer, Reply
from programs import Answerer, FanOut
from spanhook import BudgetExceededError, Span, Usage

MODEL = "openai/gpt-4o-mini"  # DSPy knows its price
EXTRACTORS = {"extractors": ["history", "lm_usage", "finish_reason"]}


@pytest.fixture
def server() -> Iterator[LMServer]:
    with LMServer() as running, dspy.context(lm=running.lm(model=MODEL)):
        yield running


@pytest.fixture
def tracer(memory: Memory) -> spanhook.Tracer:
    return tracer_of(memory, tracing=EXTRACTORS)


def root(memory: Memory, tracer: spanhook.Tracer) -> Span:
    assert tracer.flush()
    (found,) = [span for span in memory.spans if span.parent_id is None]
    return found


def test_totals_are_live_and_stay(server: LMServer, memory: Memory, tracer: spanhook.Tracer) -> None:
    """None before the first call, then the sum after each; at the end what the root span says."""
    with tracer.interaction() as interaction:
        assert (interaction.usage, interaction.usage_by_model, interaction.cost_usd) == (None, {}, None)
        Answerer()(question="one")
        one, cost = interaction.usage, interaction.cost_usd
        assert one is not None
        assert one.input_tokens == server.answered[1].tokens.prompt  # type: ignore[union-attr]
        FanOut()(questions=["two", "three"])
    span = root(memory, tracer)
    assert interaction.usage == span.usage == Usage.sum(s.usage for s in memory.spans if s.kind == "lm" and s.usage)
    assert interaction.cost_usd == pytest.approx(span.cost_usd)
    assert cost is not None
    assert interaction.cost_usd is not None
    assert interaction.cost_usd > cost > 0
    assert interaction.usage_by_model == {MODEL: span.usage}


def test_totals_while_calls_run(server: LMServer, tracer: spanhook.Tracer) -> None:
    """Read from another thread between two calls of one program."""
    second = threading.Event()
    server.script(["[[ ## answer ## ]]\na", Reply(fields={"answer": "b"}, hold=second)])
    with tracer.interaction() as interaction:
        program = FanOut(threads=1)
        context = __import__("contextvars").copy_context()
        thread = threading.Thread(target=context.run, args=(lambda: program(questions=["a", "b"]),))
        thread.start()
        server.wait_received(2)
        assert interaction.usage is not None
        assert interaction.usage.input_tokens == server.answered[1].tokens.prompt  # type: ignore[union-attr]
        second.set()
        thread.join(WAIT_S)
    both = [answered.tokens.prompt for answered in server.answered.values() if answered.tokens is not None]
    assert (len(both), interaction.usage.input_tokens) == (2, sum(both))


def test_what_is_unknown_is_none(server: LMServer, tracer: spanhook.Tracer) -> None:
    """A call without usage: no sum of tokens and no cost from then on."""
    server.script([{"answer": "a"}, Reply(fields={"answer": "b"}, tokens=None)])
    with tracer.interaction() as interaction:
        Answerer()(question="one")
        assert interaction.cost_usd is not None
        Answerer()(question="two")
        assert (interaction.usage, interaction.usage_by_model, interaction.cost_usd) == (None, None, None)


def test_an_inner_interaction_counts_for_the_outer_one_too(server: LMServer, tracer: spanhook.Tracer) -> None:
    """Each has its own sum."""
    with tracer.interaction() as outer:
        Answerer()(question="one")
        with tracer.interaction() as inner:
            Answerer()(question="two")
    first, second = (server.answered[serial].tokens for serial in (1, 2))
    assert first is not None
    assert second is not None
    assert inner.usage is not None
    assert outer.usage is not None
    assert inner.usage.input_tokens == second.prompt
    assert outer.usage.input_tokens == first.prompt + second.prompt


class Proxy(dspy.BaseLM):  # type: ignore[misc]
    """An LM that asks another one and passes its answer on, usage and all, or without."""

    def __init__(self, inner: Any, usage: bool) -> None:
        super().__init__(model="proxy")
        self.inner = inner
        self.usage = usage

    def __call__(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return super().__call__(prompt=prompt, messages=messages, **kwargs)

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        texts = self.inner(messages=messages) if messages else self.inner(prompt)
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10} if self.usage else {}
        message = type("Message", (), {"content": texts[0], "tool_calls": None})()
        choice = type("Choice", (), {"message": message, "finish_reason": "stop"})()
        return type("Response", (), {"choices": [choice], "usage": usage, "model": "proxy"})()


@pytest.mark.parametrize("usage", [True, False])
def test_an_lm_that_calls_an_lm_counts_once(
    server: LMServer, memory: Memory, tracer: spanhook.Tracer, usage: bool
) -> None:
    """What the outer one says of itself covers the inner one; if it says nothing, the inner one counts."""
    with tracer.interaction() as interaction:
        Proxy(dspy.settings.lm, usage)("hello")
    span = root(memory, tracer)
    assert interaction.usage == span.usage
    assert interaction.usage is not None
    inner = server.answered[1].tokens
    assert inner is not None
    assert interaction.usage.input_tokens == (7 if usage else inner.prompt)


def test_a_passed_budget_is_logged_once(server: LMServer, memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    """By default nothing else happens: the program goes on, the root span says so. The user's patterns hold."""
    tracer = tracer_of(memory, tracing=EXTRACTORS, redact={"patterns": ["tenant-[0-9]+"]})
    with tracer.interaction(budget_usd=0.0000001, event_id="tenant-4711/e-1"):
        for _ in range(3):
            Answerer()(question="Why?")
    (line,) = [m for m in messages(caplog.records) if "budget" in m]
    assert line.startswith("the LM calls of interaction [redacted]/e-1 have cost 0.00")
    assert line.endswith("over its budget of 1e-07 USD")
    span = root(memory, tracer)
    assert (span.attributes["budget_usd"], span.attributes["over_budget"]) == (0.0000001, True)
    assert span.error is None
    assert len(server.answered) == 3


def test_a_budget_that_is_not_passed(server: LMServer, memory: Memory, tracer: spanhook.Tracer) -> None:
    """No word of it but the budget itself."""
    with tracer.interaction(budget_usd=100, over_budget="raise"):
        FanOut()(questions=["a", "b"])
    attributes = root(memory, tracer).attributes
    assert attributes["budget_usd"] == 100
    assert "over_budget" not in attributes


def test_a_passed_budget_stops_the_next_call(server: LMServer, memory: Memory, tracer: spanhook.Tracer) -> None:
    """The call that passes it is answered; the next is not made. Every open span ends once, as failed."""

    class Swallows(dspy.Module):
        """As an agent does: goes on after every error."""

        def __init__(self) -> None:
            super().__init__()
            self.answer = Answerer()

        def forward(self) -> None:
            for _ in range(5):
                try:
                    self.answer(question="Why?")
                except Exception:
                    continue

    interaction = tracer.interaction(budget_usd=0.0, over_budget="raise", event_id="e-1")
    with pytest.raises(BudgetExceededError, match=r"interaction e-1 have cost 0\.0.* over its budget of 0 USD"):  # noqa: SIM117
        with interaction:
            Swallows()()
    assert len(server.answered) == 1
    span = root(memory, tracer)
    assert span.error is not None
    assert span.error.type == "spanhook.errors.BudgetExceededError"
    assert span.attributes["over_budget"] is True
    assert span.cost_usd == interaction.cost_usd
    failed = [s for s in memory.spans if s.error is not None]
    assert [s.name for s in failed][-2:] == ["Swallows", "interaction"]
    assert {s.kind for s in failed} <= {"interaction", "module"}
    assert len({s.span_id for s in memory.spans}) == len(memory.spans)
    assert tracer.stats().errors == {}
    Answerer()(question="afterwards")  # what runs outside is none of its business
    assert len(server.answered) == 2


def test_it_stops_an_agent(server: LMServer, tracer: spanhook.Tracer) -> None:
    """dspy.ReAct takes errors for observations; this it does not."""
    server.script([{"next_thought": "look", "next_tool_name": "look", "next_tool_args": {}}] * 9)
    agent = dspy.ReAct("question -> answer", tools=[dspy.Tool(lambda: "nothing", name="look", desc="look")])
    with pytest.raises(BudgetExceededError), tracer.interaction(budget_usd=0.0, over_budget="raise"):
        agent(question="Why?")
    assert len(server.answered) == 1


def test_it_stops_an_lm_call_within_a_tool(server: LMServer, tracer: spanhook.Tracer) -> None:
    """A tool that asks a model itself."""
    lm = dspy.settings.lm
    server.script([{"next_thought": "ask", "next_tool_name": "ask", "next_tool_args": {}}])
    agent = dspy.ReAct("question -> answer", tools=[dspy.Tool(lambda: lm("?"), name="ask", desc="ask")])
    with pytest.raises(BudgetExceededError), tracer.interaction(budget_usd=0.0, over_budget="raise"):
        agent(question="Why?")
    assert len(server.answered) == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_it_stops_parallel_calls(server: LMServer, memory: Memory, tracer: spanhook.Tracer, threads: int) -> None:
    """dspy.Parallel: its calls under way end, no other one begins; also not after the block."""
    before = set(threading.enumerate())  # executors of other tests, or of LiteLLM, may live on
    with pytest.raises(BudgetExceededError), tracer.interaction(budget_usd=0.0, over_budget="raise"):
        FanOut(threads=threads)(questions=[str(n) for n in range(20)])
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(WAIT_S)
    assert len(server.answered) <= threads
    assert tracer.flush()
    assert len({span.span_id for span in memory.spans}) == len(memory.spans)


def test_it_stops_an_evaluation(server: LMServer, memory: Memory, tracer: spanhook.Tracer) -> None:
    """dspy.Evaluate counts errors; this ends it."""
    devset = [dspy.Example(question=f"q{i}").with_inputs("question") for i in range(9)]
    run = dspy.Evaluate(devset=devset, metric=lambda *_: 1.0, num_threads=1, display_progress=False)
    with pytest.raises(BudgetExceededError), tracer.interaction(budget_usd=0.0, over_budget="raise"):
        run(Answerer())
    assert len(server.answered) == 1
    span = root(memory, tracer)
    (run_span,) = [s for s in memory.spans if s.kind == "evaluate"]
    assert run_span.error is not None
    assert {s.trace_id for s in memory.spans} == {span.trace_id}


def test_it_stops_tasks(server: LMServer, tracer: spanhook.Tracer) -> None:
    """asyncio: the block in a coroutine, calls one after the other, then gathered, then in a thread."""

    async def one_by_one() -> None:
        with tracer.interaction(budget_usd=0.0, over_budget="raise"):
            for _ in range(3):
                await Answerer().acall(question="Why?")

    async def gathered() -> None:
        with tracer.interaction(budget_usd=0.0, over_budget="raise"):
            await Answerer().acall(question="Why?")
            await asyncio.gather(*(Answerer().acall(question="Why?") for _ in range(3)))

    async def in_a_thread() -> None:
        with tracer.interaction(budget_usd=0.0, over_budget="raise"):
            await Answerer().acall(question="Why?")
            await dspy.asyncify(Answerer())(question="Why?")

    for count, work in enumerate((one_by_one, gathered, in_a_thread), start=1):
        with pytest.raises(BudgetExceededError):
            asyncio.run(work())
        assert len(server.answered) == count


def test_it_stops_a_stream(server: LMServer, tracer: spanhook.Tracer) -> None:
    """dspy.streamify runs the program in a task group: the group is no obstacle."""

    async def work() -> None:
        with tracer.interaction(budget_usd=0.0, over_budget="raise"):
            Answerer()(question="Why?")
            async for _ in dspy.streamify(Answerer())(question="Why?"):
                pass

    with pytest.raises(BudgetExceededError):
        asyncio.run(work())
    assert len(server.answered) == 1


def test_the_budget_that_is_spent_is_the_one_that_ends(server: LMServer, tracer: spanhook.Tracer) -> None:
    """An outer interaction's budget ends the outer block, an inner one's the inner block only."""

    def twice(outer_usd: float, inner_usd: float) -> None:
        with tracer.interaction(event_id="outer", budget_usd=outer_usd, over_budget="raise"):
            Answerer()(question="Why?")
            with tracer.interaction(event_id="inner", budget_usd=inner_usd, over_budget="raise"):
                Answerer()(question="Why?")
                Answerer()(question="Why?")

    with pytest.raises(BudgetExceededError, match="outer"):
        twice(0.0, 100)
    with pytest.raises(BudgetExceededError, match="inner"):
        twice(100, 0.0)


def test_a_span_of_ones_own_is_an_lm_call_too(server: LMServer, tracer: spanhook.Tracer) -> None:
    """`tracer.span(kind="lm")` around a model that is no DSPy LM: it does not begin either."""
    reached = []
    with pytest.raises(BudgetExceededError), tracer.interaction(budget_usd=0.0, over_budget="raise"):  # noqa: PT012
        Answerer()(question="Why?")
        with tracer.span("other model", kind="lm"):
            reached.append(True)
    assert not reached


def test_a_budget_holds_where_the_trace_is_not_sampled(server: LMServer) -> None:
    """Money is spent whether spans are kept or not."""
    memory = Memory()
    tracer = tracer_of(memory, tracing={**EXTRACTORS, "sample_rate": 0.0})
    interaction = tracer.interaction(budget_usd=0.0, over_budget="raise")
    with pytest.raises(BudgetExceededError), interaction:
        FanOut(threads=1)(questions=["a", "b", "c"])
    assert len(server.answered) == 1
    assert interaction.cost_usd is not None
    assert tracer.flush()
    assert memory.spans == []
    with tracer.interaction() as plain:
        Answerer()(question="Why?")
    assert plain.cost_usd is None


def test_other_callbacks_hear_the_end_of_what_runs(server: LMServer, tracer: spanhook.Tracer) -> None:
    """Of the modules, every start has its end; of the call that was not made there may be a start alone."""

    class Counts(dspy.utils.callback.BaseCallback):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.open: dict[str, str] = {}

        def on_module_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            self.open[call_id] = type(instance).__name__

        def on_module_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
            del self.open[call_id]

    counts = Counts()
    with (
        dspy.context(callbacks=[counts, tracer.callback]),
        pytest.raises(BudgetExceededError),
        tracer.interaction(budget_usd=0.0, over_budget="raise"),
    ):
        FanOut(threads=1)(questions=["a", "b", "c"])
    wait_for(lambda: not counts.open)  # the thread of dspy.Parallel may end after the block


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"budget_usd": -1}, "budget_usd must be a finite number of US dollars, 0 or more, not -1"),
        ({"budget_usd": math.nan}, "budget_usd must be a finite number of US dollars, 0 or more, not nan"),
        ({"budget_usd": math.inf}, "budget_usd must be a finite number of US dollars, 0 or more, not inf"),
        ({"budget_usd": True}, "budget_usd must be a finite number of US dollars, 0 or more, not True"),
        ({"budget_usd": "1"}, "budget_usd must be a finite number of US dollars, 0 or more, not '1'"),
        ({"over_budget": "stop"}, "over_budget must be one of warn, raise, not 'stop'"),
        ({"over_budget": None}, "over_budget must be one of warn, raise, not None"),
        ({"over_budget": "raise"}, 'over_budget="raise" stops nothing without a budget_usd'),
    ],
)
def test_a_wrong_budget(given: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture) -> None:
    """Logged, counted and left out; with `strict` a ValueError."""
    tracer = tracer_of(Memory())
    with tracer.interaction(**given):
        pass
    assert tracer.stats().rejected == {"interaction": 1}
    assert f"interaction: rejected: {said}" in messages(caplog.records)
    strict = tracer_of(Memory(), tracing={"strict": True})
    with pytest.raises(ValueError, match=re.escape(said)):
        strict.interaction(**given)
