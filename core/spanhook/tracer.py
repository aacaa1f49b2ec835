"""The tracer: what a program holds in its hand. Its parts are wired together here."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from spanhook import checks, dspy_compat
from spanhook.active import OpenSpan
from spanhook.budgets import OverBudget
from spanhook.config.secrets import hiding
from spanhook.delivery import timeouts
from spanhook.delivery.items import TRACE_FULL, Dropped, Item
from spanhook.delivery.keeping import Keeping
from spanhook.delivery.pipeline import Pipeline
from spanhook.delivery.stats import Stats, lost_line
from spanhook.delivery.trace_limit import TraceLimit
from spanhook.dspy_source import DSPySource
from spanhook.finishing import Finisher
from spanhook.guard import Guard, warn
from spanhook.installation import Installation
from spanhook.processes import Lock, call_at_exit
from spanhook.recorder import Recorder
from spanhook.redaction.redactor import Redactor
from spanhook.rejections import Rejections
from spanhook.scopes import Interaction, SpanScope
from spanhook.span import KINDS, Kind, Sentiment, SignalType, Span, Trait

if TYPE_CHECKING:
    from spanhook.config.settings import Settings
    from spanhook.plugins.registration import Plugin

MAX_LOGGED_CHARS = 20_000  # of one text
LOG_TIMEOUT_S = 0.05  # of one pattern of the user's: it may be the program's thread that logs

M = TypeVar("M")
V = TypeVar("V")


class Tracer:
    """Traces DSPy programs and ties their traces to users. Made by `configure`; every method is safe on any thread.

    Nothing here raises into the running program, except where `[tracing] strict = true` or `over_budget="raise"` asks
    for it; `wrap`, and `span` on a generator or without a name, raise TypeError where they are written.
    """

    def __init__(self, settings: Settings, plugins: list[Plugin]) -> None:
        self.settings = settings
        content = settings.tracing.capture != "metadata"
        clean = Redactor(settings.redact, MAX_LOGGED_CHARS, LOG_TIMEOUT_S).text
        self._guard = Guard(clean, content=content, hide=hiding(*(plugin.secrets for plugin in plugins)))
        self._rejections = Rejections(self._guard, strict=settings.tracing.strict)
        self._lock = Lock()
        self._closed = self._has_told = False
        self._telling = Lock()
        self._open_spans = 0
        backends = [plugin for plugin in plugins if plugin.kind == "backend"]
        redact = [(f"{p.label}: redact", p.hooks["redact"]) for p in plugins if "redact" in p.hooks]
        self._finish = Finisher(settings.tracing.max_text_chars, self._guard, settings.redact, redact, content=content)
        rules, limits = settings.tracing.keep, settings.delivery
        keeping = Keeping(rules, limits.queue_spans, limits.queue_bytes, self._completed) if rules else None
        self._trace_limit = TraceLimit(settings.tracing.max_spans_per_trace)
        self._pipeline = Pipeline(backends, limits, self._prepare, self._guard, keeping)
        self._recorder = Recorder(settings.tracing, plugins, self._guard, self._pipeline.put, keeping)
        self._source = DSPySource(self._recorder, self._guard, self)
        self._installation = Installation(self._source)

    def interaction(
        self,
        user_id: str | None = None,
        convo_id: str | None = None,
        event: str | None = None,
        properties: Mapping[str, Any] | None = None,
        event_id: str | Callable[[], str] | None = None,
        budget_usd: float | None = None,
        over_budget: OverBudget = "warn",
    ) -> Interaction:
        """What a user does once: `with tracer.interaction(user_id="u1") as interaction:`.

        Everything that runs inside, in the threads of `dspy.Parallel` and in tasks too, is one trace and has this
        identity. `interaction.event_id` names it in every backend and is what `track_signal` takes.

        Args:
            user_id: who did it.
            convo_id: the conversation that it belongs to.
            event: what it is called, "chat" for example; the root span's name.
            properties: whatever else is to be known of it, as strings, numbers and booleans by name.
            event_id: your own id, or a function that makes one. By default the trace id as a UUIDv7.
            budget_usd: what its LM calls may cost, as far as their cost is known. Passing it is logged, once.
            over_budget: "raise" also stops the program at its next LM call after that: the block then ends with
                `BudgetExceededError`. It is the one thing that a tracer does to a program, so it has to be asked for.

        Raises:
            ValueError: a blank id or a wrong budget, only with `strict = true`; otherwise it is logged, counted and
                left out.
        """
        self._installation.check(here=True)
        if callable(event_id):
            make, event_id = event_id, None
            with self._guard("interaction: event_id()"):
                event_id = make()
        stops_right = self._rejections.accepts("interaction", checks.check_over_budget, over_budget, budget_usd)
        return Interaction(
            self._source,
            self._rejections,
            user_id=self._right(user_id, checks.check_id, "user_id"),
            convo_id=self._right(convo_id, checks.check_id, "convo_id"),
            event=self._right(event, checks.check_id, "event"),
            event_id=self._right(event_id, checks.check_id, "event_id"),
            properties=self._right(properties, checks.check_properties) or {},
            budget_usd=self._right(budget_usd, checks.check_budget),
            over_budget=over_budget if stops_right else "warn",
        )

    def span(self, name: str, /, kind: Kind = "custom", **inputs: Any) -> SpanScope:
        """A span of your own: `with tracer.span("retrieve", query=q) as span:`, or `@tracer.span("retrieve")`.

        As a decorator, on plain and async functions, the arguments are its inputs and the result its outputs. In the
        `with` block set `span.outputs` and `span.attributes` yourself.

        Raises:
            ValueError: a wrong name or kind, only with `strict = true`; otherwise it is logged and counted, the name is
                "span" and the kind "custom".
            TypeError: it is given a function, as by `@tracer.span` alone.
        """
        if callable(name):
            raise TypeError(
                'span: name must be a string that is not blank, not a function; as a decorator: @tracer.span("NAME")'
            )
        if not self._rejections.accepts("span", checks.check_id, name, "name"):
            name = "span"
        if not self._rejections.accepts("span", checks.check_one_of, kind, KINDS, "kind"):
            kind = "custom"
        return SpanScope(self._source, self._rejections, name, kind, inputs)

    def wrap(self, program: M) -> M:
        """Trace this DSPy module with all that it calls, by its own callbacks; wrapping twice is a no-op.

        Made for `instrument = "wrapped"`, where nothing else is traced. Returns the same object. DSPy leaves callbacks
        out of copies, pickles and saved programs, so wrap what you load, and what an optimizer returns.

        Raises:
            TypeError: it is no `dspy.Module`.
        """
        if isinstance(program, type):
            raise TypeError(f"wrap takes a dspy.Module; {program.__name__} is a class: give an instance")
        if not dspy_compat.is_module(program):
            raise TypeError(f"wrap takes a dspy.Module, not {type(program).__name__}")
        module: Any = program
        if self._source not in module.callbacks and not self._closed:
            module.callbacks = [*module.callbacks, self._source]  # it may share the list that it was given
        return program

    def identify(self, user_id: str, traits: Mapping[str, Trait] | None = None) -> bool:
        """Say who a user is. Whether it was accepted.

        Args:
            user_id: as in `interaction`.
            traits: what is known of the user: str, int, float or bool by name.

        Raises:
            ValueError: a blank id or a wrong trait, only with `strict = true`; otherwise it is logged and counted.
        """
        return self._rejections.accepts("identify", lambda: self._pipeline.put(checks.identity(user_id, traits)))

    def track_signal(
        self,
        event_id: str,
        name: str,
        signal_type: SignalType = "default",
        timestamp: datetime | str | None = None,
        properties: Mapping[str, Any] | None = None,
        attachment_id: str | None = None,
        comment: str | None = None,
        after: str | None = None,
        sentiment: Sentiment | None = None,
    ) -> bool:
        """Record a user's feedback on an interaction. Whether it was accepted.

        Args:
            event_id: `interaction.event_id`, or `spanhook.event_id_of(prediction)`.
            name: what happened, "thumbs_up" for example.
            signal_type: "default", "feedback" or "edit".
            timestamp: when; a datetime or ISO 8601, without a zone it is UTC. None: now.
            properties: more, by name; `score` is taken as a score where a backend has one.
            attachment_id: the part of the interaction that it is about.
            comment: what the user wrote; left out with `capture = "metadata"`.
            after: the text after the user's edit; left out with `capture = "metadata"`.
            sentiment: "POSITIVE" or "NEGATIVE".

        Raises:
            ValueError: a blank id, an unknown type or sentiment, only with `strict = true`; otherwise it is logged
                and counted.
        """

        def work() -> bool:
            return self._pipeline.put(
                checks.signal(
                    event_id, name, signal_type, timestamp, properties, attachment_id, comment, after, sentiment
                )
            )

        return self._rejections.accepts("track_signal", work)

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until every backend has all that was accepted before, for at most `timeout` seconds.

        True only if all of it was delivered: nothing failed, was dropped, or is still waiting. A loss is told once.
        After a shutdown, or beside one, the result is that of the shutdown.
        """
        timeout_s = timeouts.seconds("flush", timeout, self._guard)
        self._installation.check()
        self._guard.call("flush: calls that are over", self._source.settle)
        return bool(self._guard.call("flush", self._pipeline.flush, timeout_s))

    def shutdown(self, timeout: float = 5.0) -> bool:
        """Flush, stop the threads, remove the callback from DSPy; says in one log line what was lost and why.

        Takes at most `timeout` seconds, which are used where a backend can't deliver now. A second call waits for what
        the first has begun, and has its result. Runs by itself when the interpreter exits; then a backend that can't
        deliver now is asked once, so that a process whose receiver is down ends quickly.
        """
        return self._shut_down(timeouts.seconds("shutdown", timeout, self._guard), patient=True)

    def _shut_down(self, timeout_s: float, *, patient: bool) -> bool:
        with self._lock.here:
            is_first, self._closed = not self._closed, True
        if not is_first:
            return self._close(timeout_s, patient=patient)
        try:
            self._guard.call("shutdown: calls that are over", self._source.settle)
            self._open_spans = self._source.close()
            self._installation.remove()
            delivered = self._close(timeout_s, patient=patient)
        finally:  # Ctrl-C, too
            self._tell_lost()
        atexit.unregister(self._at_exit)
        return delivered

    def _close(self, timeout_s: float, *, patient: bool) -> bool:
        return bool(self._guard.call("shutdown", lambda: self._pipeline.close(timeout_s, patient=patient)))

    def _tell_lost(self) -> None:
        """Say once what was not delivered."""
        with self._telling.here:  # the exit waits until it is said
            if self._has_told:
                return
            self._has_told = True
            if lost := lost_line(self._pipeline.stats(), self._pipeline.held_back(), self._open_spans):
                warn("not delivered: %s", lost)

    def stats(self) -> Stats:
        """What became of everything so far."""
        return Stats(
            backends=self._pipeline.stats(),
            rejected=self._rejections.counts(),
            errors=self._guard.counts(),
            sampled_out=self._recorder.traces.sampled_out,
        )

    @property
    def callback(self) -> DSPySource:
        """The DSPy callback, for `dspy.context(callbacks=[…])`; `configure` has put it into DSPy's settings already."""
        return self._source

    @contextmanager
    def listen(self, listener: Callable[[Span], None]) -> Iterator[None]:
        """Call `listener` with a copy of each span that ends, on its call's thread, while the block runs. For tests."""

        def hear(span: Span) -> None:
            heard = replace(span)
            self._finish(heard)
            listener(heard)

        self._recorder.listeners.append(hear)
        try:
            yield
        finally:
            self._recorder.listeners.remove(hear)

    def _prepare(self, item: Item | OpenSpan) -> Item | Dropped:
        """Make what the program handed over fit for every backend, on the intake thread, unless its trace is full."""
        completed = self._completed(item)
        if isinstance(completed, Span) and not self._trace_limit.admits(completed):
            return TRACE_FULL
        return self._finish(completed)

    def _completed(self, item: Item | OpenSpan) -> Item:
        return self._recorder.complete(item) if isinstance(item, OpenSpan) else item

    def _right(self, value: V | None, check: Callable[..., None], *more: str) -> V | None:
        """What was given for an interaction, if it can be that; None where it was rejected, or not given."""
        return value if value is not None and self._rejections.accepts("interaction", check, value, *more) else None

    def _install(self) -> list[Tracer]:
        """See `configuring.install`."""
        tracing = self.settings.tracing
        replaced: list[Installation] = []
        if tracing.instrument == "all" or not tracing.enabled:
            replaced = self._installation.replace_others(is_called=tracing.enabled)
        call_at_exit(self, self._at_exit)
        self._pipeline.open()
        return [other.source.owner for other in replaced]

    def _at_exit(self) -> None:
        self._shut_down(self.settings.delivery.exit_timeout_s, patient=False)
        self._tell_lost()  # what a shutdown on another thread has not come to
