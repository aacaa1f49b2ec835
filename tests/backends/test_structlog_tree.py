"""What the structlog backend prints of traces on a terminal."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextvars import copy_context
from typing import Any

import dspy
import pytest
from structlog_screen import Configure, Screen, block

from lm_server import LMServer, Reply, Tokens


@pytest.fixture
def server() -> Iterator[LMServer]:
    with LMServer(finish_reasons=["stop"]) as running:
        yield running


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
       ~  support  1 error · 5 LM calls · 3,962→165 tokens
          question="Where?" → topic="delivery" answer="Friday"
          event ID · user ada · convo c42
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
    assert first.endswith("lm openai/gpt-4o-mini  $0.00021 · 1,000→100 tokens · stop")
    assert second.endswith("lm openai/gpt-4o-mini  cache hit, $0.00021 saved · stop")
    assert "  2 LM calls, 1 cached · $0.00021 · 1,000→100 tokens\n" in text


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
        "~     ├─ lm openai/test-model  length · 20→4 tokens",
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
       …  trace  incomplete, its root has not ended
          event ID · user ada
       ~  └─ span first
    """)
    tracer.flush()
    assert screen.tree() == block("""
       ~  chat
          event ID · user ada
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


def test_an_odd_attribute_of_the_program_s_own_spoils_no_tree(configure: Configure, screen: Screen) -> None:
    """`finish_reasons` is an extractor's list; a program may have set anything."""
    tracer = configure()
    with tracer.interaction(), tracer.span("own", kind="lm") as span:
        span.attributes["finish_reasons"] = 3
    assert tracer.flush()
    assert "own" in screen.text()
