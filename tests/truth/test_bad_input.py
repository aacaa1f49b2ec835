"""Plugins that return nonsense: refused and counted, and the span goes out with what is sound."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import dspy
import pytest

import spanhook
from doubles import WAIT_S, Memory
from exact import assert_exact, lm_spans
from lm_server import LMServer
from programs import Answerer
from spanhook import Call, Span, Usage
from spanhook_extractors.finish_reason import FinishReasonExtractor
from spanhook_extractors.history import HistoryExtractor


class Returning:
    """An extractor that says the same of every span."""

    def __init__(self, returned: Any) -> None:
        self.returned = returned

    @spanhook.hookimpl
    def span_end(self, span: Span, call: Call) -> Any:
        return self.returned


class Counted(Mapping[Any, Any]):
    """A mapping without end that counts how many of its items were looked at."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.looked = 0

    def __getitem__(self, key: Any) -> Any:
        return self.value

    def __len__(self) -> int:
        return 1_000_000

    def __iter__(self) -> Iterator[str]:
        for number in itertools.count():
            self.looked += 1
            yield f"field {number}"


class Foreign:
    """Says that it is a number, and is none."""

    __class__ = int  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")

    __hash__ = None  # type: ignore[assignment]


class Unhashable(str):
    """A text as a key that can't be one of a dict that is searched."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def traced(server: LMServer, returned: Any) -> tuple[Span, list[Span], dict[str, int]]:
    """The LM span, all spans, and the counted errors, where an extractor in front of ours says `returned`."""
    memory = Memory()
    tracer = spanhook.configure(
        {"tracing": {"backends": [], "extractors": []}},
        plugins={
            "bad": Returning(returned),
            "history": HistoryExtractor(),
            "finish": FinishReasonExtractor(),
            "memory": memory,
        },
    )
    with dspy.context(lm=server.lm()):
        prediction = Answerer()(question="Why?")
    assert prediction.answer == "answer-1"
    assert tracer.flush(WAIT_S)
    assert len(memory.spans) == 5
    json.dumps([span.to_dict() for span in memory.spans], allow_nan=False)
    (span,) = lm_spans(memory.spans)
    return span, memory.spans, tracer.stats().errors


NONSENSE: dict[str, Any] = {
    "tokens as text": {"usage": Usage(input_tokens="12")},  # type: ignore[arg-type]
    "negative tokens": {"usage": Usage(input_tokens=-1, output_tokens=5)},
    "tokens as a float": {"usage": Usage(input_tokens=1.5)},  # type: ignore[arg-type]
    "tokens as a flag": {"usage": Usage(input_tokens=True)},
    "tokens that are NaN": {"usage": Usage(total_tokens=float("nan"))},  # type: ignore[arg-type]
    "tokens without end": {"usage": Usage(input_tokens=10**400)},
    "foreign tokens": {"usage": Usage(input_tokens=Foreign())},  # type: ignore[arg-type]
    "usage as a dict": {"usage": {"input_tokens": 1}},
    "NaN as cost": {"cost_usd": float("nan")},
    "infinite cost": {"cost_usd": float("inf")},
    "negative cost": {"cost_usd": -0.5},
    "cost as text": {"cost_usd": "1.00"},
    "cost as a flag": {"cost_usd": True},
    "cost as Decimal": {"cost_usd": Decimal("1.5")},
    "cost as Fraction": {"cost_usd": Fraction(1, 3)},
    "foreign cost": {"cost_usd": Foreign()},
    "a list as the reason": {"finish_reason": ["stop"]},
    "an empty reason": {"finish_reason": ""},
    "a number as a flag": {"cache_hit": 0},
    "a number as the model": {"response_model": 4},
    "an unknown field": {"tokens": 5},
    "a field that is no text": {5: "x"},
    "attributes as a list": {"attributes": [("a", 1)]},
    "text": "12 tokens",
    "a list": [Usage(input_tokens=1)],
    "a class": Usage,
}


@pytest.mark.parametrize("returned", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_is_refused(server: LMServer, caplog: pytest.LogCaptureFixture, returned: Any) -> None:
    """Counted for each span, one warning, and what the extractors behind it know stands in the field."""
    span, spans, errors = traced(server, returned)
    assert_exact(span, server.answered[1])
    (problem,) = errors
    assert "bad" in problem
    assert errors[problem] == len(spans)
    assert sum("refused" in record.getMessage() or "failed" in record.getMessage() for record in caplog.records) == 1


def test_what_is_sound_beside_it_stays(server: LMServer) -> None:
    """Of one extractor's facts, those that are no nonsense are taken."""
    returned = {"usage": "12 tokens", "cost_usd": 0.5, "finish_reason": 7, "attributes": {"ok": 1, "nan": float("nan")}}
    span, spans, errors = traced(server, returned)
    assert span.usage is not None
    assert span.sources["usage"] == "history"
    assert (span.cost_usd, span.sources["cost_usd"]) == (0.5, "bad")
    assert span.finish_reason == server.answered[1].finish_reason
    assert span.attributes["ok"] == 1
    assert span.attributes["nan"] == "nan"
    assert sorted(errors.values()) == [len(spans)] * 2


@pytest.mark.parametrize("value", [1, None], ids=["values", "nothing"])
def test_attributes_without_end(server: LMServer, value: Any) -> None:
    """Only as many as a span may have are looked at; the other fields of the same extractor are taken."""
    endless = Counted(value)
    span, spans, errors = traced(server, {"attributes": endless, "cost_usd": 0.25})
    assert len(span.attributes) <= 201  # and a mark that there were more
    assert endless.looked <= 201 * len(spans)
    assert span.cost_usd == 0.25
    assert span.usage is not None
    assert list(errors.values()) == [len(spans)]
    assert "more than 200 attributes" in next(iter(errors))


def test_fields_without_end(server: LMServer) -> None:
    """The facts themselves are bounded too."""
    endless = Counted("x")
    span, spans, errors = traced(server, endless)
    assert_exact(span, server.answered[1])
    assert endless.looked <= 51 * len(spans)
    assert len(errors) <= 60


@pytest.mark.parametrize("error", [ValueError("no"), RecursionError(), MemoryError()])
def test_what_raises_while_it_is_read(server: LMServer, error: Exception) -> None:
    """A mapping, a value, a key whose own code raises: counted, and the others' facts are all there."""

    class Raising(dict[str, Any]):
        def items(self) -> Any:
            raise error

    for returned in (Raising(cost_usd=1.0), {"attributes": Raising(a=1)}, {"attributes": {Unhashable("key"): 1}}):
        with LMServer() as own:
            span, spans, errors = traced(own, returned)
            assert_exact(span, own.answered[1])
            assert sum(errors.values()) == len(spans)
            spanhook.configure({"tracing": {"enabled": False}})
