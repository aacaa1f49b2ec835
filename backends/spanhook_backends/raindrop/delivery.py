"""What one process sends to Raindrop: events, LM and tool spans, identities and signals."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from raindrop import Raindrop

from spanhook import PartlyFailed, Signal, Span, warn
from spanhook_backends.oddities import ODDITIES
from spanhook_backends.raindrop.event_ids import EventIds
from spanhook_backends.raindrop.events import event_name, event_of, signal_of, traits_of
from spanhook_backends.raindrop.options import RaindropOptions
from spanhook_backends.raindrop.otel_spans import as_readable
from spanhook_backends.raindrop.retries import Holds, NotDelivered, Outlasting, Retries, Work
from spanhook_backends.raindrop.sender import Item, Sender
from spanhook_backends.raindrop.span_sender import SpanSender
from spanhook_backends.raindrop.texts import id_text
from spanhook_backends.raindrop.traces import Gathered, Trace, TracedCall, Traces


class Delivery:
    """Sends, and returns when Raindrop has it.

    Raises:
        NotDelivered: it was refused; from `flush` and `shutdown` if that came within their time.
        PartlyFailed: from `emit`: some of it was.
        RetryLater: from the same: Raindrop can't be reached. Called again with the same, they go on.
    """

    def __init__(self, options: RaindropOptions, service: str | None, ids: EventIds) -> None:
        self._options = options
        self._ids = ids
        self._retries = Retries()
        self._outlasting = Outlasting(self._retries)
        self._traces = Traces(keep_calls=options.tracing_enabled)
        self._sender = Sender(options, self._retries)
        self._spans: SpanSender | None = None
        if options.tracing_enabled:
            headers = {"Authorization": f"Bearer {options.key}"}
            if options.project is not None:
                headers["X-Raindrop-Project-Id"] = options.project
            self._spans = SpanSender(
                options.traces_url,
                headers,
                service,
                tools_by_otel=not options.bypass_otel_for_tools,
                retries=self._retries,
            )

    def emit(self, spans: Sequence[Span]) -> None:
        """Take in spans that have ended; send the events of the traces that ended with them, and their calls."""
        self._outlasting.run(spans, lambda: self._emit(spans))

    def _emit(self, spans: Sequence[Span]) -> None:
        done = self._traces.add(spans)
        calls = [call for trace in done for call in trace.take_calls(self._event_names(trace))]
        if self._traces.has_late_or_many_calls():
            calls += self._traces.take_calls()
        try:
            self._send(done, calls)
        except NotDelivered as error:
            if error.is_final:
                raise
            failed = sum(any(holds(span) for holds in error.lost) for span in spans)
            raise PartlyFailed(max(1, failed), str(error)) from None  # what is lost may be of an earlier batch

    def identify(self, user_id: str, traits: Mapping[str, Any]) -> None:
        """Send who a user is."""

        def hand_over(client: Raindrop) -> None:
            client.identify(id_text(user_id), traits_of(traits))

        self._outlasting.run(traits, lambda: self._sender.send([Item("identity", hand_over)]))

    def track_signal(self, signal: Signal) -> None:
        """Send a user's feedback."""
        arguments = signal_of(signal, self._ids.of(signal.event_id))

        def hand_over(client: Raindrop) -> None:
            client.track_signal(**arguments)

        self._outlasting.run(signal, lambda: self._sender.send([Item(f"signal {signal.name}", hand_over)]))

    def flush(self, timeout_s: float) -> bool:
        """Send the calls of running traces too; whether all has arrived."""
        calls = self._traces.take_calls()
        return (not calls or _within(timeout_s, partial(self._send, [], calls))) and self._sender.was_certain()

    def shutdown(self, timeout_s: float) -> bool:
        """Send everything as it is now and let go of the connections; whether all has arrived."""
        self._retries.close()
        done, calls = self._traces.end_all(), self._traces.take_calls()
        calls += [call for trace in done for call in trace.take_calls({})]
        return _within(timeout_s, partial(self._send, done, calls), self._release) and self._sender.was_certain()

    def _release(self) -> None:
        self._sender.release()
        if self._spans is not None:
            self._spans.release()

    def _send(self, traces: Sequence[Trace], calls: Sequence[TracedCall]) -> None:
        problems: list[NotDelivered] = []
        items: list[Item] = []
        for trace in traces:
            for event_id, found in _own_events(trace).items():
                try:
                    arguments = event_of(found, self._options, self._ids.of(event_id))
                except ODDITIES as error:  # the events of others go out
                    said = f"event {event_id} can't be made: {type(error).__name__}: {error}"
                    problems.append(NotDelivered(said, lost=[_holder(trace, found, event_id)]))
                    continue
                if arguments is not None:
                    hand_over = partial(_track, arguments)
                    items.append(Item(f"event {arguments['event_id']}", hand_over, _holder(trace, found, event_id)))
        try:
            self._sender.send(items)
        except NotDelivered as error:
            if error.is_final:
                raise
            problems.append(error)
        if self._spans is not None and calls:
            try:
                self._spans.send([self._readable(self._spans, call) for call in calls])
            except NotDelivered as error:
                problems.append(error)
        if problems:
            lost = [holds for problem in problems for holds in problem.lost]
            raise NotDelivered("; ".join(map(str, problems)), lost=lost)

    def _event_names(self, trace: Trace) -> dict[str, str]:
        return {event_id: event_name(found.root, self._options) for event_id, found in _own_events(trace).items()}

    def _readable(self, sender: SpanSender, call: TracedCall) -> ReadableSpan:
        return as_readable(call, self._ids.of(call.span.event_id), self._options, sender.resource)


def _own_events(trace: Trace) -> dict[str, Gathered]:
    """What this process sends events of; that of an interaction is sent by the process in which it began."""
    is_remote = trace.root is not None and trace.root.event_is_remote
    return {key: found for key, found in trace.events().items() if not (is_remote and found is trace)}


def _holder(trace: Trace, found: Gathered, event_id: str) -> Holds:
    """Which spans an event is made of."""
    return lambda span: span.span_id in trace.parents and (found is trace or span.event_id == event_id)


def _track(arguments: Mapping[str, Any], client: Raindrop) -> None:
    client.track_ai(**arguments)


def _within(timeout_s: float, work: Callable[[], None], then: Callable[[], None] = lambda: None) -> bool:
    """Do `work`, and `then` what comes after it, and wait for that no longer than `timeout_s` seconds.

    Returns whether `work` is done, and raises what it has raised: the tracer logs that, without what the user's
    settings take out. What it raises later reaches nobody, and a line says no more than that.
    """
    made = Work(None, work)
    is_late = threading.Event()

    def run() -> None:
        made.run()
        if made.error is not None and is_late.is_set():
            warn("backend raindrop: not delivered, when nobody waited any more: %s", type(made.error).__name__)
        then()

    thread = threading.Thread(target=run, name="spanhook-raindrop-end", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter exits and lets nobody start a thread; the tracer does not wait for long
        run()
    else:
        thread.join(timeout_s)
    is_late.set()
    if made.error is not None:
        raise made.error
    return made.done.is_set()
