"""Spans that the program opens itself: interactions, and spans of its own around what is no DSPy call."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, ClassVar, Generic, TypeVar, cast

from spanhook import budgets, compilations, dspy_compat
from spanhook.active import OpenSpan
from spanhook.budgets import Ledger, OverBudget
from spanhook.dspy_source import DSPySource
from spanhook.ids import new_span_id, new_trace_id, uuid_of
from spanhook.processes import Lock
from spanhook.rejections import Rejections
from spanhook.span import Kind, Span, Usage

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

SHUT_DOWN = (
    "this tracer was shut down, by shutdown(), at exit, or by a later spanhook.configure(): then use that one's tracer"
)

_entering = Lock()
_refused: ContextVar[tuple[_Scope[Any], ...]] = ContextVar("spanhook_refused", default=())  # blocks that run here


class _Scope(ABC, Generic[T]):
    """What both have in common: start a span, make it the innermost here, end it with the block.

    One block at a time: a second one, inside of the first or beside it in another task or thread, is no span of its
    own, and its end ends nothing.
    """

    what: ClassVar[str]  # it is, for messages

    def __init__(self, source: DSPySource, rejections: Rejections) -> None:
        self._source = source
        self._rejections = rejections
        self._is_entered = False
        self._opened: OpenSpan | None = None

    @abstractmethod
    def __enter__(self) -> T: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self not in (refused := _refused.get()):
            self._leave(error)
            return
        others = list(refused)
        others.remove(self)
        _refused.set(tuple(others))

    async def __aenter__(self) -> T:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    @abstractmethod
    def _leave(self, error: BaseException | None) -> None: ...

    def _start(self, open_span: Callable[[OpenSpan | None], OpenSpan]) -> Span | None:
        with _entering.here:
            was_entered, self._is_entered = self._is_entered, True
        refused = _refused.get()
        if was_entered:
            wrong = ValueError(f"this {self.what} is open already; make one for each block")
            self._rejections.reject(self.what, wrong)
            _refused.set((*refused, self))
            return None
        if self in refused:  # a block around this one, or in what started this task, that no longer matters
            _refused.set(tuple(scope for scope in refused if scope is not self))
        if self._source.is_closed:
            if self._source.owner.settings.tracing.enabled:
                self._source.guard.refuse(f"tracer.{self.what}", SHUT_DOWN)
            return None
        with self._source.guard("tracer: start of a span"):
            opened = open_span(self._source.innermost())
            opened.activate(self._source.setting, dspy_compat.active_call_id())
            self._opened = opened
            self._source.count_own(opened, 1)
        return self._opened.span if self._opened is not None else None

    def _stop(self, outputs: Any, exception: BaseException | None, *, inputs: Any = None) -> None:
        opened, self._opened = self._opened, None
        self._is_entered = False
        if opened is not None:
            self._source.count_own(opened, -1)
            with self._source.guard("tracer: end of a span"):
                self._source.recorder.end(opened, outputs, exception, inputs=inputs)


class SpanScope(_Scope[Span]):
    """`tracer.span(…)`: a context manager, for one block at a time, and a decorator."""

    what = "span"

    def __init__(
        self, source: DSPySource, rejections: Rejections, name: str, kind: Kind, inputs: Mapping[str, Any]
    ) -> None:
        super().__init__(source, rejections)
        self._name = name
        self._kind: Kind = kind
        self._inputs = inputs

    def __enter__(self) -> Span:
        around = self._source.innermost() if self._kind == "lm" else None
        if around is not None and not self._source.is_closed:
            budgets.check(around.trace.ledgers)
        span = self._start(self._open)
        return span if span is not None else _detached(self._kind, self._name)

    def _leave(self, error: BaseException | None) -> None:
        self._stop(self._opened.span.outputs if self._opened is not None else None, error)

    def _open(self, parent: OpenSpan | None) -> OpenSpan:
        recorder = self._source.recorder
        if self._kind != "compile":
            return recorder.start(self._kind, self._name, None, self._inputs, parent)
        mode = recorder.compile_mode
        trace = compilations.trace_for(mode, parent, recorder.traces.begin)
        opened = recorder.start(self._kind, self._name, None, self._inputs, parent, trace)
        compilations.mark(mode, opened)
        return opened

    def __call__(self, function: F) -> F:
        """Trace every call of `function`."""
        signature = inspect.signature(function)

        def scope(args: tuple[Any, ...], kwargs: dict[str, Any]) -> SpanScope:
            inputs: Mapping[str, Any] = kwargs
            with self._source.guard("tracer: arguments of a decorated function"):
                inputs = {
                    k: v for k, v in signature.bind(*args, **kwargs).arguments.items() if k not in ("self", "cls")
                }
            return SpanScope(self._source, self._rejections, self._name, self._kind, {**self._inputs, **inputs})

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def traced_async(*args: Any, **kwargs: Any) -> Any:
                with scope(args, kwargs) as span:
                    span.outputs = result = await function(*args, **kwargs)
                return result

            return cast("F", traced_async)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{function.__qualname__} is a generator: it has no one result. Use `with tracer.span(…)` in its body."
            )

        @functools.wraps(function)
        def traced(*args: Any, **kwargs: Any) -> Any:
            with scope(args, kwargs) as span:
                span.outputs = result = function(*args, **kwargs)
            return result

        return cast("F", traced)


class Interaction(_Scope["Interaction"]):
    """`with tracer.interaction(…) as interaction`: the root span of what a user did once.

    `event_id` names it in every backend: pass it to `track_signal`, also long after the block. Its input is that of
    the first DSPy call directly inside, its output that of the last, or those of your own spans where there is no such
    call, unless you set `inputs` or `outputs` yourself; a span of yours that has none shows those of the calls in it.
    An interaction directly inside counts as a call, with what it shows. One made inside another one, or in a traced
    call, joins that trace, wherever it is entered.
    """

    what = "interaction"

    def __init__(
        self,
        source: DSPySource,
        rejections: Rejections,
        *,
        user_id: str | None,
        convo_id: str | None,
        event: str | None,
        event_id: str | None,
        properties: Mapping[str, Any],
        budget_usd: float | None,
        over_budget: OverBudget,
    ) -> None:
        super().__init__(source, rejections)
        recorder, outer = source.recorder, source.innermost()
        self._outer = outer
        if outer is None:
            self._trace = recorder.traces.begin(event_id, user_id, convo_id)
        else:
            self._trace = outer.trace.within(event_id, user_id, convo_id)
        warn = source.guard.warn
        self._ledger = Ledger(self._trace.event_id, budget_usd, over_budget, recorder.complete, warn)
        self._trace.ledgers = (*self._trace.ledgers, self._ledger)
        self._trace.counted = self._trace.counted or budget_usd is not None
        self._name = event or "interaction"
        self._properties = properties
        self.inputs: Any = None
        self.outputs: Any = None

    @property
    def event_id(self) -> str:
        """The id of this interaction: the caller's own, or the trace id as a UUIDv7."""
        return self._trace.event_id

    @property
    def trace_id(self) -> str:
        """The id of its trace, 32 hex digits."""
        return self._trace.trace_id

    @property
    def usage(self) -> Usage | None:
        """Tokens of its LM calls that have ended so far, while it runs and after.

        None where one of them reported none, and before the first has ended. An LM that calls others counts when it
        has ended itself.
        """
        by_model = self._ledger.usage_by_model
        return Usage.sum(by_model.values()) if by_model else None

    @property
    def usage_by_model(self) -> Mapping[str, Usage] | None:
        """The same for each model; None where a call reported none."""
        return self._ledger.usage_by_model

    @property
    def cost_usd(self) -> float | None:
        """What its LM calls that have ended so far have cost.

        None where the cost of one of them is unknown, and before the first has ended.
        """
        return self._ledger.cost_usd

    def __enter__(self) -> Interaction:
        if (span := self._start(self._open)) is not None:
            self._ledger.span = span
        return self

    def _leave(self, error: BaseException | None) -> None:
        if self._opened is not None:  # what the program sets counts as a DSPy call's for an interaction around this one
            self._opened.inputs_of = self._opened.inputs_of or self.inputs is not None
            self._opened.outputs_of = self._opened.outputs_of or self.outputs is not None
        exceeded = budgets.exceeded(error, self._ledger)
        self._stop(self.outputs, exceeded or error, inputs=self.inputs)
        if exceeded is not None:
            raise exceeded from error

    def _open(self, parent: OpenSpan | None) -> OpenSpan:
        if parent is not None and parent.trace.trace_id != self._trace.trace_id:
            parent = None
        parent = parent or self._outer  # as it may be made in one place and entered in another, on a thread for example
        attributes = {f"properties.{name}": value for name, value in self._properties.items()}
        if self._ledger.budget_usd is not None:
            attributes["budget_usd"] = self._ledger.budget_usd
        start = self._source.recorder.start
        return start("interaction", self._name, None, {}, parent, self._trace, attributes=attributes)


def _detached(kind: Kind, name: str) -> Span:
    """A span that goes nowhere, for a block that is not traced."""
    trace_id = new_trace_id()
    return Span(trace_id, new_span_id(), None, uuid_of(trace_id), kind, name, 0)
