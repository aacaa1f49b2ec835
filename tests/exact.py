"""What a test of LM spans compares: a span's numbers with those that the server sent with this very answer."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Sequence
from importlib.metadata import version

import dspy
import pytest

from lm_server import Answered, LMServer, Tokens
from spanhook import Span

HAS_ENGINES = "engine" in inspect.signature(dspy.LM.__init__).parameters
ENGINES = ["lm15", "litellm"] if HAS_ENGINES else ["litellm"]
HAS_MCP = importlib.util.find_spec("mcp") is not None  # without it LiteLLM's responses API can't be imported
LITELLM = tuple(int(part) for part in version("litellm").split(".")[:2])
RELEASE = tuple(int(part) for part in dspy.__version__.split(".")[:2])


PRICED = "openai/gpt-4o-mini"  # a model that DSPy and LiteLLM know the prices of


def cost_of(tokens: Tokens) -> float:
    """What an answer of the model `PRICED` cost, in US dollars, by LiteLLM's list."""
    from litellm import model_cost

    price = model_cost["gpt-4o-mini"]
    cached = tokens.cached or 0
    return float(
        (tokens.prompt - cached) * price["input_cost_per_token"]
        + cached * price["cache_read_input_token_cost"]
        + tokens.completion * price["output_cost_per_token"]
    )


def lm_spans(spans: Sequence[Span]) -> list[Span]:
    """Those of language models."""
    return [span for span in spans if span.kind == "lm"]


def text_of(span: Span) -> str:
    """The text that an LM span says was answered, the first of several."""
    (first, *_) = span.outputs
    return first if isinstance(first, str) else first["text"]


def assert_exact(span: Span, answered: Answered, *, names_model: bool = True) -> None:
    """Every count, the cost, the finish reason and the model are those that the server sent with this answer.

    `names_model` False, for what LiteLLM streams: what DSPy keeps of the answer doesn't say which model gave it, so
    neither does the span; and older releases of LiteLLM price no stream.
    """
    sent = answered.tokens
    assert sent is not None
    assert span.usage is not None
    assert span.usage.to_dict() == {
        name: value
        for name, value in {
            "input_tokens": sent.prompt,
            "output_tokens": sent.completion,
            "total_tokens": sent.total,
            "cached_input_tokens": sent.cached,
            "cache_write_input_tokens": sent.cache_write,
            "reasoning_output_tokens": sent.reasoning,
            "audio_input_tokens": sent.audio_in,
            "audio_output_tokens": sent.audio_out,
        }.items()
        if value is not None
    }
    assert span.finish_reason == answered.finish_reason
    assert span.response_model == (answered.response_model if names_model else None)
    is_priced = span.model == PRICED and (names_model or LITELLM >= (1, 90))
    assert span.cost_usd == (pytest.approx(cost_of(sent)) if is_priced else None)
    assert span.cache_hit is False
    assert span.error is None


def assert_none_lost_none_wrong(
    spans: Sequence[Span], server: LMServer, count: int, *, names_model: bool = True
) -> None:
    """As many LM spans as calls, each with the numbers and the text of one answer, and every answer in one of them."""
    calls = lm_spans(spans)
    assert len(calls) == len(server.answered) == count
    served = [server.answer_to(text_of(span)) for span in calls]
    for span, answered in zip(calls, served, strict=True):
        assert_exact(span, answered, names_model=names_model)
    assert {answered.serial for answered in served} == set(server.answered)
