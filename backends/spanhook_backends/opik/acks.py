"""What Opik's server has confirmed, read off the SDK's own HTTP traffic through its public client hook.

The SDK's `flush` also answers "done" for what it has put aside because the server could not be reached. Whether a
record arrived is known from the answer to the request that carried it, and from nothing else.
"""

from __future__ import annotations

import gzip
import re
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from spanhook_backends.opik import sdk

_KIND = re.compile(r"/v1/private/(traces|spans)(?:/batch|/(feedback-scores))?$")
_IDS = re.compile(rb'"id": ?"([0-9a-f-]{36})"')

Key = tuple[str, str]  # kind of record, id


class Acks:
    """The records of one client that are on their way. Thread-safe; the SDK's threads report, the backend's waits.

    Attributes:
        attempts: requests with records so far, whatever became of them.
        pings: how often the server has answered that it is alive.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pending: set[Key] = set()
        self._refusals: dict[Key, int] = {}
        self._sending = threading.local()  # what the request carries that its thread is about
        self.attempts = 0
        self.pings = 0

    def expect(self, keys: Iterable[Key]) -> None:
        """Wait for these from now on, and for no others."""
        with self._changed:
            self._pending = set(keys)
            self._refusals = {}

    def wait(self, timeout_s: float) -> bool:
        """Whether everything was confirmed, after at most `timeout_s` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, timeout_s)

    @property
    def refusal(self) -> int | None:
        """The HTTP status of the last answer to something that is still missing; None if there was none."""
        with self._changed:
            return next((self._refusals[key] for key in self._pending if key in self._refusals), None)

    def watch(self, http_client: httpx.Client) -> None:
        """Look at what a client sends and gets back from now on. What these hooks raised would be its request's."""
        http_client.event_hooks["request"].append(self._on_request)
        http_client.event_hooks["response"].append(self._on_response)

    def _on_request(self, request: httpx.Request) -> None:
        try:
            body = request.content
        except httpx.RequestNotRead:
            return  # a 307 or 308 sends the one before on, with the same body
        found = _KIND.search(request.url.path)
        self._sending.keys = {(found[2] or found[1], key) for key in _ids_of(body)} if found else None
        self.attempts += found is not None

    def _on_response(self, response: httpx.Response) -> None:
        keys: set[Key] | None = getattr(self._sending, "keys", None)
        if keys is None:
            self.pings += response.status_code == 200
            return
        if not response.has_redirect_location:
            self._sending.keys = None
        with self._changed:
            if response.is_success or response.status_code == 409:  # 409: it is there already
                self._pending -= keys
                self._changed.notify_all()
            else:
                for key in keys & self._pending:
                    self._refusals[key] = response.status_code


def _ids_of(body: bytes) -> set[str]:
    """Every id in a request's JSON; ids in the program's own data are harmless among them."""
    if body[:2] == b"\x1f\x8b":
        try:
            body = gzip.decompress(body)
        except (OSError, EOFError, zlib.error):  # none of the SDK's
            return set()
    return {found.decode() for found in _IDS.findall(body)}


_making = threading.local()


def _watch_new_client(http_client: Any) -> None:
    acks: Acks | None = getattr(_making, "acks", None)
    if acks is not None:
        acks.watch(http_client)


# The SDK keeps its hooks for good and calls them for every client of the process; ours looks at our own clients only.
sdk.add_httpx_client_hook(sdk.HttpxClientHook(client_modifier=_watch_new_client, client_init_arguments=None))


@contextmanager
def watched(acks: Acks) -> Iterator[None]:
    """Have the SDK's client that this thread makes in a `with` block report to `acks`."""
    _making.acks = acks
    try:
        yield
    finally:
        _making.acks = None
