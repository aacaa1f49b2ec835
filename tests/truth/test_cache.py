"""Answers from DSPy's cache: known as such or not, never guessed; no tokens, no cost, and what it would have cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest

from exact import ENGINES, HAS_MCP, PRICED, assert_exact, cost_of, lm_spans, text_of
from lm_server import LMServer, Reply
from programs import Answerer
from spanhook import Span
from spanhook.testing import capture_spans

engines = pytest.mark.parametrize("engine", ENGINES)
stores = pytest.mark.parametrize("store", ["memory", "disk"])
UseCache = Callable[..., None]


@pytest.fixture
def use_cache(tmp_path: Path) -> Iterator[UseCache]:
    """A function: put a fresh cache of DSPy's into place, on this test's own disk."""
    before = dspy.cache

    def use(*, memory: bool, disk: bool) -> None:
        dspy.configure_cache(
            enable_memory_cache=memory, enable_disk_cache=disk, disk_cache_dir=str(tmp_path / "dspy-cache")
        )

    yield use
    getattr(dspy.cache.disk_cache, "close", lambda: None)()
    dspy.cache = before


@pytest.fixture
def spans() -> Iterator[list[Span]]:
    with capture_spans() as captured:
        yield captured


def assert_hit(span: Span, first: Span) -> None:
    """The answer of `first`, from the cache."""
    assert (span.cache_hit, span.usage, span.cost_usd) == (True, None, 0.0)
    assert span.attributes["cost_avoided_usd"] == first.cost_usd
    assert span.outputs == first.outputs
    assert (span.finish_reason, span.response_model) == (first.finish_reason, first.response_model)
    assert span.time_to_first_token_s is None


def fill_and_hit(use_cache: UseCache, store: str, call: Callable[[], Any]) -> None:
    """The same call twice: the second is answered from memory, or, with a memory of its own, from the disk."""
    use_cache(memory=store == "memory", disk=store == "disk")
    call()
    if store == "disk":
        use_cache(memory=False, disk=True)  # opened anew, as in the next process
    call()


@engines
def test_no_cache(server: LMServer, spans: list[Span], engine: str) -> None:
    """Each call is known to be no hit, also where the provider reports no usage."""
    lm = server.lm(PRICED, engine=engine)
    lm("hello")
    lm("hello")
    server.script([Reply(content="hi", tokens=None)])
    lm("hello")
    assert [span.cache_hit for span in spans] == [False] * 3
    assert len(server.answered) == 3


@engines
@stores
@pytest.mark.parametrize("way", ["call", "acall", "n=3", "program"])
def test_a_hit(server: LMServer, spans: list[Span], use_cache: UseCache, engine: str, store: str, way: str) -> None:
    """The first call asks the server and has its numbers; the second costs nothing and says what it avoided."""
    lm = server.lm(PRICED, engine=engine, cache=True)
    program = Answerer()
    call = {
        "call": lambda: lm("hello"),
        "acall": lambda: asyncio.run(lm.acall("hello")),
        "n=3": lambda: lm("hello", n=3, temperature=0.9),
        "program": lambda: program(question="Why?"),
    }[way]
    with dspy.context(lm=lm):
        fill_and_hit(use_cache, store, call)
    first, second = lm_spans(spans)
    assert len(server.answered) == (3 if way == "n=3" and engine == "lm15" else 1)
    sent = [answered.tokens for answered in server.answered.values() if answered.tokens]
    assert first.usage is not None
    assert first.usage.input_tokens == sum(tokens.prompt for tokens in sent)
    assert first.cost_usd == pytest.approx(sum(cost_of(tokens) for tokens in sent))
    assert first.cache_hit is False
    assert_hit(second, first)
    if way == "program":
        modules = [span for span in spans if span.name == "Answerer"]
        assert [(span.usage, span.cost_usd) for span in modules] == [(first.usage, first.cost_usd), (None, 0.0)]


@pytest.mark.skipif(len(ENGINES) < 2, reason="this release of DSPy has one engine")
@stores
@pytest.mark.parametrize("filling", ENGINES)
def test_a_hit_on_what_the_other_engine_stored(
    server: LMServer, spans: list[Span], use_cache: UseCache, store: str, filling: str
) -> None:
    """The engines share one cache: the answer's shape is the other engine's, and what is told of it the same."""
    lms = [server.lm(PRICED, engine=engine, cache=True) for engine in sorted(ENGINES, key=lambda e: e != filling)]
    fill_and_hit(use_cache, store, lambda: lms.pop(0)("hello"))
    first, second = spans
    assert_exact(first, server.answered[1])
    if len(server.answered) == 1:
        assert_hit(second, first)
    else:
        assert_exact(second, server.answered[2])


@pytest.mark.parametrize("model_type", ["text", "responses"])
@stores
def test_a_hit_of_another_kind_of_call(
    server: LMServer, spans: list[Span], use_cache: UseCache, model_type: str, store: str
) -> None:
    """Text completions and the responses API."""
    if model_type == "responses" and not HAS_MCP:
        pytest.skip("LiteLLM's responses API can't be imported here")
    lm = server.lm(model_type=model_type, cache=True)
    fill_and_hit(use_cache, store, lambda: lm("hello"))
    first, second = spans
    assert_exact(first, server.answered[1])
    assert len(server.answered) == 1
    assert (second.cache_hit, second.usage, second.cost_usd) == (True, None, 0.0)
    assert second.outputs == first.outputs


@engines
@stores
def test_a_hit_without_usage_is_no_guess(
    server: LMServer, spans: list[Span], use_cache: UseCache, engine: str, store: str
) -> None:
    """A provider that reports no tokens: where the entry can't tell a hit from a miss, neither does the span."""
    lm = server.lm(engine=engine, cache=True)
    server.script([Reply(content="hi", tokens=None)])
    fill_and_hit(use_cache, store, lambda: lm("hello"))
    assert len(server.answered) == 1
    first, second = spans
    assert first.cache_hit is not True
    assert second.cache_hit is not False
    for span in spans:
        assert span.usage is None
        assert not span.cost_usd


