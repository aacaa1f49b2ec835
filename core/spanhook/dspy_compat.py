"""Everything that depends on DSPy's release: its settings, its call ids, its history, its classes' shapes.

Tried on DSPy 3.0.4, 3.1.3, 3.2.1, 3.3.1 and 3.4.1. The rest of Spanhook speaks to DSPy through this module only,
`dspy_overrides`, `lm_record` and `typed_calls`.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import dspy
from dspy.dsp.utils.settings import main_thread_config
from dspy.utils.callback import ACTIVE_CALL_ID
from dspy.utils.callback import BaseCallback as BaseCallback

from spanhook import typed_calls
from spanhook.dspy_overrides import overrides as overrides
from spanhook.errors import InstallError

SIGNATURE: type = type(dspy.Signature)
"""The type of signature classes."""

PREDICTION: type = dspy.Prediction
"""What a DSPy program returns."""

# From 3.3 on dspy.Parallel and Evaluate carry the active call's id into their threads. Older releases carry only
# DSPy's setting overrides, so there each call that may have children leaves itself in the overrides.
CARRIES_CALL_ID = find_spec("dspy.utils.callback_context") is not None

TELLS_OF_EXITS = CARRIES_CALL_ID  # before, it hides cancellations, interrupts and exits from its callbacks
MAY_MISTAKE_LMS = not CARRIES_CALL_ID  # before 3.2 it takes an LM that is no `dspy.LM` for a module

# Request parameters that say how the model was asked, and are no content.
_PARAMETERS = {
    name: f"request.{name}"
    for name in ("temperature", "top_p", "max_tokens", "max_completion_tokens", "n", "seed", "reasoning_effort")
}


_NOTHING: Mapping[str, Any] = {}

active_call_id: Callable[[], str | None] = ACTIVE_CALL_ID.get
"""The id that DSPy gave to the call that runs on this thread or task, if any."""


def callbacks() -> list[Any]:
    """The callbacks that DSPy calls for everything in this context."""
    return list({**main_thread_config, **overrides()}.get("callbacks") or ())


def process_callbacks() -> list[Any]:
    """The callbacks of the whole process, whatever `dspy.context` says here."""
    return list(main_thread_config.get("callbacks") or ())


def set_callbacks(wanted: list[Any]) -> None:
    """Replace the process-wide callbacks.

    Raises:
        InstallError: DSPy lets only the thread (and task) that configured it first change its settings.
    """
    try:
        dspy.configure(callbacks=wanted)
    except RuntimeError as error:
        raise InstallError(
            f"DSPy refuses the tracer's callback here: {error} Call spanhook.configure() where you call "
            'dspy.configure(), or set instrument = "wrapped" and use tracer.wrap(program).'
        ) from error


def exception_in_flight(handled: int) -> BaseException | None:
    """What ends a call that DSPy reports as ended by nothing.

    Before 3.3 DSPy hands its callbacks no cancellation, interrupt or exit. The exception is the one that Python is
    handling, unless that was so already when the call began.

    Args:
        handled: `id()` of what `sys.exc_info()` held when the call began.
    """
    exception = sys.exc_info()[1]
    return exception if id(exception) != handled else None


def is_lm(instance: Any) -> bool:
    """Whether this is a language model, `dspy.LM` or another."""
    return issubclass(type(instance), dspy.BaseLM)


def lm_arguments(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an LM was called with; 3.3 has the prompt among `items`, and it may be in a typed request."""
    if (asked := typed_calls.asked(arguments)) is not None:
        return asked
    items = arguments.get("items")
    if items is None:
        return arguments
    rest = {key: value for key, value in arguments.items() if key != "items"}
    if len(items) == 1 and isinstance(items[0], str):
        return {**rest, "prompt": items[0]}
    return {**rest, "items": items} if items else rest


_ADAPTER_PARAMETERS = {
    "adapter_format": ("signature", "demos", "inputs"),
    "adapter_parse": ("signature", "completion"),
}


