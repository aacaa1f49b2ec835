"""Every span to any receiver of OpenTelemetry's protocol, with the ids that it has everywhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from spanhook import ConfigError, Signal, Span, TracingSettings, Trait, hookimpl
from spanhook_backends.bounded import Bounded
from spanhook_backends.oddities import ODDITIES
from spanhook_backends.otel.replay import Replay
from spanhook_backends.otel.spans import Attributes, readable
from spanhook_backends.otlp import context, signals
from spanhook_backends.otlp.conventions import Names
from spanhook_backends.otlp.convert import PREFIX, Converter, traits_of
from spanhook_backends.otlp.delivery import Delivery
from spanhook_backends.otlp.options import OTLPOptions
from spanhook_backends.otlp.target import resource_of, target_of

__all__ = ["OTLPBackend"]

MAX_USERS = 10_000  # whose traits are remembered
MAX_AGENTS = 10_000  # calls that ran a tool and have not ended


class OTLPBackend:
    """Sends spans by OTLP, or makes them again in a tracer provider of the program's.

    Args:
        options: `[backends.otlp]`.
        tracing: `[tracing]`.
        tracer_provider: from code: the program's own `opentelemetry.sdk.trace.TracerProvider`. Its resource, sampler,
            limits and processors are used; the options of the connection are not. It is flushed, but never shut down.

    Raises:
        ConfigError: an `OTEL_…` variable is wrong.
    """

    Options = OTLPOptions

    def __init__(
        self,
        options: OTLPOptions | None = None,
        tracing: TracingSettings | None = None,
        *,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        options = options if options is not None else OTLPOptions()
        if tracer_provider is not None and not isinstance(tracer_provider, TracerProvider):
            raise ConfigError(
                [f"tracer_provider: must be the SDK's TracerProvider, not {type(tracer_provider).__name__}"]
            )
        self._names = Names(options.conventions)
        if options.join:  # else no call of the program has to pay for these hooks
            self.span_kinds, self.only_ids = context.KINDS, True
            self.span_start, self.span_end, self.trace_parent = context.enter, context.leave, context.trace_parent
        self._converter = Converter(self._names)
        self._places = signals.Places()
        self._traits: Bounded[Attributes] = Bounded(MAX_USERS)
        self._agents: Bounded[None] = Bounded(MAX_AGENTS)
        self._provider = tracer_provider
        if tracer_provider is not None:
            self._replay = Replay(tracer_provider)
            self._resource = tracer_provider.resource
        else:
            self._resource = resource_of(options, tracing.service if tracing is not None else None)
            self._target = target_of(options)
        self._delivery: Delivery | None = None
        self._pid = 0

    @hookimpl
    def emit(self, spans: Sequence[Span]) -> None:
        """Send spans. Raises RetryLater, PartlyFailed or NotDelivered."""
        self._places.note(spans)
        for span in spans:
            if span.kind == "tool" and span.parent_id is not None:
                self._agents.put(span.parent_id, None)
        self._send([self._readable(span) for span in spans])

    @hookimpl
    def identify(self, user_id: str, traits: Mapping[str, Trait]) -> None:
        """Remember who a user is, for the spans that follow."""
        self._traits.put(user_id, {**self._traits.get(user_id, {}), **traits_of(traits)})

    @hookimpl
    def track_signal(self, signal: Signal) -> None:
        """Send a user's feedback. Raises RetryLater or NotDelivered."""
        place = self._places.of(signal.event_id)
        self._send([signals.as_readable(signal, place, self._names, self._resource)])

    @hookimpl
    def flush(self, timeout: float) -> bool:
        """Nothing is held here; a provider of the program's is flushed."""
        return self._provider is None or self._provider.force_flush(int(timeout * 1000))

    @hookimpl
    def shutdown(self, timeout: float) -> bool:
        """Let go of the connection; a provider of the program's stays."""
        if self._delivery is not None and self._pid == os.getpid():
            self._delivery.close()
        self._delivery = None
        return self.flush(timeout)

    def _readable(self, span: Span) -> ReadableSpan:
        is_agent = span.kind in ("module", "interaction") and span.span_id in self._agents
        attributes: Attributes = {}
        for convert in (
            partial(self._converter.attributes, traits=self._traits.get(span.user_id or "", {}), is_agent=is_agent),
            self._converter.content,
        ):
            try:
                attributes.update(convert(span))
            except ODDITIES:  # each for itself: what can be told of a span goes out
                attributes[f"{PREFIX}content_lost"] = True
        return readable(span, attributes, self._resource, parent_id=span.parent_id)

    def _send(self, spans: Sequence[ReadableSpan]) -> None:
        if self._provider is not None:
            for span in spans:
                self._replay.run(span)
            return
        if self._delivery is None or self._pid != os.getpid():  # forked: the parent's connection is the parent's
            self._delivery, self._pid = Delivery(self._target), os.getpid()
        self._delivery.send(spans)
