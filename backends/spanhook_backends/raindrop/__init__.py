"""Interactions as Raindrop's AI events, with their LM and tool spans, identities and signals: by Raindrop's own SDK."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from spanhook import Signal, Span, TracingSettings, Trait, hookimpl, warn
from spanhook_backends.raindrop.delivery import Delivery
from spanhook_backends.raindrop.event_ids import EventIds
from spanhook_backends.raindrop.options import RaindropOptions
from spanhook_backends.raindrop.retries import NotDelivered

__all__ = ["RaindropBackend"]


class RaindropBackend:
    """One event an interaction. A hook returns when Raindrop has what it was given, and raises if Raindrop refuses it.

    While Raindrop can't be reached the hooks say so by RetryLater, and what comes waits in the tracer's own queue.
    """

    Options = RaindropOptions

    def __init__(self, options: RaindropOptions | None = None, tracing: TracingSettings | None = None) -> None:
        self._options = options if options is not None else RaindropOptions()
        self._service = tracing.service if tracing is not None else None
        self._pid = os.getpid()
        self._ids = EventIds(self._options.event_id)
        if self._options.event_id is not None:  # else no call of the program has to pay for this hook

            @hookimpl
            def span_start(span: Span) -> None:
                self._ids.choose(span)

            self.span_start = span_start
        self._delivery: Delivery | None = None
        if self._options.key:
            self._delivery = self._new_delivery()
        else:
            warn(
                "backend raindrop: no api_key: nothing is sent to Raindrop. Under [backends.raindrop], set "
                'api_key = "${RAINDROP_WRITE_KEY}", or take "raindrop" out of the list of backends'
            )

    @hookimpl
    def emit(self, spans: Sequence[Span]) -> None:
        """Send the events of the traces that end with these spans. Raises NotDelivered."""
        self._here().emit(spans)

    @hookimpl
    def identify(self, user_id: str, traits: Mapping[str, Trait]) -> None:
        """Send who a user is. Raises NotDelivered."""
        self._here().identify(user_id, traits)

    @hookimpl
    def track_signal(self, signal: Signal) -> None:
        """Send a user's feedback. Raises NotDelivered."""
        self._here().track_signal(signal)

    @hookimpl
    def flush(self, timeout: float) -> bool:
        """Send the LM and tool spans of interactions that still run, too; their events follow when they end."""
        return self._delivery is None or self._here().flush(timeout)

    @hookimpl
    def shutdown(self, timeout: float) -> bool:
        """Send what there is of interactions that still run, and let the SDK go."""
        return self._delivery is None or self._here().shutdown(timeout)

    def _here(self) -> Delivery:
        if self._delivery is None:
            raise NotDelivered("nothing is sent without a key")
        if self._pid != os.getpid():  # forked: the parent's client and its threads are the parent's
            self._delivery, self._pid = self._new_delivery(), os.getpid()
        return self._delivery

    def _new_delivery(self) -> Delivery:
        return Delivery(self._options, self._service, self._ids)
