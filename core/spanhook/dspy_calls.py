"""What is noted of each kind of DSPy call when it begins. Everything here runs on the call's thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from spanhook import budgets, compilations, dspy_compat, processes
from spanhook.active import OpenSpan
from spanhook.dspy_compat import CARRIES_CALL_ID, MAY_MISTAKE_LMS
from spanhook.evaluations import Examples
from spanhook.lm_record import LMRecord
from spanhook.prompt_version import prompt_version
from spanhook.span import Kind
from spanhook.trace import Trace

if TYPE_CHECKING:
    from spanhook.dspy_source import DSPySource

Opener = Callable[["DSPySource", str, Any, Mapping[str, Any], "OpenSpan | None"], "OpenSpan | None"]
"""Starts the span of a call; arguments: who is told of it, DSPy's id of it, the object, its inputs, what is around it.

None: it has no span, and what it calls is placed under what is around it. To functions that many calls run, arguments
go by position: by name they cost more.
"""

# What an LM is asked with beside the prompt: of these no value may reach a span.
_SECRET_WORDS = ("key", "token", "secret", "password", "authorization", "credential", "header")
_HARMLESS = frozenset({"max_tokens", "max_completion_tokens"})


def open_module(
    source: DSPySource, call_id: str, instance: Any, inputs: Mapping[str, Any], parent: OpenSpan | None
) -> OpenSpan | None:
    """A module's call."""
    if MAY_MISTAKE_LMS and dspy_compat.is_lm(instance):
        return open_lm(source, call_id, instance, inputs, parent)
    arguments, held = _arguments(inputs), dspy_compat.own(instance)
    signature, text, attributes = held.get("signature"), None, {}
    if signature is None and "predict" in held:
        signature = dspy_compat.own(held["predict"]).get("signature")
    if "demos" in held:  # a predictor: a call may give it another signature, and other demos
        if (given := arguments.get("signature")) is not None and dspy_compat.is_predictor(instance):
            signature, text = given, given if type(given) is str else dspy_compat.signature_text(given)
            if text is not None:
                arguments = {**arguments, "signature": text}
        if parent is None or parent.trace.recorded:
            if (demos := arguments.get("demos")) is None:
                demos = held["demos"]
            if version := source.guard.call("tracer: version of a prompt", prompt_version, instance, signature, demos):
                attributes["prompt_version"] = version
    if text or (text := dspy_compat.signature_text(signature)):
        attributes["dspy.signature"] = text
    if parent is not None and (member := dspy_compat.member_name(parent.instance, instance)):
        attributes["dspy.member"] = member
    opened = source.recorder.start("module", type(instance).__name__, instance, arguments, parent, None, attributes)
    opened.below = []  # as it calls an LM, most likely; made later, it would take a lock
    if parent is not None and parent.rare is not None:
        _join_examples(opened, parent)
    if held.get("callbacks") or not CARRIES_CALL_ID:
        _activate(source, opened, call_id)
    return opened


def _join_examples(opened: OpenSpan, parent: OpenSpan) -> None:
    """Note that this may be an example of the evaluation around it."""
    if parent.examples is not None and parent.forks == processes.forks:
        opened.example_of = parent.examples.of(opened.instance)


def open_lm(
    source: DSPySource, call_id: str, instance: Any, inputs: Mapping[str, Any], parent: OpenSpan | None
) -> OpenSpan | None:
    """A language model's call; from here on DSPy's own record of it is ours to read."""
    if parent is not None and parent.trace.ledgers:
        budgets.check(parent.trace.ledgers)
    held = dspy_compat.own(instance)
    defaults = held.get("kwargs")
    noted = held.get("model"), defaults.copy() if type(defaults) is dict else None
    opened = source.recorder.start("lm", "", instance, inputs, parent, None, None, _describe_lm, noted)
    if opened.trace.recorded or opened.trace.counted:
        opened.record = LMRecord()
    return opened


def _describe_lm(opened: OpenSpan) -> None:
    opened.name = type(opened.instance).__name__
    model, defaults = opened.noted
    if isinstance(model, str):
        opened.model, opened.provider = model, dspy_compat.lm_provider(opened.instance, model)
    arguments = _arguments(opened.arguments if opened.inputs is None else opened.inputs)
    parameters = dspy_compat.lm_parameters(defaults, arguments)
    opened.attributes = {**parameters, **opened.attributes} if opened.attributes else parameters
    opened.arguments = _asked(_arguments(opened.arguments))
    if opened.inputs is not None:
        opened.inputs = _asked(arguments)


