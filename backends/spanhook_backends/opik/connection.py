"""The SDK's client, and handing records to it so that what became of them is known."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from spanhook import RetryLater, SpanhookError
from spanhook_backends.opik import sdk
from spanhook_backends.opik.acks import Acks, Key, watched

PATIENCE_S = 5  # with a request that hangs, until the tracer has a look; the SDK itself gives up after about 310 s
LOOK_EVERY_S = 1.0
QUIET_PINGS = 3  # without an attempt between them; the SDK pings every 10 s
TIDY_S = 0.3  # for the SDK to remove its temporary files
TIDIES = "ReplayManager"  # the SDK's thread that does


class NotDeliveredError(SpanhookError):
    """Opik didn't take a batch. It has a class for each kind of reason, as the tracer's log says each kind once."""


class RefusedError(NotDeliveredError):
    """Opik's server doesn't like what it was sent."""


class UnauthorizedError(NotDeliveredError):
    """Opik's server doesn't know the key or the workspace."""


class ServerFailingError(NotDeliveredError, RetryLater):
    """Opik's server, or the way to it, is broken, and the SDK has given up."""


class UnreachableError(NotDeliveredError, RetryLater):
    """Nobody answers."""


@dataclass(slots=True)
class _Sent:
    """What the SDK has been given and Opik has not confirmed."""

    keys: tuple[Key, ...]
    dropped: int  # messages that the SDK had dropped before
    attempts: int = -1
    pings: int = 0


class Connection:
    """One `opik.Opik` with a connection of its own. `deliver` belongs to the backend's thread, `close` to any.

    The SDK batches, compresses, retries and, while the server can't be reached, keeps and replays. What it was handed
    is awaited, so that the tracer's counts and its `flush` tell the truth, and an outage fills the tracer's own queue.
    """

    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments
        self._clients: list[sdk.Opik] = []
        self._tidying: list[threading.Thread] = []
        self._closed = threading.Event()
        self._open()
        # Registered after the SDK's own handler, so it runs before it: that one would wait without end.
        atexit.register(self.close)

    def _open(self) -> None:
        self._pid = os.getpid()
        self._sent: _Sent | None = None
        self._acks = Acks()
        others = set(threading.enumerate())
        with watched(self._acks):
            # The SDK shares one connection among clients of equal configuration. The project is named with every
            # record, so this name is never used but to have a connection, and its queue, for ourselves.
            self._client = sdk.Opik(project_name=f"spanhook-{uuid.uuid4()}", **self._arguments)
        self._clients.append(self._client)
        self._tidying += [one for one in threading.enumerate() if one.name == TIDIES and one not in others]

    @property
    def url(self) -> str:
        """Where it sends to."""
        return str(self._client.config.url_override)

    def deliver(self, keys: Iterable[Key], send: Callable[[sdk.Opik], None], patience_s: float = PATIENCE_S) -> None:
        """Have the SDK send what `send` gives it, and wait until Opik has confirmed all of `keys`.

        Called again with the same keys it goes on waiting: the SDK has them.

        Raises:
            NotDeliveredError: with the reason; if it is a RetryLater too, the same should be given again.
        """
        if self._pid != os.getpid():
            self._open()  # a forked worker: the SDK's threads stayed with the parent
        client, keys = self._client, tuple(keys)
        if self._sent is None or self._sent.keys != keys:
            self._acks.expect(keys)
            self._sent = _Sent(keys, client.get_errors_report().total_dropped_messages)
            send(client)
        sent = self._sent
        client.flush(timeout=int(min(patience_s, PATIENCE_S)))
        if sent.attempts != self._acks.attempts:
            sent.attempts, sent.pings = self._acks.attempts, self._acks.pings
        if not self._acks.wait(0.0):
            self._explain_missing(client, sent)
        self._sent = None

    def _explain_missing(self, client: sdk.Opik, sent: _Sent) -> None:
        """Raise what keeps Opik from confirming; return if it does after all."""
        error: NotDeliveredError | None = None
        report, status = client.get_errors_report(), self._acks.refusal
        if status is not None and status < 400:  # whatever the SDK was told where a redirect has led it
            error = _explain(status, "", self.url)
        elif report.total_dropped_messages > sent.dropped:
            failure = report.failures[-1] if report.failures else None
            detail = "" if failure is None else failure.detail or failure.reason.value
            if key := client.config.api_key:
                detail = detail.replace(key, "[redacted]")  # a server may repeat it
            error = _explain(None if failure is None else failure.status_code, detail, self.url)
        elif status is not None:  # it also gives up without a note, after a 429 for example
            error = _explain(status, "", self.url)
        elif self._acks.wait(LOOK_EVERY_S):
            return
        elif self._acks.pings >= sent.pings + QUIET_PINGS:
            error = NotDeliveredError(f"{self.url} answers, but Opik's SDK did not send it; its own log may say why")
        if error is None:
            raise UnreachableError(f"no answer from {self.url}; is `host` right?", after_s=0)
        self._sent = None  # the SDK no longer has it
        raise error

    def close(self, timeout_s: float = 0.0) -> None:
        """Let the SDK's threads go, waiting for them if `timeout_s` is a second at least. A second call is a no-op.

        It always waits a moment for the SDK's temporary files, which hold what was not sent: the process may end next.
        """
        if not self._closed.is_set():
            self._closed.set()
            for client in self._clients:
                if timeout_s >= 1 and client is self._client and self._pid == os.getpid():
                    client.end(timeout=int(timeout_s))
                else:
                    client.end(flush=False)
        for thread in self._tidying:
            thread.join(TIDY_S)
        atexit.unregister(self.close)


def _explain(status: int | None, detail: str, url: str) -> NotDeliveredError:
    """An error for people: the SDK has given a message up after this answer."""
    detail = detail.rpartition("body: ")[2][:300]
    if status in (401, 403):
        return UnauthorizedError(f"{url} answered HTTP {status}: check api_key and workspace. {detail}")
    if status is not None and 300 <= status < 400:
        return RefusedError(f"{url} answered HTTP {status}, a redirect: set `host` to where Opik is")
    if status is not None and 400 <= status < 500 and status != 429:
        return RefusedError(f"{url} refused it with HTTP {status}. {detail}")
    if status is not None:
        return ServerFailingError(f"{url} answered HTTP {status} to every attempt. {detail}")
    return ServerFailingError(f"{url}: {detail}")


def _is_not_ours(record: logging.LogRecord) -> bool:
    return not record.threadName or not record.threadName.startswith("spanhook-")


# What it says of our own flushes, once a batch, the tracer says once, with the number and the reason.
logging.getLogger("opik.message_processing.flush_reporter").addFilter(_is_not_ours)
