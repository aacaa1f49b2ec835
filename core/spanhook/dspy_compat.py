"""Everything that depends on DSPy's release: its settings, its call ids, its history, its classes' shapes.

Tried on DSPy 3.0.4, 3.1.3, 3.2.1, 3.3.1 and 3.4.1. The rest of Spanhook speaks to DSPy through this module only.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextvars import Token
from importlib.util import find_spec
from typing import Any

import dspy
from dspy.dsp.utils.settings import main_thread_config, thread_local_overrides
from dspy.utils.callback import ACTIVE_CALL_ID
from dspy.utils.callback import BaseCallback as BaseCallback
from dspy.utils.usage_tracker import UsageTracker

from spanhook.errors import InstallError

DSPY_VERSION: str = dspy.__version__

# From 3.3 on dspy.Parallel and Evaluate carry the active call's id into their threads. Older releases carry only
# DSPy's setting overrides, so there each call that may have children leaves itself in the overrides.
CARRIES_CALL_ID = find_spec("dspy.utils.callback_context") is not None

# Request parameters that say how the model was asked, and are no content.
_PARAMETERS = frozenset(
    {"temperature", "top_p", "max_tokens", "max_completion_tokens", "n", "seed", "reasoning_effort"}
)


active_call_id: Callable[[], str | None] = ACTIVE_CALL_ID.get
"""The id that DSPy gave to the call that runs on this thread or task, if any."""


class Overrides:
    """DSPy settings that hold from now on in this context, and in what `dspy.Parallel` and tasks start from it.

    Unlike `dspy.context`, it leaves all other settings as they are: a `dspy.configure` inside still takes effect.
    """

    __slots__ = ("_token",)

    def __init__(self, **settings: Any) -> None:
        overrides: Any = {**thread_local_overrides.get(), **settings}
        self._token: Token[Any] | None = thread_local_overrides.set(overrides)

    def undo(self) -> None:
        """Take them back; where the context is no longer this one, they ended with it."""
        token, self._token = self._token, None
        if token is not None:
            _take_back(token)


def _take_back(token: Token[Any]) -> None:
    try:
        thread_local_overrides.reset(token)
    except ValueError:  # a coroutine or generator that was closed from another context
        return


def override(name: str) -> Any:
    """The value of a setting override in this context, None if there is none."""
    return thread_local_overrides.get().get(name)


def drop_override(name: str) -> None:
    """Take a setting override out of this context, whoever made it."""
    rest: Any = {key: value for key, value in thread_local_overrides.get().items() if key != name}
    thread_local_overrides.set(rest)


def _setting(name: str, overrides: Mapping[str, Any] | None = None) -> Any:
    """What `dspy.settings` says here, without its detours."""
    if overrides is None:
        overrides = thread_local_overrides.get()
    return overrides[name] if name in overrides else dict.get(main_thread_config, name)


def overrides_named(prefix: str) -> Iterator[Any]:
    """The values of all setting overrides in this context whose names begin so, the latest first."""
    overrides = thread_local_overrides.get()
    return (overrides[name] for name in reversed(list(overrides)) if name.startswith(prefix))


class _TimedStream:
    """Stands in `send_stream` during one LM call: notes when the first chunk passes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.first_chunk_ns: int | None = None  # monotonic
        self.finish_reason: str | None = None  # the first that LiteLLM's chunks have
        self._by_litellm = self._has_usage = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def send(self, item: Any) -> None:
        """Pass an item on, as the stream itself would."""
        if self.first_chunk_ns is None and not isinstance(item, dspy.streaming.StatusMessage):
            self.first_chunk_ns = time.perf_counter_ns()
        if type(item).__module__.startswith("litellm"):
            self._by_litellm = True
            self._has_usage = self._has_usage or getattr(item, "usage", None) is not None
            if self.finish_reason is None:
                reasons = (getattr(choice, "finish_reason", None) for choice in getattr(item, "choices", ()))
                self.finish_reason = next((reason for reason in reasons if isinstance(reason, str)), None)
        await self._stream.send(item)

    @property
    def is_estimated(self) -> bool:
        """Whether LiteLLM was asked for no usage: it counts the words itself then, and gives that out as the usage."""
        return self._by_litellm and not self._has_usage