def _asked(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an LM is asked, without what authorizes the program to."""
    asked = dspy_compat.lm_arguments(arguments)
    return {key: value for key, value in asked.items() if value is not None and not _is_secret(key)}


def open_tool(
    source: DSPySource, call_id: str, instance: Any, inputs: Mapping[str, Any], parent: OpenSpan | None
) -> OpenSpan | None:
    """A tool's call."""
    name = getattr(instance, "name", None)
    if not isinstance(name, str):
        name = "tool"
    return source.recorder.start("tool", name, instance, _arguments(inputs), parent)


def adapter_opener(kind: Kind) -> Opener:
    """For what an adapter does: it writes the prompt, or reads the model's answer."""

    def open_adapter(
        source: DSPySource, call_id: str, instance: Any, inputs: Mapping[str, Any], parent: OpenSpan | None
    ) -> OpenSpan | None:
        if not source.recorder.adapter_spans:
            return None
        if parent is not None and parent.kind == kind and parent.instance is instance:
            return None  # an adapter's method, and the inherited one that it calls
        return source.recorder.start(kind, "", instance, inputs, parent, None, None, _describe_adapter, type(instance))

    return open_adapter


def _describe_adapter(opened: OpenSpan) -> None:
    opened.name = f"{opened.noted.__name__}.{opened.kind.removeprefix('adapter_')}"
    opened.arguments = dspy_compat.adapter_arguments(opened.kind, _arguments(opened.arguments))
    if opened.inputs is not None:
        arguments = dspy_compat.adapter_arguments(opened.kind, _arguments(opened.inputs))
        text = dspy_compat.signature_text(arguments.get("signature"))
        opened.inputs = arguments if text is None else {**arguments, "signature": text}


def open_evaluation(
    source: DSPySource, call_id: str, instance: Any, inputs: Mapping[str, Any], parent: OpenSpan | None
) -> OpenSpan | None:
    """An evaluation."""
    given = {name: getattr(instance, name, None) for name in ("devset", "metric", "num_threads")}
    given.update((key, value) for key, value in inputs.items() if value is not None)
    compilation = compilations.around(parent)
    if compilation is None:
        opened = _open_parent(source, "evaluate", call_id, instance, _counted(given), parent, None, None)
    else:
        attributes, is_summary = {compilations.TRIAL: compilation.next_trial()}, compilation.mode == "summary"
        above, trace = (compilation.opened, compilation.trace) if is_summary else (parent, None)
        opened = _open_parent(source, "evaluate", call_id, instance, _counted(given), above, attributes, trace)
        if is_summary:
            compilations.hush(opened)
    if opened.trace.recorded:
        opened.examples = Examples(inputs.get("program"), source.recorder.hand_over)
    return opened


def open_compilation(
    source: DSPySource, call_id: str, instance: Any, inputs: Mapping[str, Any], parent: OpenSpan | None
) -> OpenSpan | None:
    """An optimizer compiles a program."""
    mode, arguments = source.recorder.compile_mode, _counted(_arguments(inputs))
    trace = compilations.trace_for(mode, parent, source.recorder.traces.begin)
    opened = _open_parent(source, "compile", call_id, instance, arguments, parent, None, trace)
    compilations.mark(mode, opened)
    return opened


def interpreter_opener(operation: str) -> Opener:
    """For what a code interpreter does: it starts, runs code, its code calls a tool, it stops."""

    def open_interpreter(
        source: DSPySource, call_id: str, instance: Any, inputs: Mapping[str, Any], parent: OpenSpan | None
    ) -> OpenSpan | None:
        name = f"{type(instance).__name__}.{operation}"
        return source.recorder.start("interpreter", name, instance, _arguments(inputs), parent)

    return open_interpreter


def _open_parent(
    source: DSPySource,
    kind: Kind,
    call_id: str,
    instance: Any,
    arguments: Mapping[str, Any],
    parent: OpenSpan | None,
    attributes: dict[str, Any] | None,
    trace: Trace | None,
) -> OpenSpan:
    """Start a span whose call may start threads."""
    opened = source.recorder.start(kind, type(instance).__name__, instance, arguments, parent, trace, attributes)
    _activate(source, opened, call_id)
    return opened


def _activate(source: DSPySource, opened: OpenSpan, call_id: str) -> None:
    """Make a span known to the threads that its call may start."""
    if source.is_wrapping(opened.instance):  # it is traced with all that it calls
        opened.activate(source.setting, call_id, callbacks=[*dspy_compat.callbacks(), source])
    elif not CARRIES_CALL_ID:
        opened.activate(source.setting, call_id)


def _arguments(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """One flat dict of arguments: DSPy gives those of `*args` and `**kwargs` packed."""
    packed = inputs.get("kwargs")
    if not isinstance(packed, dict):
        return inputs
    if len(inputs) == 1 or (len(inputs) == 2 and not inputs.get("args", True)):
        return packed
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
