"""What DSPy itself records of one LM call, and of no other: its history entry, its usage, its stream's first chunk."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import Token
from typing import Any

import dspy
from dspy.dsp.utils.settings import main_thread_config, thread_local_overrides
from dspy.utils.usage_tracker import UsageTracker

from spanhook.dspy_overrides import overrides, take_back


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
        settings = {**main_thread_config, **overrides()}
        # An LM that calls another LM must not see the other's entry: the innermost call alone is recorded.
        # In front: some of DSPy's code takes the last caller for the module that runs.
        callers = settings.get("caller_modules") or ()
        if LMRecord in map(type, callers):
            callers = [c for c in callers if type(c) is not LMRecord]
        mine: Any = {**overrides(), "caller_modules": [self, *callers]}
        if settings.get("disable_history") or settings.get("max_history_size") == 0:
            self._outer = settings.get("usage_tracker")
            self._tracker = mine["usage_tracker"] = UsageTracker()
        stream = settings.get("send_stream")
        self.streamed = False  # whether chunks passed; a program that streams may ask for some answers as a whole
        if stream is not None:
            # An LM that calls another one sends the same chunks: both have a first one.
            self._stream = mine["send_stream"] = _TimedStream(stream)
        self._token: Token[Any] | None = thread_local_overrides.set(mine)

    def close(self, failed: bool = False) -> None:
        """Stop recording, and keep what was recorded apart from what the program may still change.

        Hands the usage on to the program's own tracker where ours stood in its place. Of a call that `failed` it is not
        kept: with history on DSPy tells of none, and of several answers it is that of some.
        """
        token, self._token = self._token, None
        if token is not None:
            take_back(token)
        for number, entry in enumerate(self.history):
            self.history[number] = copied = dict(entry)
            if type(usage := copied.get("usage")) is dict:
                copied["usage"] = usage.copy()
        is_estimated = self._stream is not None and self._close_stream(self._stream)
        if self._tracker is not None:
            self._close_tracker(is_known=not (failed or is_estimated))

    def _close_stream(self, stream: _TimedStream) -> bool:
        """Whether the usage of a streamed answer is an estimate."""
        if stream.finish_reason is not None:  # some releases of LiteLLM put together an answer with another
            for entry in self.history:
                entry["finish_reason"] = stream.finish_reason
        if stream.is_estimated:
            for entry in self.history:
                if entry.get("usage"):  # of a cached answer it is empty
                    entry["usage"] = {"total_tokens": 0}  # as where nobody counts
        self.first_chunk_ns, self._stream = stream.first_chunk_ns, None
        self.streamed = self.first_chunk_ns is not None
        return stream.is_estimated

    def _close_tracker(self, *, is_known: bool) -> None:
        if is_known:
            self.lm_usage = self._tracker.get_total_tokens()
        if self._outer is not None:
            for model, entries in self._tracker.usage_data.items():
                for entry in entries:
                    self._outer.add_usage(model, entry)
        self._tracker = self._outer = None

    def forget(self) -> None:
        """Let go of what was recorded: LiteLLM keeps the contexts of async calls, and with them what stood there."""
        self.history, self.lm_usage = [], {}
