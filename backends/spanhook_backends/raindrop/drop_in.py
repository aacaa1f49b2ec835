"""For programs that use raindrop-dspy: the same names and parameters, over Spanhook. Made for moving over.

Change the import, and later, when it suits, `wrap` to `spanhook.configure`: see "Move from raindrop-dspy" in the docs.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import spanhook
from spanhook import Sentiment, SignalType, Tracer, Trait
from spanhook_backends.raindrop import async_forward

__all__ = ["RaindropDSPy", "create_raindrop_dspy"]

M = TypeVar("M")
Tools = Sequence[Mapping[str, Any]]

_KEYS = ("wrap", "flush", "shutdown", "identify", "track_signal")


class RaindropDSPy:
    """Traces the modules that are given to `wrap`, each call of one as an event of Raindrop, and nothing else.

    An empty text is as good as None, as in raindrop-dspy.

    Args:
        api_key: the write key; None: RAINDROP_WRITE_KEY. Without one nothing is traced, and a warning says so.
        user_id: the user of every event that is not in a `tracer.interaction(user_id=…)`.
        convo_id: the conversation, likewise.
        project_id: the slug of the project; None: the default one of the key.
        tracing_enabled: whether LM and tool spans are sent too.
        bypass_otel_for_tools: False: tool spans go through OpenTelemetry's SDK, so that its variables hold for them.
        disable_auto_instrument: False has no use here, as a warning says: LM spans need no patched libraries.
        event_name: what the events are called.
        event_id: the id of all events, or a function that makes one for each, on the thread of the call.
        endpoint: where Raindrop is; None: RAINDROP_ENDPOINT, else Raindrop's own address.
        tools: the tools that LM spans say they had; None: those that each call was really given.
        app_git: whether events have the program's git revision; a dict sets it.
        client: a `raindrop.Raindrop` of your own, to send with. It is flushed, and never shut down.
        debug: shows what Raindrop's SDK logs.

    Raises:
        spanhook.ConfigError: a value that can't be: a slug that is none, an endpoint that is no URL.
    """

    def __init__(
        self,
        api_key: str | None = None,
        user_id: str | None = None,
        convo_id: str | None = None,
        project_id: str | None = None,
        tracing_enabled: bool = True,
        bypass_otel_for_tools: bool = True,
        disable_auto_instrument: bool = True,
        event_name: str = "ai_generation",
        event_id: str | Callable[[], str] | None = None,
        endpoint: str | None = None,
        *,
        tools: Tools | None = None,
        app_git: bool | Mapping[str, Any] = True,
        client: Any = None,
        debug: bool = False,
    ) -> None:
        if not disable_auto_instrument:
            warnings.warn(
                "disable_auto_instrument=False has no use with Spanhook: LM and tool spans are traced without patching "
                "any library; leave it out",
                stacklevel=2,
            )
        options = {
            "api_key": api_key if api_key is not None else os.environ.get("RAINDROP_WRITE_KEY"),
            "user_id": user_id or None,
            "convo_id": convo_id or None,
            "project_id": project_id or None,
            "tracing_enabled": tracing_enabled,
            "bypass_otel_for_tools": bypass_otel_for_tools,
            "event_name": event_name or "ai_generation",
            "event_id": event_id or None,
            "endpoint": endpoint or os.environ.get("RAINDROP_ENDPOINT") or None,
            "app_git": app_git,
            "client": client,
            "debug": debug,
        }
        self._options = {name: _literal(value) for name, value in options.items() if value is not None}
        self._is_enabled = client is not None or bool(self._options.get("api_key"))
        if not self._is_enabled:
            warnings.warn("no api_key and no RAINDROP_WRITE_KEY: nothing is sent to Raindrop", stacklevel=2)
        self._event_id = event_id or None
        self._tracer = self._new_tracer(tools)
        self._tracers = [self._tracer]  # and one for each list of tools

    @property
    def tracer(self) -> Tracer:
        """The tracer behind it: its `interaction` gives each call its own user, its `stats` tell what arrived."""
        return self._tracer

    def wrap(self, module: M, *, tools: Tools | None = None) -> M:
        """Trace this module with all that it calls. Returns the same object; wrapping twice is a no-op.

        Args:
            module: a `dspy.Module`; its `forward` may be a coroutine function.
            tools: in the place of the `tools` of this object.

        Raises:
            TypeError: it is no `dspy.Module`.
        """
        callbacks = getattr(module, "callbacks", None) or ()
        if async_forward.is_wrapped(module) or any(tracer.callback in callbacks for tracer in self._tracers):
            return module
        if tools is not None:
            self._tracers.append(self._new_tracer(tools))
        tracer = self._tracer if tools is None else self._tracers[-1]
        if not async_forward.has_async_forward(module):
            return tracer.wrap(module)
        async_forward.wrap(module, tracer, self._event_id)
        return module

    def identify(self, user_id: str, traits: Mapping[str, Trait] | None = None) -> bool:
        """Say who a user is. Whether it was accepted."""
        return self._tracer.identify(user_id, traits)

    def track_signal(
        self,
        event_id: str,
        name: str,
        signal_type: SignalType = "default",
        *,
        timestamp: str | None = None,
        properties: Mapping[str, Any] | None = None,
        attachment_id: str | None = None,
        comment: str | None = None,
        after: str | None = None,
        sentiment: Sentiment | None = None,
    ) -> bool:
        """Record feedback; `spanhook.event_id_of(prediction)` names a call's event. Whether it was accepted."""
        return self._tracer.track_signal(
            event_id, name, signal_type, timestamp, properties, attachment_id, comment, after, sentiment
        )

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until Raindrop has everything, at most `timeout` seconds. True only if it has."""
        return self._in_time(Tracer.flush, timeout)

    def shutdown(self, timeout: float = 5.0) -> bool:
        """Flush and let go, in at most `timeout` seconds. Runs by itself when the interpreter exits."""
        return self._in_time(Tracer.shutdown, timeout)

    def __getitem__(self, key: str) -> Any:
        """`raindrop["wrap"]` as raindrop-dspy has it, deprecated: use attributes."""
        if key not in _KEYS:
            raise KeyError(key)
        warnings.warn(f'raindrop["{key}"] is deprecated, use raindrop.{key}', DeprecationWarning, stacklevel=2)
        return getattr(self, key)

    def _in_time(self, do: Callable[[Tracer, float], bool], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        results = [do(tracer, max(0.0, deadline - time.monotonic())) for tracer in self._tracers]
        return all(results)

    def _new_tracer(self, tools: Tools | None) -> Tracer:
        options = self._options if tools is None else {**self._options, "tools": _literal(list(tools))}
        return spanhook.configure(
            {
                "tracing": {"enabled": self._is_enabled, "instrument": "wrapped", "backends": ["raindrop"]},
                "backends": {"raindrop": options},
            }
        )


def _literal(value: Any) -> Any:
    """A value that the configuration takes as it is: `${` in it begins no reference to a variable."""
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, Mapping):
        return {key: _literal(item) for key, item in value.items()}
    return [_literal(item) for item in value] if isinstance(value, list) else value


create_raindrop_dspy = RaindropDSPy
"""raindrop-dspy's factory; its parameters are the class's own."""
