"""The program's objects: the tracer does not make them live longer, nor end on a thread of its own."""

from __future__ import annotations

import gc
import threading
from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM  # LiteLLM keeps the context of a call, and what stands there

from doubles import WAIT_S, Memory, tracer_of


class Ends:
    """Notes on which thread its objects are let go of."""

    threads: list[threading.Thread]

    def __del__(self) -> None:
        self.threads.append(threading.current_thread())


@pytest.mark.parametrize("extractors", [[], ["history", "lm_usage", "usage_attribute", "finish_reason"]])
@pytest.mark.parametrize("capture", ["full", "metadata"])
def test_objects_end_where_the_program_lets_go_of_them(capture: str, extractors: list[str]) -> None:
    """What a module or an adapter closes in `__del__` is closed at once, on the thread that used it."""
    here, ended = threading.current_thread(), list[threading.Thread]()

    class Program(Ends, dspy.Module):
        threads = ended

        def forward(self, question: str) -> Any:
            return dspy.Predict("question -> answer")(question=question)

    class Adapter(Ends, dspy.ChatAdapter):
        threads = ended

    class Argument(Ends):
        threads = ended

    @dspy.Tool
    def look(it: Any) -> str:
        return "seen"

    memory = Memory()
    tracer = tracer_of(memory, tracing={"capture": capture, "extractors": extractors}, delivery={"interval_s": WAIT_S})
    with dspy.context(lm=DummyLM([{"answer": "so"}]), adapter=Adapter()):
        Program()(question="Why?")
        gc.collect()  # DSPy 3.0 holds a module in its own frames
        assert ended == [here]
    look(it=Argument())
    gc.collect()
    assert ended == [here] * 3
    assert tracer.flush(WAIT_S)
    assert [span.name for span in memory.spans][-2:] == ["Program", "look"]
