"""The SDK's client, and handing records to it so that what became of them is known."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from spanhook_backends.opik import sdk
from spanhook_backends.opik.acks import Acks, Key, watched

FLUSH_S = 600  # the SDK itself gives up on a request that hangs after about 310 s
LOOK_EVERY_S = 1.0
GIVE_UP_S = 600.0  # with a server that can't be reached; what waits behind is in the tracer's own bounded queue
QUIET_PINGS = 3  # without an attempt between them; the SDK pings every 10 s


class NotDeliveredError(Exception):
    """Opik didn't take a batch. It has a class for each kind of reason, as the tracer's log says each kind once."""


class RefusedError(NotDeliveredError):
    """Opik's server doesn't like what it was sent."""


class UnauthorizedError(NotDeliveredError):
    """Opik's server doesn't know the key or the workspace."""


class ServerFailingError(NotDeliveredError):
    """Opik's server, or the way to it, is broken."""


class UnreachableError(NotDeliveredError):
    """Nobody answers."""


class Connection:
    """One `opik.Opik` with a connection of its own. `deliver` belongs to the backend's thread, `close` to any.

    The SDK batches, compresses, retries and, while the server can't be reached, keeps and replays. What it was handed
    is awaited, so that the tracer's counts and its `flush` tell the truth, and an outage fills the tracer's own queue.
    """

    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments
        self._clients: list[sdk.Opik] = []
        self._closed = threading.Event()
        self._open()
        # Registered after the SDK's own handler, so it runs before it: that one would wait without end.
        atexit.register(self.close)

    def _open(self) -> None:
        self._pid = os.getpid()
        self._acks = Acks()
        with watched(self._acks):
            # The SDK shares one connection among clients of equal configuration. The project is named with every
            # record, so this name is never used but to have a connection, and its queue, for ourselves.
            self._client = sdk.Opik(project_name=f"spanhook-{uuid.uuid4()}", **self._arguments)
        self._clients.append(self._client)

    @property
    def url(self) -> str:
        """Where it sends to."""
        return str(self._client.config.url_override)

    def deliver(self, keys: Iterable[Key], send: Callable[[sdk.Opik], None]) -> None:
        """Have the SDK send what `send` gives it, and wait until Opik has confirmed all of `keys`.

        Raises:
            NotDeliveredError: with the reason.
        """
        if self._pid != os.getpid():
            self._open()  # a forked worker: the SDK's threads stayed with the parent
        client = self._client
        self._acks.expect(keys)
        lost = client.get_errors_report().total_dropped_messages
        deadline = time.monotonic() + GIVE_UP_S
        attempts, pings = -1, 0
        send(client)
        while True:
            client.flush(timeout=FLUSH_S)
            if attempts != self._acks.attempts:
                attempts, pings = self._acks.attempts, self._acks.pings
            if self._acks.wait(0.0):
                return
            report = client.get_errors_report()
            if report.total_dropped_messages > lost:
                failure = report.failures[-1] if report.failures else None
                detail = "" if failure is None else failure.detail or failure.reason.value
                raise _explain(None if failure is None else failure.status_code, detail, self.url)
            if (status := self._acks.refusal) is not None:  # it also gives up without a note, after a 429 for example
                raise _explain(status, "", self.url)
            if self._closed.is_set():
                raise UnreachableError(f"shut down before {self.url} had answered")
            if self._acks.wait(LOOK_EVERY_S):
                return
            if self._acks.pings >= pings + QUIET_PINGS:
                raise NotDeliveredError(f"{self.url} answers, but Opik's SDK did not send it; its own log may say why")
            if time.monotonic() > deadline:
                raise UnreachableError(f"no connection to {self.url} for {GIVE_UP_S:.0f} s; is `host` right?")

    def close(self, timeout_s: float = 0.0) -> None:
        """Let the SDK's threads go, waiting for them if `timeout_s` is a second at least. A second call is a no-op."""
        if self._closed.is_set():
            return
        self._closed.set()
        atexit.unregister(self.close)
        for client in self._clients:
            if timeout_s >= 1 and client is self._client and self._pid == os.getpid():
                client.end(timeout=int(timeout_s))
            else:
                client.end(flush=False)


def _explain(status: int | None, detail: str, url: str) -> NotDeliveredError:
    """An error for people: the SDK has given a message up after this answer."""
    detail = detail.rpartition("body: ")[2][:300]
    if status in (401, 403):
        return UnauthorizedError(f"{url} answered HTTP {status}: check api_key and workspace. {detail}")
    if status is not None and 400 <= status < 500 and status != 429:
        return RefusedError(f"{url} refused it with HTTP {status}. {detail}")
    if status is not None:
        return ServerFailingError(f"{url} answered HTTP {status} to every attempt. {detail}")
    return ServerFailingError(f"{url}: {detail}")


def _is_not_ours(record: logging.LogRecord) -> bool:
    return not record.threadName or not record.threadName.startswith("spanhook-")


# What it says of our own flushes, once a batch, the tracer says once, with the number and the reason.
logging.getLogger("opik.message_processing.flush_reporter").addFilter(_is_not_ours)
