"""The examples of an evaluation: their spans wait for its end, as only then DSPy tells what each of them scored."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spanhook import dspy_compat
from spanhook.guard import attempt
from spanhook.processes import Lock
from spanhook.span import Span

MAX_HELD = 5_000  # spans of one evaluation
UNKNOWN = "score_unknown"  # the attribute that says why there is no score

_Key = tuple[int, frozenset[tuple[str, int]]]


@dataclass(slots=True, frozen=True)
class _Held:
    span: Span
    inputs: Mapping[str, Any]
    prediction: Callable[[], Any]
    let_go: bool  # whether DSPy may forget the prediction meanwhile

    def key(self) -> _Key:
        prediction = self.prediction()
        return _key(_GONE if prediction is None and self.let_go else prediction, self.inputs)


_GONE = object()


def _key(prediction: Any, inputs: Mapping[str, Any]) -> _Key:
    """One example's run, by the very objects: DSPy calls a program with an example's own values."""
    return id(prediction), frozenset((name, id(value)) for name, value in inputs.items())


class Examples:
    """The ended calls of the program that one evaluation runs. Safe on any thread.

    Args:
        program: what is evaluated. Where it is no module, each module that is called directly may be an example's.
        give: takes a span that waits no longer, on the thread of the evaluation or of the call.
    """

    __slots__ = ("_closed", "_give", "_held", "_lock", "_program")

    def __init__(self, program: Any, give: Callable[[Span], None]) -> None:
        self._program = program if dspy_compat.is_module(program) else None
        self._give = give
        self._held: list[_Held] = []
        self._lock = Lock()
        self._closed = False

    def of(self, module: Any) -> Examples | None:
        """This, if a call of `module` directly under the evaluation may be an example's; else None."""
        return self if self._program is None or module is self._program else None

    def hold(self, span: Span, inputs: Mapping[str, Any], outputs: Any) -> bool:
        """Keep an ended span back until the evaluation ends; False if it has to go out at once."""
        if span.error is not None:
            return False  # it has no score
        reference, _ = attempt(lambda: weakref.ref(outputs))  # where the metric raises, DSPy lets go of it
        with self._lock.here:
            if self._closed:
                if self._program is not None:
                    span.attributes[UNKNOWN] = "the evaluation had ended"
                return False
            if len(self._held) >= MAX_HELD:
                span.attributes[UNKNOWN] = f"more than {MAX_HELD} calls in one evaluation"
                return False
            self._held.append(_Held(span, inputs, reference or (lambda: outputs), reference is not None))
        return True

    def release(self, why: str) -> None:
        """Let the spans go without a score; what ends from now on goes out at once."""
        for held in self._take():
            held.span.attributes[UNKNOWN] = why
            self._give(held.span)

    def settle(self, results: Any, *, content: bool) -> list[str]:
        """Give each span the score of its example and let it go; returns a line for each score that is none.

        Args:
            results: DSPy's own list of example, prediction, score; anything else where the evaluation failed.
            content: whether a metric's feedback may be kept too.
        """
        if not isinstance(results, list):
            self.release("the evaluation did not end")
            return []
        exact: dict[_Key, list[Any]] = {}
        by_prediction: dict[int, list[Any]] = {}
        for example, prediction, score in results:
            inputs, _ = attempt(lambda example=example: dict(example.inputs().items()))
            exact.setdefault(_key(prediction, inputs or {}), []).append(score)
            by_prediction.setdefault(id(prediction), []).append(score)
        refused: list[str] = []
        for held in self._take():
            key = held.key()
            scores = exact.get(key) or by_prediction.get(key[0]) or []
            why: str | None = None
            if scores:
                why, error = attempt(lambda held=held, scores=scores: _mark(held.span, scores, content))
                if error is not None:
                    why = f"its score can't be read: {type(error).__name__}"
                if why is not None:
                    refused.append(why)
            elif self._program is not None:  # of a function, any module that it or its metric calls may be here
                why = "its metric raised, or its result is no example's"
            if why is not None:
                held.span.attributes[UNKNOWN] = why
            self._give(held.span)
        return refused

    def _take(self) -> list[_Held]:
        with self._lock.here:
            self._closed = True
            held, self._held = self._held, []
        return held


def _mark(span: Span, scores: Sequence[Any], content: bool) -> str | None:
    """Write the score to the span; returns why not, if it has none."""
    given = scores[0]
    if any(score is not given and score != given for score in scores):
        return "several examples have this very result"
    score, feedback = given, None
    if dspy_compat.is_prediction(given):
        score, feedback = given.get("score"), given.get("feedback")
    number = as_score(score)
    if number is None:
        return f"its metric returned {_shown(score)}, no finite number"
    span.attributes["score"] = number
    if content and isinstance(feedback, str) and feedback:
        span.attributes["feedback"] = feedback
    return None


def as_score(value: Any) -> float | None:
    """`value` as a plain bool, int or float; None if it is no finite one."""
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value) if math.isfinite(value) else None
    return None


def _shown(value: Any) -> str:
    return "NaN or infinity" if isinstance(value, float) else f"a {type(value).__name__}"
