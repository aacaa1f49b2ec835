"""Items of `dspy.Evaluate` and `dspy.Parallel` that fail or are late: each span ends once, the others are whole."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import dspy
import pytest

from doubles import WAIT_S
from exact import RELEASE, assert_exact, lm_spans, text_of
from lm_server import LMServer, Reply
from programs import Answerer, FanOut
from watched import Watched


def test_a_metric_that_raises(server: LMServer, watched: Watched) -> None:
    """The evaluation goes on, as DSPy decides; each example's program is whole, and every span has ended."""

    def metric(example: Any, prediction: Any, trace: Any = None) -> float:
        if example.question == "q2":
            raise LookupError("no score")
        return 1.0

    devset = [dspy.Example(question=f"q{i}").with_inputs("question") for i in range(5)]
    with dspy.context(lm=server.lm()):
        dspy.Evaluate(devset=devset, metric=metric, num_threads=2, display_progress=False, failure_score=0.0)(
            Answerer()
        )
    spans = watched.spans()
    programs = [span for span in spans if span.name == "Answerer"]
    assert len(programs) == 5
    assert all(span.error is None and span.usage for span in programs)
    (run,) = [span for span in spans if span.kind == "evaluate"]
    assert run.error is None
    assert run.outputs["score"] == 80.0
    assert run.usage is not None
    assert run.usage.input_tokens == sum(a.tokens.prompt for a in server.answered.values() if a.tokens)


@pytest.mark.skipif(RELEASE < (3, 1), reason="DSPy before 3.1 waits for stragglers")
def test_a_straggler(server: LMServer, watched: Watched) -> None:
    """dspy.Parallel asks a slow item again: both attempts are spans, each ends once, the late one after the root."""
    hold = threading.Event()
    server.script([Reply(fields={"answer": "late-1"}, hold=hold)])

    class Patient(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.respond = Answerer()

        def forward(self) -> None:
            parallel = dspy.Parallel(num_threads=4, timeout=1, straggler_limit=4, disable_progress_bar=True)
            parallel([(self.respond, {"question": f"q{i}"}) for i in range(4)])

    with dspy.context(lm=server.lm()):
        try:
            Patient()()
        finally:
            hold.set()
    spans = watched.spans()
    assert Counter(span.name for span in spans)["Answerer"] == 5
    for span in lm_spans(spans):
        assert_exact(span, server.answer_to(text_of(span)))
    (root,) = [span for span in spans if span.parent_id is None]
    assert root.usage is not None
    assert root.usage.input_tokens == sum(server.answered[serial].tokens.prompt for serial in range(2, 6))  # type: ignore[union-attr]


def test_items_that_fail_in_parallel(server: LMServer, watched: Watched) -> None:
    """Too many errors end dspy.Parallel: the module above has DSPy's error, the items their own."""
    server.script([Reply(status=400)] * 40)
    before = set(threading.enumerate())
    with dspy.context(lm=server.lm(), max_errors=2), pytest.raises(Exception, match=r"."):
        FanOut()(questions=[f"q{i}" for i in range(8)])
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith("spanhook-") and not thread.daemon:
            thread.join(WAIT_S)  # DSPy leaves them behind: until then an item may still begin
    spans = watched.spans()
    (root,) = [span for span in spans if span.name == "FanOut"]
    assert root.error is not None
    items = [span for span in spans if span.name == "Answerer"]
    assert len(items) >= 2
    assert all(span.error is not None and span.usage is None for span in items)
