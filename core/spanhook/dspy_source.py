"""The one DSPy callback: turns DSPy's events into spans."""

from __future__ import annotations

import itertools
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any

from spanhook import dspy_calls, dspy_compat, processes
from spanhook.active import SETTING, OpenSpan, inner
from spanhook.coroutines import Coroutines, Lent
from spanhook.dspy_compat import TELLS_OF_EXITS, BaseCallback, active_call_id, overrides
from spanhook.evaluations import Examples, as_score
from spanhook.guard import Guard, guarded_end, guarded_start
from spanhook.processes import Lock
from spanhook.recorder import Recorder
from spanhook.span import Kind, Span

if TYPE_CHECKING:
    from spanhook.tracer import Tracer

_numbers = itertools.count()
_sources: tuple[weakref.ref[DSPySource], ...] = ()  # replaced as a whole: other threads may be reading it


def live_sources() -> list[DSPySource]:
    """The callbacks of all tracers that were not shut down, whatever they trace."""
    return [source for known in _sources if (source := known()) is not None and not source.is_closed]


def _adapter_start(begin: Callable[..., None], kind: Kind) -> Callable[..., None]:
    return guarded_start("tracer: start of an adapter", begin, dspy_calls.adapter_opener(kind))


def _interpreter_start(begin: Callable[..., None], operation: str) -> Callable[..., None]:
    return guarded_start("tracer: start of an interpreter", begin, dspy_calls.interpreter_opener(operation))


