"""The one DSPy callback: turns DSPy's events into spans."""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from spanhook import budgets, compilations, dspy_compat
from spanhook.active import SETTING, OpenSpan, Trace, innermost
from spanhook.coroutines import Coroutines, Lent
from spanhook.dspy_compat import CARRIES_CALL_ID, BaseCallback, LMRecord
from spanhook.evaluations import Examples, as_score
from spanhook.guard import Guard, guarded
from spanhook.processes import forks
from spanhook.prompt_version import prompt_version
from spanhook.recorder import Recorder
from spanhook.span import Kind, Span

if TYPE_CHECKING:
    from spanhook.tracer import Tracer

# What an LM is asked with beside the prompt: of these no value may reach a span.
_SECRET_WORDS = ("key", "token", "secret", "password", "authorization", "credential", "header")
_HARMLESS = frozenset({"max_tokens", "max_completion_tokens"})


_numbers = itertools.count()
_sources: tuple[weakref.ref[DSPySource], ...] = ()  # replaced as a whole: other threads may be reading it


def live_sources() -> list[DSPySource]:
    """The callbacks of all tracers that were not shut down, whatever they trace."""
    return [source for known in _sources if (source := known()) is not None and not source.is_closed]


class DSPySource(BaseCallback):  # type: ignore[misc]  # DSPy is untyped
    """Stands once in DSPy's callbacks, whatever the number of plugins; each event runs on the thread of its call.

    Copying or pickling a program that carries it keeps working: a copy shares it, a pickle leaves it out.
    """

    def __init__(self, recorder: Recorder, guard: Guard, owner: Tracer) -> None:
        self.owner = owner
        self._recorder = recorder
        self._guard = self.guard = guard
        self.setting = f"{SETTING}{next(_numbers)}"
        self._open: dict[str, OpenSpan] = {}
        self._coroutines = Coroutines(self.setting, guard, self._end)
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
        here = innermost(self.setting, self._open)
        return self._coroutines.innermost(here) if self._coroutines.calls else here

    def settle(self) -> None:
        """End what is over without anybody having said so."""
        self._coroutines.sweep()

    def close(self) -> int:
        """Take no further events; returns how many calls were still running."""
        self._closed = True
        for opened in list(self._open.values()):
            if opened.examples is not None and opened.forks == forks():
                opened.examples.release("the tracer was shut down before the evaluation ended")
        running = (opened for opened in list(self._open.values()) if opened.forks == forks())
        return sum(opened.trace.recorded or opened.is_kept for opened in running)

    def _start(
        self,
        kind: Kind,
        name: str,
        call_id: str,
        instance: Any,
        inputs: Mapping[str, Any],
        parent: OpenSpan | None,
        model: str | None = None,
        provider: str | None = None,
        attributes: dict[str, Any] | None = None,
        trace: Trace | None = None,
    ) -> OpenSpan | None:
        # By position, here and further on: a call with keywords costs more, and there are some for each call of DSPy.
        # The same call comes twice where a module carries this callback and DSPy's settings do too.
        if self._closed or call_id in self._open or (parent is None and self._is_lent(instance)):
            return None
        opened = self._recorder.start(kind, name, instance, inputs, parent, trace, model, provider, attributes)
        opened.handled = id(sys.exc_info()[1])
        self._open[call_id] = opened
        return opened

    def _end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Any call is over."""
        opened = self._open.pop(call_id, None)
        if opened is not None:
            self._guard.call("tracer: end of a call", self._close_span, opened, outputs, exception)

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """A module's call is over, or has made the coroutine that the program is to await."""
        if type(outputs) is CoroutineType:
            self._guard.call("tracer: a module's coroutine", self._keep, call_id, outputs)
        else:
            self._end(call_id, outputs, exception)

    on_lm_end = on_tool_end = on_adapter_format_end = on_adapter_parse_end = _end
    on_compile_end = on_interpreter_execute_end = on_interpreter_tool_call_end = _end
    on_interpreter_startup_end = on_interpreter_shutdown_end = _end

    def _keep(self, call_id: str, coroutine: CoroutineType[Any, Any, Any]) -> None:
        opened = self._open.get(call_id)
        if opened is None:
            return
        opened.deactivate()
        instance = opened.call.instance
        lent = [*dspy_compat.callbacks(), self] if self._is_wrapped(instance) else None
        if not self._coroutines.keep(call_id, opened, coroutine, lent):
            self._end(call_id, None)

    def _is_wrapped(self, instance: Any) -> bool:
        """Whether a program is traced for its own callbacks' sake alone."""
        held = getattr(instance, "callbacks", None)
        return bool(held) and isinstance(held, list) and self in held and self not in dspy_compat.callbacks()

    def _is_lent(self, instance: Any) -> bool:
        """Whether a call is reported here only for the sake of a wrapped program's coroutine, and is no part of it."""
        return isinstance(dspy_compat.override("callbacks"), Lent) and self not in getattr(instance, "callbacks", ())

    def _close_span(self, opened: OpenSpan, outputs: Any, exception: BaseException | None) -> None:
        if self._closed:
            self._recorder.release(opened)
            return
        if exception is None and outputs is None:
            exception = dspy_compat.exception_in_flight(opened.handled)
        self._recorder.end(opened, outputs, exception)
        if self._coroutines.calls:
            self._coroutines.look_again()

    def _start_parent(
        self,
        kind: Kind,
        call_id: str,
        instance: Any,
        inputs: Mapping[str, Any],
        parent: OpenSpan | None,
        attributes: dict[str, Any] | None = None,
        trace: Trace | None = None,
    ) -> OpenSpan | None:
        """Start a span whose call may start threads."""
        name = type(instance).__name__
        opened = self._start(kind, name, call_id, instance, inputs, parent, None, None, attributes, trace)
        if opened is None:
            return None
        settings = {}
        if self._is_wrapped(instance):
            settings["callbacks"] = [*dspy_compat.callbacks(), self]  # it is traced with all that it calls
        if settings or not CARRIES_CALL_ID:
            opened.activate(self.setting, call_id, **settings)
        return opened

    @guarded("tracer: start of a module")
    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """A module's call begins."""
        if dspy_compat.is_lm(instance):  # before 3.2 DSPy takes LMs that are no `dspy.LM` for modules
            self.on_lm_start(call_id, instance, inputs)
            return
        attributes = {}
        if signature := dspy_compat.signature_text(instance):
            attributes["dspy.signature"] = signature
        parent, arguments = self.innermost(), _arguments(inputs)
        if (parent is None or parent.trace.recorded) and (
            version := self._guard.call("tracer: version of a prompt", prompt_version, instance, arguments)
        ):
            attributes["prompt_version"] = version
        if parent is not None and (member := dspy_compat.member_name(parent.instance, instance)):
            attributes["dspy.member"] = member
        opened = self._start_parent("module", call_id, instance, arguments, parent, attributes)
        if opened is not None and parent is not None and parent.examples is not None and parent.forks == forks():
            opened.example_of = parent.examples.of(instance)

    @guarded("tracer: start of an LM")
    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """A language model's call begins; from here on DSPy's own record of it is ours to read."""
        parent = self.innermost()
        if parent is not None and parent.trace.ledgers and not self._closed:
            budgets.check(parent.trace.ledgers)
        arguments = dspy_compat.lm_arguments(_arguments(inputs))
        opened = self._start(
            "lm",
            type(instance).__name__,
            call_id,
            instance,
            {key: value for key, value in arguments.items() if value is not None and not _is_secret(key)},
            parent,
            *dspy_compat.lm_identity(instance),
            dspy_compat.lm_parameters(instance, arguments),
        )
        if opened is not None and (opened.trace.recorded or opened.trace.counted):
            opened.record = LMRecord()

    @guarded("tracer: start of a tool")
    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """A tool's call begins."""
        name = getattr(instance, "name", None)
        if not isinstance(name, str):
            name = "tool"
        self._start("tool", name, call_id, instance, _arguments(inputs), self.innermost())

    def _start_adapter(self, kind: Kind, method: str, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        parent = self.innermost()
        if parent is not None and parent.kind == kind and parent.instance is instance:
            return  # DSPy reports an adapter's method, and what that inherits, as two calls
        arguments = dspy_compat.adapter_arguments(kind, _arguments(inputs))
        self._start(kind, f"{type(instance).__name__}.{method}", call_id, instance, arguments, parent)

    @guarded("tracer: start of an adapter")
    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """An adapter begins to write the prompt."""
        self._start_adapter("adapter_format", "format", call_id, instance, inputs)

    @guarded("tracer: start of an adapter")
    def on_adapter_parse_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """An adapter begins to read the model's answer."""
        self._start_adapter("adapter_parse", "parse", call_id, instance, inputs)

    @guarded("tracer: start of an evaluation")
    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """An evaluation begins."""
        given = {name: getattr(instance, name, None) for name in ("devset", "metric", "num_threads")}
        given.update((key, value) for key, value in inputs.items() if value is not None)
        parent = self.innermost()
        compilation = compilations.around(parent)
        if compilation is None:
            opened = self._start_parent("evaluate", call_id, instance, _counted(given), parent)
        else:
            attributes, is_summary = {compilations.TRIAL: compilation.next_trial()}, compilation.mode == "summary"
            above, trace = (compilation.opened, compilation.trace) if is_summary else (parent, None)
            opened = self._start_parent("evaluate", call_id, instance, _counted(given), above, attributes, trace)
            if is_summary and opened is not None:
                compilations.hush(opened)
        if opened is not None and opened.trace.recorded:
            opened.examples = Examples(inputs.get("program"), self._recorder.hand_over)

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """An evaluation is over: now DSPy tells what each example scored."""
        opened = self._open.get(call_id)
        if opened is not None and (opened.trace.recorded or opened.is_kept):
            self._guard.call("tracer: scores of an evaluation", self._score, opened.span, opened.examples, outputs)
        score = getattr(outputs, "score", outputs)
        self._end(call_id, {"score": score} if isinstance(score, (int, float)) else None, exception)

    def _score(self, span: Span, examples: Examples | None, outputs: Any) -> None:
        score = as_score(getattr(outputs, "score", None))
        if score is not None:
            span.attributes["score"] = score
        if examples is not None:
            for problem in examples.settle(getattr(outputs, "results", None), content=self._recorder.content):
                self._guard.refuse("scores of an evaluation", problem)

    @guarded("tracer: start of a compilation")
    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """An optimizer begins to compile a program."""
        mode, parent, arguments = self._recorder.compile_mode, self.innermost(), _counted(_arguments(inputs))
        trace = compilations.trace_for(mode, parent, self._recorder.begin_trace)
        opened = self._start_parent("compile", call_id, instance, arguments, parent, None, trace)
        if opened is not None:
            compilations.mark(mode, opened)

    def _start_interpreter(self, operation: str, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        name = f"{type(instance).__name__}.{operation}"
        self._start("interpreter", name, call_id, instance, _arguments(inputs), self.innermost())

    @guarded("tracer: start of an interpreter")
    def on_interpreter_execute_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """A code interpreter begins to run code."""
        self._start_interpreter("execute", call_id, instance, inputs)

    @guarded("tracer: start of an interpreter")
    def on_interpreter_tool_call_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Interpreted code begins to call a tool."""
        self._start_interpreter("tool_call", call_id, instance, inputs)

    @guarded("tracer: start of an interpreter")
    def on_interpreter_startup_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """A code interpreter begins to start."""
        self._start_interpreter("startup", call_id, instance, inputs)

    @guarded("tracer: start of an interpreter")
    def on_interpreter_shutdown_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """A code interpreter begins to stop."""
        self._start_interpreter("shutdown", call_id, instance, inputs)


def _arguments(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """One flat dict of arguments: DSPy gives those of `*args` and `**kwargs` packed."""
    packed = inputs.get("kwargs")
    if not isinstance(packed, dict):
        return inputs
    flat = {**inputs, **packed}
    if "kwargs" not in packed:
        del flat["kwargs"]
    if "args" not in packed and not flat.get("args", True):
        del flat["args"]
    return flat


def _counted(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Datasets by their size: their examples have spans of their own."""
    return {key: f"{len(value)} examples" if isinstance(value, list) else value for key, value in inputs.items()}


@lru_cache(maxsize=1_000)
def _is_secret(name: str) -> bool:
    lowered = name.lower()
    return lowered not in _HARMLESS and (lowered.startswith("api_") or any(word in lowered for word in _SECRET_WORDS))