@engines
def test_hits_and_misses_at_once(server: LMServer, spans: list[Span], use_cache: UseCache, engine: str) -> None:
    """64 calls over 16 threads with one of four prompts each: every miss is one request, every other one a hit."""
    use_cache(memory=True, disk=False)
    lm = server.lm(PRICED, engine=engine, cache=True)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: lm(f"prompt {number % 4}"), range(64)))
    misses = [span for span in spans if span.cache_hit is False]
    assert len(spans) == 64
    assert {server.answer_to(text_of(span)).serial for span in misses} == set(server.answered)
    for span in misses:
        assert_exact(span, server.answer_to(text_of(span)))
    for span in spans:
        if span.cache_hit is not False:
            sent = server.answer_to(text_of(span))
            assert sent.tokens is not None
            assert (span.cache_hit, span.usage, span.cost_usd) == (True, None, 0.0)
            assert span.attributes["cost_avoided_usd"] == pytest.approx(cost_of(sent.tokens))
            assert span.inputs["prompt"] == (sent.body["messages"][0]["content"])


@engines
def test_a_hit_with_history_off(server: LMServer, spans: list[Span], use_cache: UseCache, engine: str) -> None:
    """Nobody records what happened: no tokens, which is right, and the rest is unknown."""
    use_cache(memory=True, disk=False)
    lm = server.lm(PRICED, engine=engine, cache=True)
    with dspy.context(disable_history=True):
        lm("hello")
        lm("hello")
    first, second = spans
    assert len(server.answered) == 1
    assert first.usage is not None
    assert (second.usage, second.cost_usd, second.cache_hit) == (None, None, None)


@engines
@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_hit_in_a_stream(
    server: LMServer, spans: list[Span], use_cache: UseCache, engine: str, is_streamed: bool
) -> None:
    """Nothing is streamed then: no time to the first chunk, no tokens, no cost; the model that gave the first answer.

    Of an answer that LiteLLM streamed that is not known, and DSPy's repetition of the model's name is not taken for it.
    """
    use_cache(memory=True, disk=False)
    program = dspy.Predict("question -> answer")

    async def consume() -> None:
        async for _ in dspy.streamify(program)(question="Why?"):
            pass

    with dspy.context(lm=server.lm(PRICED, engine=engine, cache=True), track_usage=True):
        if is_streamed:
            asyncio.run(consume())
        program(question="Why?")
        asyncio.run(consume())
    first, *hits = lm_spans(spans)
    (sent,) = server.answered.values()
    assert (first.time_to_first_token_s is not None) == is_streamed
    assert len(hits) == (2 if is_streamed else 1)
    for hit in hits:
        assert (hit.cache_hit, hit.usage, hit.cost_usd, hit.time_to_first_token_s) == (True, None, 0.0, None)
        assert hit.response_model == (None if is_streamed and engine == "litellm" else sent.response_model)
