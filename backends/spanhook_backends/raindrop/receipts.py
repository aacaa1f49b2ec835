"""What became of a request that Raindrop's SDK made: it returns nothing of that, but it is logged.

The SDK sends from a thread of its own, which looks into the client's buffer each second, and in `flush()` on the
caller's. When the former is done nobody can learn, and while it waits for a server that hangs, the SDK holds up the
interpreter's exit by ten seconds. So everything is flushed as soon as it is handed over, on our thread, and is gone
from the buffer when the SDK's thread looks: until then, for milliseconds, a filter of its log keeps that one waiting.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from raindrop import analytics

GATE_TIMEOUT_S = 1.0

# How raindrop-ai words what is listened for; the tests fail when a release words it otherwise.
_ACCEPTED = "Adding event to buffer"
_LOOKS = "Starting flush"
_TOOK = "Flushing buffer size"
_SENDS = "Sending "
_SENT = "Request successful"
_FAILED = "Error sending request"

# The SDK says why a request failed at most every 30 seconds. What it sends with says of each how it was answered.
_HTTP_LOGGER = "urllib3.connectionpool"
_STATUS = 6  # of its arguments


@dataclass(slots=True)
class Receipt:
    """What was said on the thread that listens."""

    accepted: int = 0  # events that the SDK took into its buffer
    complaint: str = ""  # its last warning or error
    heard: bool = False  # it said that it looked into its buffer, as it always does
    sends: int = 0  # requests that it made
    sent: int = 0  # of these, how many went well
    status: int | None = None  # how the last request was answered; None: not at all
    redirect: int | None = None  # with what a request was sent elsewhere first
    failure: str = ""  # why a request failed, if the SDK says so
    holds_gate: bool = False

    def note(self, record: logging.LogRecord) -> None:
        """Take in a log line."""
        if record.name == _HTTP_LOGGER:
            answer = record.args[_STATUS] if isinstance(record.args, tuple) and len(record.args) > _STATUS else None
            if isinstance(answer, int):
                self.status = answer
                if self.redirect is None and 300 <= answer < 400:
                    self.redirect = answer
            return
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            self.complaint = text
        self.accepted += text.startswith(_ACCEPTED)
        self.sent += text.startswith(_SENT)
        self.heard = self.heard or text.startswith(_TOOK)
        if text.startswith(_SENDS):
            self.sends, self.status = self.sends + 1, None
        elif text.startswith(_FAILED):
            self.failure = text.partition("): ")[2]


class SDKLog:
    """Listens to what is logged of requests, on the threads that ask for it, and shows nothing of it there.

    There is one in a process.
    """

    def __init__(self) -> None:
        self._ears = (_Ear(analytics.__name__, self), _Ear(_HTTP_LOGGER, self))
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        # In a forked child no other thread lives, but one of the parent's may have held a lock, or been listening.
        self._lock = threading.Lock()
        self._gate = threading.Lock()
        self._receipts: dict[int, Receipt] = {}
        for ear in self._ears:
            ear.close()

    @contextmanager
    def listening(self) -> Iterator[Receipt]:
        """For handing events over to a client and flushing it, in the block and on its thread."""
        thread, receipt = threading.get_ident(), Receipt(holds_gate=self._gate.acquire(timeout=GATE_TIMEOUT_S))
        with self._lock:
            self._receipts[thread] = receipt
            for ear in self._ears:
                ear.open()
        try:
            yield receipt
        finally:
            with self._lock:
                del self._receipts[thread]
                if not self._receipts:
                    for ear in self._ears:
                        ear.close()
            self._open_gate(receipt)

    def hear(self, record: logging.LogRecord) -> bool:
        """Take in a log line of the current thread. Whether the thread listens: then the line was for us."""
        receipt = self._receipts.get(threading.get_ident())
        if receipt is not None:
            receipt.note(record)
            if receipt.heard:
                self._open_gate(receipt)
        elif record.msg == _LOOKS and self._gate.acquire(timeout=GATE_TIMEOUT_S):
            self._gate.release()
        return receipt is not None

    def _open_gate(self, receipt: Receipt) -> None:
        if receipt.holds_gate:
            receipt.holds_gate = False
            self._gate.release()


class _Ear(logging.Filter):
    """A filter on a logger: hears everything, and shows no more than would be seen without it."""

    def __init__(self, name_of_logger: str, log: SDKLog) -> None:
        super().__init__()
        self._logger = logging.getLogger(name_of_logger)
        self._log = log
        self._level: int | None = None  # the logger's own, while it has ours

    def open(self) -> None:
        """Begin to hear, or go on. Under the log's lock."""
        if self._logger.level != logging.DEBUG:  # at first, or someone has changed it
            self._level = self._logger.level
            self._logger.setLevel(logging.DEBUG)
        self._logger.addFilter(self)

    def close(self) -> None:
        """Leave the logger as it was. Under the log's lock."""
        self._logger.removeFilter(self)
        if self._level is not None and self._logger.level == logging.DEBUG:
            self._logger.setLevel(self._level)
        self._level = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Called by the logger, on the thread that logs."""
        is_ours = self._log.hear(record)
        if record.name != _HTTP_LOGGER and (is_ours or analytics.debug_logs):
            return bool(analytics.debug_logs)
        return record.levelno >= self._visible_level()

    def _visible_level(self) -> int:
        own = self._logger.level if self._level is None else self._level
        parent = self._logger.parent
        return own or (parent.getEffectiveLevel() if parent is not None else logging.WARNING)


sdk_log = SDKLog()