def adapter_arguments(kind: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an adapter's method was called with, by name; some of it may be given by position."""
    if "args" not in arguments:
        return arguments
    rest = {key: value for key, value in arguments.items() if key != "args"}
    return {**dict(zip(_ADAPTER_PARAMETERS[kind], arguments.get("args", ()), strict=False)), **rest}


def lm_provider(lm: Any, model: str | None) -> str | None:
    """The provider of an LM's model, where the name says so.

    Only `dspy.LM` on its own engines names models `provider/model`; elsewhere a slash may mean anything.
    """
    if model is None or "/" not in model or not issubclass(type(lm), dspy.LM):
        return None
    return model.partition("/")[0] if isinstance(getattr(lm, "engine", "auto"), str) else None


def lm_parameters(defaults: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """How the model is asked: `request.temperature` and the like, the call's own values before the LM's.

    Beside a typed request none of the LM's hold: DSPy 3.4 sends nothing of them with it, and 3.3 not always.
    """
    config = typed_calls.parameters(arguments)
    defaults = defaults if isinstance(defaults, dict) else _NOTHING
    parameters: dict[str, Any] = {}
    for given in (defaults if config is None else config, arguments):
        for name, value in given.items():
            if name in _PARAMETERS and type(value) in (int, float, str):
                parameters[_PARAMETERS[name]] = value
    return parameters


def own(value: Any) -> Mapping[str, Any]:
    """An object's own attributes, read without running any of its code."""
    try:
        held: Mapping[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return _NOTHING
    return held if isinstance(held, dict) else _NOTHING


class _SignatureText(weakref.ref[type]):
    """A signature class and how it is written."""

    __slots__ = ("key", "text")

    key: int
    text: str


_signature_texts: dict[int, _SignatureText] = {}


def _forget_text(known: Any) -> None:
    _signature_texts.pop(known.key, None)


def signature_text(value: Any) -> str | None:
    """`question -> answer` for a signature class; None for anything else."""
    known = _signature_texts.get(id(value))
    if known is not None and known() is value:
        return known.text
    if not (issubclass(type(value), type) and issubclass(value, dspy.Signature)):
        return None
    made = _SignatureText(value, _forget_text)
    made.key, made.text = id(value), str(value.signature)
    _signature_texts[made.key] = made
    return made.text


def is_predictor(module: Any) -> bool:
    """Whether `module` sends a prompt of its own."""
    return issubclass(type(module), dspy.Predict)


def signature_class(signature: Any) -> Any:
    """A signature as DSPy takes it, as the class that it stands for."""
    return dspy.Signature(signature) if isinstance(signature, str) else signature  # pyright: ignore[reportCallIssue] - its metaclass takes text


def signature_fields(signature: Any) -> list[tuple[str, Any, dict[str, Any]]]:
    """A signature's fields in order: name, type, and what DSPy holds of it: kind, description, prefix, constraints."""
    return [(name, field.annotation, field.json_schema_extra) for name, field in signature.model_fields.items()]


def member_name(owner: Any, module: Any) -> str | None:
    """The name of the attribute in which a module holds another one: which of its predictors that is."""
    for name, value in own(owner).items():
        if value is module:
            return name
    return None


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of one of DSPy's own records, in a new dict."""
    return dict(value.items())


FIELDS: Mapping[type, Callable[[Any], dict[str, Any]]] = {PREDICTION: fields_of, dspy.Example: fields_of}
"""How to read DSPy's own records, for a snapshot."""


_FINAL_OUTPUT: Any = getattr(sys.modules.get("dspy.primitives.code_interpreter"), "FinalOutput", None)


def plain_form(value: Any) -> Any:
    """The plain form of DSPy's own objects, for a snapshot: examples and predictions as dicts, signatures as text, a
    typed response as the list that an ordinary call returns, and an interpreter's last result as what it holds.
    """
    kind = type(value)
    if issubclass(kind, type):
        return signature_text(value)
    if kind is typed_calls.RESPONSE:
        return typed_calls.answered(value)
    if kind is _FINAL_OUTPUT:
        return own(value).get("output")
    return fields_of(value) if issubclass(kind, dspy.Example) else None


def is_prediction(value: Any) -> bool:
    """Whether `value` is what a DSPy program returns."""
    return issubclass(type(value), PREDICTION)  # isinstance would ask the program's object for its class


def is_module(value: Any) -> bool:
    """Whether `value` is a DSPy module."""
    return issubclass(type(value), dspy.Module)