class DSPySource(BaseCallback):  # type: ignore[misc]  # DSPy is untyped
    """Stands once in DSPy's callbacks, whatever the number of plugins; each event runs on the thread of its call.

    Copying or pickling a program that carries it keeps working: a copy shares it, a pickle leaves it out.
    """

    def __init__(self, recorder: Recorder, guard: Guard, owner: Tracer) -> None:
        self.owner = owner
        self.recorder = recorder
        self.guard = guard
        self.setting = f"{SETTING}{next(_numbers)}"
        self._open: dict[str | None, OpenSpan] = {}
        self._without_span: set[str] = set()  # of these calls; `_open` has the one around
        self._own_running: Counter[int] = Counter()  # by `processes.forks`
        self._counting = Lock()
        self._coroutines = Coroutines(self.setting, guard, self.on_module_end)
        self._closed = False
        global _sources
        _sources = (*(known for known in _sources if known() is not None), weakref.ref(self))

    def __copy__(self) -> DSPySource:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> DSPySource:
        return self

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        return BaseCallback, ()

    @property
    def is_closed(self) -> bool:
        """Whether the tracer was shut down."""
        return self._closed

    def innermost(self) -> OpenSpan | None:
        """The span that runs here: the parent of what starts next."""
        call_id = active_call_id()
        here = self._open.get(call_id)
        own = overrides().get(self.setting)
        if own is not None:
            here = inner(own, here, call_id)
        return self._coroutines.innermost(here) if self._coroutines.calls else here

    def settle(self) -> None:
        """End what is over without anybody having said so."""
        self._coroutines.sweep()

    def count_own(self, opened: OpenSpan, change: int) -> None:
        """Note that a span of the program's own has begun (1) or ended (-1)."""
        if opened.trace.recorded:
            with self._counting.here:
                self._own_running[opened.forks] += change

    def close(self) -> int:
        """Take no further events; returns how many calls, and spans of the program's own, were still running."""
        self._closed = True
        for opened in list(self._open.values()):
            if opened.examples is not None and opened.forks == processes.forks:
                opened.examples.release("the tracer was shut down before the evaluation ended")
        running = {opened for opened in list(self._open.values()) if opened.forks == processes.forks}
        return sum(opened.trace.recorded or opened.is_kept for opened in running) + self._own_running[processes.forks]

    def _begin(self, call_id: str, instance: Any, inputs: dict[str, Any], open_span: dspy_calls.Opener) -> None:
        """Any call begins."""
        if self._closed or call_id in self._open:
            return  # it comes twice where a module carries this callback and DSPy's settings do too
        # As in `innermost`, which only few calls need: at every call of DSPy, a call of ours more would count.
        parent, settings = self._open.get(active_call_id()), overrides()
        if self._coroutines.calls or self.setting in settings:
            parent = self.innermost()
        if parent is None and isinstance(settings.get("callbacks"), Lent) and not self._is_meant(instance):
            return
        opened = open_span(self, call_id, instance, inputs, parent)
        if opened is not None:
            if not TELLS_OF_EXITS:
                opened.handled = id(sys.exc_info()[1])
            self._open[call_id] = opened
        elif parent is not None:  # what it calls finds the span by this id, which DSPy has made the active one
            self._without_span.add(call_id)
            self._open[call_id] = parent

    def _end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Any call is over, or a module's has made the coroutine that the program is to await."""
        if call_id in self._without_span:
            self._without_span.discard(call_id)
            self._open.pop(call_id, None)
            return
        kind = type(outputs)
        if kind is CoroutineType:
            opened = self._open.get(call_id)
            if opened is not None and opened.kind == "module":
                if self._keep(call_id, opened, outputs):
                    return
                outputs = None  # what it returned nobody has seen
        elif (kind is GeneratorType or kind is AsyncGeneratorType) and call_id in self._open:
            self._open[call_id].span.attributes["generator_returned"] = True  # its body runs later, not under this span
        opened = self._open.pop(call_id, None)
        if opened is None:
            return
        if self._closed:
            self.recorder.release(opened)
            return
        if exception is None and outputs is None and not TELLS_OF_EXITS:
            exception = dspy_compat.exception_in_flight(opened.handled)
        self.recorder.end(opened, outputs, exception)
        if self._coroutines.calls:
            self._coroutines.look_again()

    on_module_start = guarded_start("tracer: start of a module", _begin, dspy_calls.open_module)
    on_lm_start = guarded_start("tracer: start of an LM", _begin, dspy_calls.open_lm)
    on_tool_start = guarded_start("tracer: start of a tool", _begin, dspy_calls.open_tool)
    on_adapter_format_start = _adapter_start(_begin, "adapter_format")
    on_adapter_parse_start = _adapter_start(_begin, "adapter_parse")
    on_evaluate_start = guarded_start("tracer: start of an evaluation", _begin, dspy_calls.open_evaluation)
    on_compile_start = guarded_start("tracer: start of a compilation", _begin, dspy_calls.open_compilation)
    on_interpreter_startup_start = _interpreter_start(_begin, "startup")
    on_interpreter_execute_start = _interpreter_start(_begin, "execute")
    on_interpreter_tool_call_start = _interpreter_start(_begin, "tool_call")
    on_interpreter_shutdown_start = _interpreter_start(_begin, "shutdown")

    on_module_end = on_lm_end = on_tool_end = guarded_end("tracer: end of a call", _end)
    on_adapter_format_end = on_adapter_parse_end = on_compile_end = on_module_end
    on_interpreter_execute_end = on_interpreter_tool_call_end = on_module_end
    on_interpreter_startup_end = on_interpreter_shutdown_end = on_module_end

    def _keep(self, call_id: str, opened: OpenSpan, coroutine: CoroutineType[Any, Any, Any]) -> bool:
        """Keep a span open until its coroutine is over; False if that is so already."""
        opened.deactivate()
        lent = [*dspy_compat.callbacks(), self] if self.is_wrapping(opened.instance) else None
        return self._coroutines.keep(call_id, opened, coroutine, lent)

    def is_wrapping(self, instance: Any) -> bool:
        """Whether a program is traced for its own callbacks' sake alone."""
        held = dspy_compat.own(instance).get("callbacks")
        return bool(held) and isinstance(held, list) and self in held and self not in dspy_compat.callbacks()

    def _is_meant(self, instance: Any) -> bool:
        """Whether a call is reported here for its own sake, and not only for that of a wrapped program's coroutine."""
        return self in getattr(instance, "callbacks", ())

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """An evaluation is over: now DSPy tells what each example scored."""
        opened = self._open.get(call_id)
        if opened is not None and (opened.trace.recorded or opened.is_kept):
            self.guard.call("tracer: scores of an evaluation", self._score, opened.span, opened.examples, outputs)
        score = getattr(outputs, "score", outputs)
        self.on_module_end(call_id, {"score": score} if isinstance(score, (int, float)) else None, exception)

    def _score(self, span: Span, examples: Examples | None, outputs: Any) -> None:
        score = as_score(getattr(outputs, "score", None))
        if score is not None:
            span.attributes["score"] = score
        if examples is not None:
            for problem in examples.settle(getattr(outputs, "results", None), content=self.recorder.content):
                self.guard.refuse("scores of an evaluation", problem)
