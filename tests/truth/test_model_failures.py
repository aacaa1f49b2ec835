"""What a model fails with: on all levels, with no numbers; and answers that no adapter can read."""

from __future__ import annotations

import gc
import socket
import threading
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import dspy
import pytest

from exact import ENGINES, assert_exact, lm_spans, text_of
from lm_server import LMServer, Reply
from programs import Answerer
from spanhook.redaction.patterns import redacted
from watched import Watched

engines = pytest.mark.parametrize("engine", ENGINES)
LM_FAILURES = {
    "500": Reply(status=500),
    "401": Reply(status=401),
    "429": Reply(status=429),
    "400": Reply(status=400),
    "broken": Reply(content="hi", break_off=True),
}


@engines
@pytest.mark.parametrize("failure", [*LM_FAILURES, "timeout", "refused"])
def test_what_a_model_fails_with(server: LMServer, watched: Watched, engine: str, failure: str) -> None:
    """Errors of the server, of the network, of time: on the LM and all above; no tokens, no cost, no finish reason."""
    hold = threading.Event()
    more: dict[str, Any] = {}
    if failure == "refused":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            more["api_base"] = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    elif failure == "timeout":
        more["timeout"] = 0.3
    server.script([LM_FAILURES.get(failure, Reply(hold=hold))] * 8)
    program = Answerer()
    caught: BaseException | None = None
    try:
        with dspy.context(lm=server.lm(engine=engine, **more)):
            program(question="Why?")
    except Exception as raised:
        caught = raised
    finally:
        hold.set()
    assert caught is not None
    frames = [weakref.ref(caught)]
    spans = watched.spans()
    failed = [span for span in spans if span.kind in ("lm", "module")]
    assert {span.name for span in failed} == {"LM", "Predict", "Answerer"}
    for span in failed:
        assert span.error is not None
        assert span.error.traceback
        assert (span.usage, span.cost_usd, span.finish_reason, span.cache_hit, span.outputs) == (None,) * 5
    for span in spans[-2:]:
        assert span.error is not None
        assert span.error.type == f"{type(caught).__module__}.{type(caught).__qualname__}"
        assert span.error.message == redacted(str(caught))
    caught = None
    if engine == "lm15":  # some releases of LiteLLM keep what failed, with and without a tracer
        gc.collect()
        assert frames[0]() is None


@engines
def test_the_same_prompt_answered_and_refused_at_once(server: LMServer, watched: Watched, engine: str) -> None:
    """64 calls over 16 threads, every other one a 500: those know nothing, the others have their own numbers."""
    lm = server.lm(engine=engine)
    server.script([Reply(content="answer-{serial}"), Reply(status=500)] * 32)

    def ask(_: int) -> None:
        with suppress(Exception):
            lm("the same prompt")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(64)))
    spans = watched.spans()
    fine = [span for span in spans if span.error is None]
    assert (len(spans), len(fine)) == (64, 32)
    for span in fine:
        assert_exact(span, server.answer_to(text_of(span)))
    for span in spans:
        if span.error is not None:
            assert (span.usage, span.cost_usd, span.finish_reason, span.cache_hit) == (None, None, None, None)


@engines
def test_an_answer_that_no_adapter_can_read(server: LMServer, watched: Watched, engine: str) -> None:
    """Both attempts fail to parse: the LM spans are fine and exact, parsing and the modules have the error."""
    server.script([Reply(content="nothing-{serial}")] * 4)
    with dspy.context(lm=server.lm(engine=engine)), pytest.raises(Exception, match="parse"):
        Answerer()(question="Why?")
    spans = watched.spans()
    calls = lm_spans(spans)
    assert len(calls) == len(server.answered) >= 2
    for span in calls:
        assert_exact(span, server.answer_to(text_of(span)))
    failed = Counter(span.kind for span in spans if span.error is not None)
    assert failed["module"] == 2
    assert failed["adapter_parse"] >= 1
    assert spans[-1].usage is not None
    assert spans[-1].usage.input_tokens == sum(span.usage.input_tokens or 0 for span in calls if span.usage)
