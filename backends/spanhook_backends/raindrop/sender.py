"""Handing over to Raindrop's SDK, and again what it gave up on, until Raindrop has it or refuses it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from raindrop import Raindrop

from spanhook_backends.raindrop.options import RaindropOptions
from spanhook_backends.raindrop.receipts import Receipt, sdk_log
from spanhook_backends.raindrop.retries import Attempt, Holds, NotDelivered, Retries

BATCH = 10  # events in a request: the SDK's own size
# The SDK says what went wrong at most every 30 seconds: if requests seem to fail for longer and it says nothing, there
# is no telling.
LONGEST_SILENCE_S = 40.0
WORKSHOP_VARIABLES = ("RAINDROP_LOCAL_DEBUGGER", "RAINDROP_WORKSHOP")


class Item(NamedTuple):
    """An event, an identity or a signal."""

    what: str
    hand_over: Callable[[Raindrop], object]
    holds: Holds = lambda span: False


Refused = tuple[Item, str]  # and why


class Sender:
    """A client of Raindrop's SDK, used by one thread at a time.

    Args:
        retries: how what can't be delivered now is repeated.
    """

    def __init__(self, options: RaindropOptions, retries: Retries) -> None:
        self._owns_client = options.client is None
        self._client = options.client if options.client is not None else _new_client(options)
        self._host = options.host
        self._retries = retries
        self._lock = threading.Lock()
        self._silent_since: float | None = None
        self._is_certain = True

    def send(self, items: Sequence[Item]) -> None:
        """Hand over, and see to it that all of it arrives. Blocks while Raindrop can't be reached.

        Raises:
            NotDelivered: something was refused, after all the rest had been delivered, or nothing more can be.
        """
        refused: list[Refused] = []
        with self._lock:
            for start in range(0, len(items), BATCH):
                refused += self._send_batch(items[start : start + BATCH])
        if refused:
            item, why = refused[0]
            lost = [one.holds for one, _ in refused]
            raise NotDelivered(f"{len(refused)} of {len(items)}: {item.what}: {why}", lost=lost)

    def was_certain(self) -> bool:
        """Whether it is known of everything since the last time that this was asked what became of it."""
        was, self._is_certain = self._is_certain, True
        return was

    def release(self) -> None:
        """Let go of the client. Takes up to a second, until the SDK's own thread has seen it."""
        with self._lock:
            if self._owns_client:
                with suppress(RuntimeError):  # its thread could never be started: see _hand_over
                    self._client.shutdown()

    def _send_batch(self, items: Sequence[Item]) -> list[Refused]:
        """Deliver what one request can hold; returns what of it was refused."""
        refused: list[Refused] = []

        def attempt() -> Attempt:
            nonlocal items
            with sdk_log.listening() as receipt:
                items, rejected = _hand_over(self._client, items, receipt)
            refused.extend(rejected)
            return self._read(receipt) if items else Attempt("delivered")

        made = self._retries.run(attempt)
        if made.outcome == "unknown":
            self._is_certain = False
        elif made.advice:
            raise NotDelivered(f"{made.reason}: {made.advice}", is_final=True)
        elif made.outcome == "refused" and len(items) == 1:
            refused.append((items[0], made.reason))
        elif made.outcome == "refused":  # it may be for one of them only
            half = len(items) // 2
            refused += self._send_batch(items[:half]) + self._send_batch(items[half:])
        return refused

    def _read(self, receipt: Receipt) -> Attempt:
        if receipt.redirect is not None:  # the SDK follows it, and takes any page for a success
            return Attempt("refused", f"HTTP {receipt.redirect} from {self._host}", receipt.redirect)
        if receipt.sends and receipt.sent == receipt.sends:
            self._silent_since = None
            return Attempt("delivered")
        status = receipt.status
        if status is not None and status >= 300:
            is_final = status < 500 and status != 429
            return Attempt("refused" if is_final else "unreachable", f"HTTP {status} from {self._host}", status)
        if receipt.failure:
            self._silent_since = None
            return Attempt("unreachable", receipt.failure)
        if not receipt.sends or status is not None:
            return Attempt("unknown")  # the program has switched the log off, or the SDK words it otherwise
        now = time.monotonic()
        self._silent_since = now if self._silent_since is None else self._silent_since
        is_too_long = now - self._silent_since > LONGEST_SILENCE_S
        return Attempt("unknown" if is_too_long else "unreachable", f"no answer from {self._host}")


def _hand_over(client: Raindrop, items: Sequence[Item], receipt: Receipt) -> tuple[Sequence[Item], list[Refused]]:
    """Put items into the client's buffer and have it sent; what was put there, and why other things were not."""
    accepted: list[Item] = []
    refused: list[Refused] = []
    for item in items:
        before, receipt.complaint = receipt.accepted, ""
        # While the interpreter exits the SDK can't start its thread, and raises; it has the event nevertheless.
        with suppress(RuntimeError):
            item.hand_over(client)
        if receipt.accepted > before:
            accepted.append(item)
        else:
            refused.append((item, receipt.complaint))
    client.flush()
    if not receipt.heard:  # nothing can be heard at all
        return items, []
    return accepted, refused


def _new_client(options: RaindropOptions) -> Raindrop:
    git = None if options.app_git is None else options.app_git.model_dump(exclude_none=True)
    # Unasked, the SDK would look for a server on a port of this machine, and send it a copy of everything.
    more: dict[str, Any] = {} if any(map(os.environ.get, WORKSHOP_VARIABLES)) else {"local_workshop_url": None}
    more["app_git"] = False if git is None else git or True
    return Raindrop(
        api_key=options.key,
        project_id=options.project_id,
        endpoint=options.base_url,
        tracing_enabled=False,  # it would set up tracing for the whole process
        auto_instrument=False,
        debug_logs=options.debug,
        **more,
    )
