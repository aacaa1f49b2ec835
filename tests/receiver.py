"""A receiver of spans over HTTP that has troubles on demand, and a backend that sends to it.

with Receiver() as receiver:
    tracer = tracer_of(HTTPBackend(receiver.port))
    receiver.trouble = 503
    ...
    receiver.names          # of the spans that have arrived, by span id
"""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import spanhook
from doubles import WAIT_S
from http_server import Exchange, HTTPServer
from spanhook import RetryLater, Span

Trouble = int | Literal["hang", "hang up", "hang up late"]


class Receiver(HTTPServer):
    """Keeps what it gets in `store`, by span id; a later receiver on the same port may go on with it.

    Attributes:
        trouble: a status to answer with; "hang"; "hang up" before it has taken anything, or "hang up late", after.
        asked: set by the first request in trouble; clear it to wait for another one.
    """

    def __init__(self, port: int = 0, store: dict[str, str] | None = None) -> None:
        super().__init__(port)
        self.names: dict[str, str] = {} if store is None else store
        self.arrivals: Counter[str] = Counter()
        self.trouble: Trouble | None = None
        self.retry_after_s: int | None = None
        self.asked = threading.Event()
        self._changed = threading.Condition()
        self._released = threading.Event()

    def serve(self, exchange: Exchange) -> None:
        trouble = self.trouble
        if trouble is not None:
            self.asked.set()
        if trouble == "hang":
            self._released.wait(WAIT_S)
            return exchange.hang_up()
        if trouble == "hang up":
            return exchange.hang_up()
        if isinstance(trouble, int):
            headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
            return exchange.reply(trouble, b"", headers)
        with self._changed:
            for span_id, name in json.loads(exchange.body):
                self.names[span_id] = name
                self.arrivals[span_id] += 1
            self._changed.notify_all()
        if trouble == "hang up late":
            return exchange.hang_up()
        return exchange.reply(200, b"{}")

    def heal(self) -> None:
        """No trouble any more; who hangs, is let go."""
        self.trouble = None
        self._released.set()

    def release(self) -> None:
        self._released.set()

    def wait_for(self, condition: Any) -> None:
        """Wait until `condition()` holds; asked whenever something arrives."""
        with self._changed:
            assert self._changed.wait_for(condition, WAIT_S)


class HTTPBackend:
    """Posts the ids and names of spans as JSON."""

    def __init__(self, port: int, timeout_s: float = 5.0) -> None:
        self._port = port
        self._timeout_s = timeout_s

    @spanhook.hookimpl
    def emit(self, spans: Sequence[Span]) -> None:
        body = json.dumps([[span.span_id, span.name] for span in spans])
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout_s)
        try:
            connection.request("POST", "/spans", body)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise RetryLater(type(error).__name__) from error
        finally:
            connection.close()
        if response.status == 429 or response.status >= 500:
            asked = response.getheader("Retry-After")
            raise RetryLater(f"HTTP {response.status}", None if asked is None else float(asked))
        if response.status != 200:
            raise ConnectionError(f"HTTP {response.status}")
