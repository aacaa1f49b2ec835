"""Traces in Opik, through Opik's own SDK: `pip install "spanhook[opik]"`."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr, ValidationError

from spanhook import (
    Call,
    ConfigError,
    Facts,
    PluginOptions,
    RetryLater,
    Signal,
    Span,
    SpanhookError,
    TracingSettings,
    hookimpl,
)
from spanhook_backends.bounded import Bounded
from spanhook_backends.opik import context, payloads, sdk
from spanhook_backends.opik.acks import Key
from spanhook_backends.opik.connection import PATIENCE_S, Connection
from spanhook_backends.opik.graph import Graphs
from spanhook_backends.opik.places import Places, Running, needs_span
from spanhook_backends.opik.scores import score
from spanhook_backends.web import web_address

Records = list[dict[str, Any]]

MAX_USERS = 10_000  # whose traits are remembered
MAX_TOLD = 10_000  # traces that run, and of which their program has told Opik something


class UnknownEventError(SpanhookError):
    """A signal's event id leads to no trace."""


def _url(value: str) -> str:
    parts = web_address(value, "https://www.comet.com/opik/api")
    if parts.username is not None:
        raise ValueError("must be a URL without user, as Opik's SDK logs it; the key goes into api_key")
    return value


def _header(name: str, given: str | None, else_: str | None) -> str | None:
    """An option that goes out as a header, without the line break that a file with it ends with; else Opik's own."""
    value = (given or else_ or "").strip()
    if not (value.isascii() and value.isprintable()):
        whose = "" if given else "Opik's own settings: "
        raise ConfigError([f"{whose}{name}: must be one line of ASCII characters"])
    return value or None


