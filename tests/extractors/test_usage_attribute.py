"""Usage that a result carries itself, read without running any of the program's code."""

from __future__ import annotations

import dataclasses
import types
from collections import OrderedDict
from typing import Any
from unittest import mock

import dspy
import litellm
import pytest

from spanhook import Call, Usage
from spanhook_extractors.usage_attribute import UsageAttributeExtractor


@dataclasses.dataclass(slots=True)
class Slots:
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: Any


COUNTS = {"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 2}}


class Result:
    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)


def found(outputs: Any) -> Any:
    """What the extractor says of a module's result."""
    return UsageAttributeExtractor().span_end(Call("module", None, {}, outputs))


@pytest.mark.parametrize(
    "outputs",
    [
        {"usage": COUNTS},
        dspy.Prediction(answer="a", usage=COUNTS),
        Result(usage=COUNTS),
        types.SimpleNamespace(
            usage=types.SimpleNamespace(**{**COUNTS, "prompt_tokens_details": Result(cached_tokens=2)})
        ),
        litellm.ModelResponse(usage=litellm.Usage(**COUNTS)),
        Result(usage=Slots(5, 7, Result(cached_tokens=2))),
        Result(usage=type("Counted", (), {"input_tokens": 5, "output_tokens": 7, "cache_read_input_tokens": 2})()),
        Result(usage=Usage(input_tokens=5, output_tokens=7, cached_input_tokens=2)),
        OrderedDict(usage=OrderedDict(COUNTS)),
    ],
    ids=["dict", "prediction", "object", "namespace", "pydantic", "slots", "class", "our own", "kind of dict"],
)
def test_where_it_is(outputs):
    """In a dict, a prediction, an object's own attributes, a pydantic object; and so on inside."""
    usage = found(outputs)["usage"]
    assert (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens) == (5, 7, 2)


class Asked:
    """Anything that is asked of it ends the program."""

    def __getattr__(self, name: str) -> Any:
        raise SystemExit(3)

    @property
    def usage(self) -> Any:
        raise SystemExit(3)

    @property
    def __class__(self) -> Any:
        raise SystemExit(3)


def test_nobody_is_asked():
    """A lazy object stays asleep."""
    for outputs in (Asked(), {"usage": Asked()}, Result(usage=Asked())):
        assert found(outputs) is None


def test_a_mock_stays_as_it_is():
    """Of the results of a program under test too."""
    result = mock.MagicMock()
    assert found(result) is None
    assert (result._mock_children, result.mock_calls) == ({}, [])
