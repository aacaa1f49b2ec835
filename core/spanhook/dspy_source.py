"""The one DSPy callback: turns DSPy's events into spans."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from spanhook import dspy_compat
from spanhook.active import SETTING, OpenSpan, innermost
from spanhook.dspy_compat import CARRIES_CALL_ID, BaseCallback, LMRecord
from spanhook.guard import Guard
from spanhook.processes import forks
from spanhook.recorder import Recorder
from spanhook.span import Call, Kind

if TYPE_CHECKING:
    from spanhook.tracer import Tracer

# What an LM is asked with beside the prompt: of these no value may reach a span.
_SECRET_WORDS = ("key", "token", "secret", "password", "authorization", "credential", "header")
_HARMLESS = frozenset({"max_tokens", "max_completion_tokens"})


_numbers = itertools.count()


class DSPySource(BaseCallback):  # type: ignore[misc]  # DSPy is untyped
    """Stands once in DSPy's callbacks, whatever the number of plugins; each event runs on the thread of its call.

    Copying or pickling a program that carries it keeps working: a copy shares it, a pickle leaves it out.
    """

    def __init__(self, recorder: Recorder, guard: Guard, owner: Tracer) -> None:
        self.owner = owner
        self._recorder = recorder
        self._guard = guard
        self.setting = f"{SETTING}{next(_numbers)}"
        self._open: dict[str, OpenSpan] = {}
        self._closed = False

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
        return innermost(self.setting, self._open)

    def close(self) -> int:
        """Take no further events; returns how many calls were still running."""
        self._closed = True
        return sum(opened.trace.sampled and opened.forks == forks() for opened in list(self._open.values()))

    def _start(
        self, kind: Kind, name: str, call_id: str, instance: Any, inputs: Mapping[str, Any], **more: Any
    ) -> OpenSpan | None:
        # The same call comes twice where a module carries this callback and DSPy's settings do too.
        if self._closed or call_id in self._open:
            return None
        opened = self._recorder.start(kind, name, Call(kind, instance, inputs), self.innermost(), **more)
        opened.handled = id(sys.exc_info()[1])
        self._open[call_id] = opened
        return opened

    def _end(self, call_id: str, outputs: Any, exception: BaseException | None) -> None:
        opened = self._open.pop(call_id, None)
        if opened is None:
            return
        with self._guard("tracer: end of a call"):
            if self._closed:
                self._recorder.release(opened)
            else:
                if exception is None and outputs is None:
                    exception = dspy_compat.exception_in_flight(opened.handled)
                self._recorder.end(opened, outputs, exception)

    def _start_parent(self, kind: Kind, call_id: str, instance: Any, inputs: Mapping[str, Any], **more: Any) -> None:
        """Start a span whose call may start threads."""
        opened = self._start(kind, type(instance).__name__, call_id, instance, inputs, **more)
        if opened is None:
            return
        settings = {}
        held = getattr(instance, "callbacks", None)
        if isinstance(held, list) and self in held and self not in (everywhere := dspy_compat.callbacks()):
            settings["callbacks"] = [*everywhere, self]  # a wrapped program is traced with all that it calls
        if settings or not CARRIES_CALL_ID:
            opened.activate(self.setting, call_id, **settings)

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """A module's call begins."""
        if dspy_compat.is_lm(instance):  # before 3.2 DSPy takes LMs that are no `dspy.LM` for modules
            self.on_lm_start(call_id, instance, inputs)
            return
        with self._guard("tracer: start of a module"):
            attributes = {}
            if signature := dspy_compat.signature_text(instance):
                attributes["dspy.signature"] = signature
            around = self.innermost()
            if around is not None and (member := dspy_compat.member_name(around.call.instance, instance)):
                attributes["dspy.member"] = member
            self._start_parent("module", call_id, instance, _arguments(inputs), attributes=attributes)

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """A module's call is over."""
        self._end(call_id, outputs, exception)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """A language model's call begins; from here on DSPy's own record of it is ours to read."""
        with self._guard("tracer: start of an LM"):
            arguments = dspy_compat.lm_arguments(_arguments(inputs))
            model, provider = dspy_compat.lm_identity(instance)
            opened = self._start(
                "lm",
                type(instance).__name__,
                call_id,
                instance,
                {key: value for key, value in arguments.items() if value is not None and not _is_secret(key)},
                model=model,
                provider=provider,
                attributes=dspy_compat.lm_parameters(instance, arguments),
            )
            if opened is not None and opened.trace.sampled:
                opened.record = LMRecord()

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """A language model's call is over."""
        self._end(call_id, outputs, exception)

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """A tool's call begins."""
        with self._guard("tracer: start of a tool"):
            name = getattr(instance, "name", None)
            self._start("tool", name if isinstance(name, str) else "tool", call_id, instance, _arguments(inputs))

    def on_tool_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """A tool's call is over."""
        self._end(call_id, outputs, exception)

    def _start_adapter(self, kind: Kind, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        with self._guard("tracer: start of an adapter"):
            around = self.innermost()
            if around is not None and around.span.kind == kind and around.call.instance is instance:
                return  # DSPy reports an adapter's method, and what that inherits, as two calls
            name = f"{type(instance).__name__}.{kind.removeprefix('adapter_')}"
            self._start(kind, name, call_id, instance, dspy_compat.adapter_arguments(kind, _arguments(inputs)))

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """An adapter begins to write the prompt."""
        self._start_adapter("adapter_format", call_id, instance, inputs)

    def on_adapter_format_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """The prompt is written."""
        self._end(call_id, outputs, exception)

    def on_adapter_parse_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """An adapter begins to read the model's answer."""
        self._start_adapter("adapter_parse", call_id, instance, inputs)

    def on_adapter_parse_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """The answer is read, or could not be."""
        self._end(call_id, outputs, exception)

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """An evaluation begins."""
        with self._guard("tracer: start of an evaluation"):
            given = {name: getattr(instance, name, None) for name in ("devset", "metric", "num_threads")}
            given.update((key, value) for key, value in inputs.items() if value is not None)
            self._start_parent("evaluate", call_id, instance, _counted(given))

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """An evaluation is over."""
        score = getattr(outputs, "score", outputs)
        self._end(call_id, {"score": score} if isinstance(score, (int, float)) else None, exception)

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """An optimizer begins to compile a program."""
        with self._guard("tracer: start of a compilation"):
            self._start_parent("compile", call_id, instance, _counted(_arguments(inputs)))

    def on_compile_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """A program is compiled."""
        self._end(call_id, outputs, exception)

    def _start_interpreter(self, operation: str, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        with self._guard("tracer: start of an interpreter"):
            name = f"{type(instance).__name__}.{operation}"
            self._start("interpreter", name, call_id, instance, _arguments(inputs))

    def on_interpreter_execute_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """A code interpreter begins to run code."""
        self._start_interpreter("execute", call_id, instance, inputs)

    def on_interpreter_execute_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """The code has run."""
        self._end(call_id, outputs, exception)

    def on_interpreter_tool_call_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Interpreted code begins to call a tool."""
        self._start_interpreter("tool_call", call_id, instance, inputs)

    def on_interpreter_tool_call_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """The tool has answered the interpreted code."""
        self._end(call_id, outputs, exception)

    def on_interpreter_startup_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """A code interpreter begins to start."""
        self._start_interpreter("startup", call_id, instance, inputs)

    def on_interpreter_startup_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """A code interpreter is up."""
        self._end(call_id, outputs, exception)

    def on_interpreter_shutdown_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """A code interpreter begins to stop."""
        self._start_interpreter("shutdown", call_id, instance, inputs)

    def on_interpreter_shutdown_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """A code interpreter has stopped."""
        self._end(call_id, outputs, exception)


def _arguments(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """One flat dict of arguments: DSPy gives those of `*args` and `**kwargs` packed."""
    packed = inputs.get("kwargs")
    if not isinstance(packed, dict):
        return inputs
    flat = {key: value for key, value in inputs.items() if key != "kwargs" and not (key == "args" and not value)}
    flat.update(packed)
    return flat


def _counted(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Datasets by their size: their examples have spans of their own."""
    return {key: f"{len(value)} examples" if isinstance(value, list) else value for key, value in inputs.items()}


def _is_secret(name: str) -> bool:
    lowered = name.lower()
    return lowered not in _HARMLESS and (lowered.startswith("api_") or any(word in lowered for word in _SECRET_WORDS))