class OpikBackend:
    """One Opik trace for each root call, its spans under it, and signals as feedback scores.

    A call inside of an Opik trace or span that the program has opened itself hangs under that. Its hooks run on the
    backend's own thread, `span_start` and `span_end` on the call's.
    """

    class Options(PluginOptions):
        """`[backends.opik]`. What is left out is looked up by Opik's SDK: `OPIK_…` variables, then `~/.opik.config`."""

        project_name: Annotated[str, Field(min_length=1)] | None = None
        """The project that traces go to."""

        workspace: Annotated[str, Field(min_length=1)] | None = None
        """The workspace; a server of your own has only `default`."""

        host: Annotated[str, AfterValidator(_url)] | None = None
        """The server's API: `https://www.comet.com/opik/api`, or `http://localhost:5173/api` for one of your own."""

        api_key: SecretStr | None = None
        """The key; a server of your own needs none."""

        tags: list[str] = Field(default=[])
        """Tags of every trace."""

        log_graph: bool = False
        """Whether a trace carries a diagram of its program's modules, for Opik's graph view."""

        share_context: bool = True
        """Whether `@opik.track` and `opik_context` inside of a DSPy call find that call in Opik's context."""

    def __init__(self, options: Options | None = None, tracing: TracingSettings | None = None) -> None:
        options = options if options is not None else self.Options()
        self._tags = list(options.tags) or None
        self._common: dict[str, Any] = {"service": tracing.service} if tracing and tracing.service else {}
        self._places = Places()
        with_text = tracing is None or tracing.capture == "full"
        self._graphs = Graphs(with_instructions=with_text) if options.log_graph else None
        self._told: Bounded[list[Any]] = Bounded(MAX_TOLD)
        self._shares_context = options.share_context
        if options.share_context or options.log_graph:  # else no call of the program has to pay for this hook

            @hookimpl
            def span_end(span: Span, call: Call) -> Facts | None:
                attributes = context.leave(span, call) if self._shares_context else {}
                if self._graphs is not None:
                    attributes.update(self._graphs.end(span))
                return {"attributes": attributes} if attributes else None

            self.span_end = span_end
        self._traits: Bounded[Mapping[str, Any]] = Bounded(MAX_USERS)
        key = None if options.api_key is None else options.api_key.get_secret_value()
        try:
            settings = sdk.OpikConfig()
            _url(options.host or settings.url_override)
            self._project: str = options.project_name or settings.project_name
            self._connection = Connection(
                workspace=_header("workspace", options.workspace, settings.workspace),
                host=options.host,
                api_key=_header("api_key", key, settings.api_key),
            )
        except ValidationError as error:
            raise ConfigError(
                [f"Opik's own settings: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            ) from error
        except ValueError as error:
            raise ConfigError([f"Opik's own settings: url_override {error}"]) from error
        self._converted: tuple[Sequence[Span], Records, Records] | None = None
        _backends.add(self)

    def reset_after_fork(self) -> None:
        """In a forked child: other threads of the parent may have held locks."""
        self._places.reset_after_fork()
        if self._graphs is not None:
            self._graphs.reset_after_fork()

    @hookimpl
    def span_start(self, span: Span, call: Call) -> None:
        """Note where the span belongs, on its call's thread."""
        self._places.note(span)
        if self._shares_context and not context.is_passed_over(span, call):
            context.enter(span, self._places.place(span), self._project)
        if self._graphs is not None:
            self._graphs.start(span, call.instance)

    @hookimpl
    def emit(self, spans: Sequence[Span]) -> None:
        """Hand the spans to Opik's SDK, and return when Opik has confirmed them.

        Raises:
            NotDeliveredError: Opik didn't take them all.
            RetryLater: it can't take anything now. The same spans come again.
        """
        if self._converted is None or self._converted[0] is not spans:
            self._converted = (spans, *self._records(spans))  # once: it forgets where a span belongs
        _, traces, below = self._converted
        self._deliver(traces, below)
        self._converted = None

    def _deliver(self, traces: Records, below: Records, patience_s: float = PATIENCE_S) -> None:
        if not sdk.is_tracing_active():  # the user has switched Opik off, with OPIK_TRACK_DISABLE or in code
            return
        keys: list[Key] = [("traces", trace["id"]) for trace in traces] + [("spans", span["id"]) for span in below]
        keys += [("feedback-scores", one["id"]) for one in (*traces, *below) if one.get("feedback_scores")]

        def send(client: sdk.Opik) -> None:
            for trace in traces:
                client.trace(**trace)
            for span in below:
                client.span(**span)

        self._connection.deliver(keys, send, patience_s)

    def _records(self, spans: Sequence[Span]) -> tuple[Records, Records]:
        """The traces and the spans under them that Opik gets."""
        traces: Records = []
        below: Records = []
        for span in spans:
            self._convert(span, traces, below)
        for key in {span.local_trace_key for span in spans}:
            if (running := self._places.running(key)) is not None:
                traces.append(self._running(running))
        return traces, below

    def _running(self, running: Running) -> dict[str, Any]:
        project = running.place.project or self._project
        return {**payloads.running_arguments(running), "project_name": project, "tags": self._tags}

    def _convert(self, span: Span, traces: Records, below: Records) -> None:
        place = self._places.take(span)
        is_root = span.is_local_root
        more = self._graphs.take(span) if self._graphs is not None else {}
        if is_root:
            more.update(self._common)
            if (traits := self._traits.get(span.user_id or "")) is not None:
                more["user"] = traits
        common = {"project_name": place.project or self._project, "tags": self._tags if is_root else None}
        if told := span.attributes.get(context.TRACE_UPDATE):  # also on a thread of dspy.Parallel, below the root
            self._told.put(place.trace_id, [*self._told.get(place.trace_id, ()), told])
        if place.is_trace:
            arguments = {**payloads.trace_arguments(span, place, more), **common}
            for told in self._told.pop(place.trace_id, ()):
                arguments = payloads.add_update(arguments, told)
            traces.append(arguments)
            common["tags"], more = None, {}
        if needs_span(span) or not place.is_trace:
            if is_root and not place.is_trace:
                more.update(payloads.joined_metadata(span))
            arguments = {**payloads.span_arguments(span, place, more), **common}
            below.append(payloads.add_update(arguments, span.attributes.get(context.SPAN_UPDATE)))

    @hookimpl
    def identify(self, user_id: str, traits: Mapping[str, Any]) -> None:
        """Remember what is known of a user, for the metadata of the user's later traces."""
        self._traits.put(user_id, {**self._traits.get(user_id, {}), **traits})

    @hookimpl
    def track_signal(self, signal: Signal) -> None:
        """Score the trace of the signal's interaction, and return when Opik has confirmed it.

        Raises:
            UnknownEventError: no trace belongs to the event id.
            NotDeliveredError: Opik didn't take the score.
        """
        place = self._places.of_event(signal.event_id)
        if place is None:
            raise UnknownEventError(
                f"no trace is known for event id {signal.event_id!r}: it is no UUIDv7, and no interaction of this "
                "process had it lately. Leave event ids to Spanhook, or give UUIDv7s, to score across processes."
            )
        scores: list[Any] = [score(signal, place, self._project)]
        self._connection.deliver(
            [("feedback-scores", place.trace_id)], lambda client: client.log_traces_feedback_scores(scores)
        )

    @hookimpl
    def flush(self, timeout: float) -> bool:
        """Tell Opik of the traces that still run, where it has their spans: without a trace nobody would see them."""
        traces = [self._running(running) for running in self._places.without_trace()]
        try:
            if traces:
                self._deliver(traces, [], timeout)
        except RetryLater:
            return False
        return True

    @hookimpl
    def shutdown(self, timeout: float) -> None:
        """Let the SDK's threads go. Whatever was taken is confirmed or counted as failed by now."""
        self._connection.close(timeout)


_backends: weakref.WeakSet[OpikBackend] = weakref.WeakSet()


def _reset_all_after_fork() -> None:
    for backend in list(_backends):
        backend.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all_after_fork)