class LMRecord:
    """What DSPy itself records of one LM call and of no other; made when the call starts, on its thread.

    It stands in `caller_modules` during the call: DSPy appends the call's history entry to every caller's `history`.
    """

    __slots__ = ("_outer", "_stream", "_token", "_tracker", "first_chunk_ns", "history", "lm_usage", "streamed")

    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []
        self.lm_usage: Mapping[str, Mapping[str, Any]] = {}  # by model name, counted when history is off
        self.first_chunk_ns: int | None = None  # when the first chunk passed, on `time.perf_counter_ns()`
        self._tracker: Any = None
        self._outer: Any = None
        self._stream: _TimedStream | None = None
        here = thread_local_overrides.get()
        # An LM that calls another LM must not see the other's entry: the innermost call alone is recorded.
        # In front: some of DSPy's code takes the last caller for the module that runs.
        callers = _setting("caller_modules", here) or ()
        if LMRecord in map(type, callers):
            callers = [c for c in callers if type(c) is not LMRecord]
        overrides: Any = {**here, "caller_modules": [self, *callers]}
        if _setting("disable_history", here) or _setting("max_history_size", here) == 0:
            self._outer = _setting("usage_tracker", here)
            self._tracker = overrides["usage_tracker"] = UsageTracker()
        stream = _setting("send_stream", here)
        self.streamed = stream is not None  # whether the program streams, so that DSPy asks for the answer in chunks
        if stream is not None:
            # An LM that calls another one sends the same chunks: both have a first one.
            self._stream = overrides["send_stream"] = _TimedStream(stream)
        self._token: Token[Any] | None = thread_local_overrides.set(overrides)

    def close(self) -> None:
        """Stop recording, and keep what was recorded apart from what the program may still change.

        Hands the usage on to the program's own tracker where ours stood in its place.
        """
        token, self._token = self._token, None
        if token is not None:
            _take_back(token)
        self.history = [_apart(entry) for entry in self.history]
        is_estimated = False
        if self._stream is not None:
            is_estimated = self._stream.is_estimated
            if self._stream.finish_reason is not None:  # some releases of LiteLLM put together an answer with another
                for entry in self.history:
                    entry["finish_reason"] = self._stream.finish_reason
            self.first_chunk_ns, self._stream = self._stream.first_chunk_ns, None
        if is_estimated:
            for entry in self.history:
                if entry.get("usage"):  # of a cached answer it is empty
                    entry["usage"] = {"total_tokens": 0}  # as where nobody counts
        if self._tracker is None:
            return
        if not is_estimated:
            self.lm_usage = self._tracker.get_total_tokens()
        if self._outer is not None:
            for model, entries in self._tracker.usage_data.items():
                for entry in entries:
                    self._outer.add_usage(model, entry)
        self._tracker = self._outer = None

    def forget(self) -> None:
        """Let go of what was recorded: LiteLLM keeps the contexts of async calls, and with them what stood there."""
        self.history, self.lm_usage = [], {}


def _apart(entry: Any) -> dict[str, Any]:
    copied = dict(entry)
    usage = copied.get("usage")
    if type(usage) is dict:
        copied["usage"] = usage.copy()
    return copied


def callbacks() -> list[Any]:
    """The callbacks that DSPy calls for everything in this context."""
    return list(_setting("callbacks") or ())


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
    return isinstance(instance, dspy.BaseLM)


def lm_arguments(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an LM was called with; 3.3 has the prompt among `items`."""
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
    """What an adapter's method was called with, by name; some of them are given by position."""
    if "args" not in arguments:
        return arguments
    rest = {key: value for key, value in arguments.items() if key != "args"}
    return {**dict(zip(_ADAPTER_PARAMETERS[kind], arguments.get("args", ()), strict=False)), **rest}


def lm_identity(lm: Any) -> tuple[str | None, str | None]:
    """The model an LM asks for, and its provider where the name says so.

    Only `dspy.LM` on its own engines names models `provider/model`; elsewhere a slash may mean anything.
    """
    model = _own(lm).get("model")
    if not isinstance(model, str):
        return None, None
    names_provider = isinstance(lm, dspy.LM) and isinstance(getattr(lm, "engine", "auto"), str)
    provider, slash, _ = model.partition("/")
    return model, provider if slash and names_provider else None


def lm_parameters(lm: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """How the model was asked: `request.temperature` and the like, the call's own values before the LM's."""
    defaults = _own(lm).get("kwargs")
    found: dict[str, Any] = {}
    for given in (defaults if isinstance(defaults, dict) else {}, arguments):
        for name, value in given.items():
            if name in _PARAMETERS and type(value) in (int, float, str):
                found[f"request.{name}"] = value
    return found


def _own(value: Any) -> Mapping[str, Any]:
    """An object's own attributes, read without running any of its code."""
    held = getattr(value, "__dict__", None)
    return held if isinstance(held, dict) else {}


_signature_texts: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()


def signature_text(value: Any) -> str | None:
    """`question -> answer` for a signature class, or for a module that has one; None otherwise."""
    if not isinstance(value, type):
        held = _own(value)
        value = held.get("signature") or _own(held.get("predict")).get("signature")
        if not isinstance(value, type):
            return None
    text = _signature_texts.get(value)
    if text is None and issubclass(value, dspy.Signature):
        signature: Any = value
        text = _signature_texts[value] = str(signature.signature)
    return text


def prompt_parts(module: Any, arguments: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """The signature and the demos that a `dspy.Predict` has for a call with these arguments; None for other modules."""
    if not issubclass(type(module), dspy.Predict):
        return None
    held = _own(module)
    signature, demos = arguments.get("signature") or held.get("signature"), arguments.get("demos")
    if isinstance(signature, str):
        signature = dspy.Signature(signature)  # pyright: ignore[reportCallIssue] - its metaclass takes text
    return signature, held.get("demos") if demos is None else demos


def signature_fields(signature: Any) -> list[tuple[str, Any, dict[str, Any]]]:
    """A signature's fields in order: name, type, and what DSPy holds of it: kind, description, prefix, constraints."""
    return [(name, field.annotation, field.json_schema_extra) for name, field in signature.model_fields.items()]


def member_name(owner: Any, module: Any) -> str | None:
    """The name of the attribute in which a module holds another one: which of its predictors that is."""
    for name, value in _own(owner).items():
        if value is module:
            return name
    return None


def plain_form(value: Any) -> Any:
    """The plain form of DSPy's own objects, for a snapshot: examples and predictions as dicts, signatures as text."""
    kind = type(value)
    if issubclass(kind, type):
        return signature_text(value)
    return dict(value.items()) if issubclass(kind, dspy.Example) else None


def is_prediction(value: Any) -> bool:
    """Whether `value` is what a DSPy program returns."""
    return issubclass(type(value), dspy.Prediction)  # isinstance would ask the program's object for its class


def is_module(value: Any) -> bool:
    """Whether `value` is a DSPy module."""
    return issubclass(type(value), dspy.Module)
