"""The one guard that shields the program from the tracer and from its plugins."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import traceback
import types
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from spanhook.printable import printable
from spanhook.processes import Lock, without_forks
from spanhook.redaction.patterns import redacted

logger = logging.getLogger("spanhook")

T = TypeVar("T")
Clean = Callable[[str], str]

MAX_MESSAGE_CHARS = 20_000  # of an error, of which the beginning is logged
MAX_KEYS = 1_000  # a plugin that fails in ever new ways must not fill the memory


class Guard:
    """Swallows what the tracer's own code or a plugin raises: counts it, and logs it once for each place and kind.

    Use `with guard("backend opik: emit"):`. `BaseException` (cancellation, exit, interrupt) passes through untouched,
    except with `everything`, for threads of our own that it would end. Thread-safe, and re-entrant: the garbage
    collector and signal handlers may run code that ends up here again.

    Args:
        clean: takes out of what is logged what the user's settings say; on any thread. It may raise.
        content: whether errors' messages may be logged, which may hold the program's content.
        hide: takes out of what errors say the secrets that plugins were given, and may repeat.
    """

    __slots__ = ("_clean", "_counts", "_hide", "_lock", "content")

    def __init__(self, clean: Clean = redacted, *, content: bool = True, hide: Clean = str) -> None:
        self._clean = clean
        self._hide = hide
        self.content = content
        self._counts: Counter[str] = Counter()
        self._lock = Lock()

    def __call__(self, place: str, *, everything: bool = False) -> _Shield:
        """A context manager for one risky piece of work at `place`; `.failed` tells afterwards."""
        return _Shield(self, place, BaseException if everything else Exception)

    def call(self, place: str, work: Callable[..., T], *arguments: Any) -> T | None:
        """The same for one call, and cheaper: its result, or None if it raised."""
        try:
            return work(*arguments)
        except Exception as error:  # noqa: BLE001 - this is the guard
            self.report(place, error)
            return None

    def shielded(self, place: str, work: Callable[..., T], *settings: Any) -> Callable[[Any], T | None]:
        """`work` with the same around it, and `settings` behind its argument: for what is called again and again."""

        def shielded_work(argument: Any) -> T | None:
            try:
                return work(argument, *settings)
            except Exception as error:  # noqa: BLE001 - this is the guard
                self.report(place, error)
                return None

        return shielded_work

    def counts(self) -> dict[str, int]:
        """How often each `place: kind of error` was met."""
        with self._lock.here:
            return dict(self._counts)

    def report(self, place: str, error: BaseException) -> None:
        """Count an error that was caught; log it when it is the first of its kind in this place."""
        if self._count(f"{place}: {type(error).__name__}"):
            # Without exc_info: a log record that holds a traceback would keep the program's frames alive.
            told = located(error, self.clean if self.content else None)
            self.warn("%s failed; the program goes on (logged once): %s", place, told)
            if self.content:
                said, _ = attempt(lambda: self._hide("".join(traceback.format_exception(error))))
                if said:
                    self._say(logging.DEBUG, "%s", said, keep="\n")

    def refuse(self, place: str, reason: str) -> None:
        """Count a value that can't be used; log the first of its kind."""
        if self._count(f"{place}: refused, {reason}"):
            self.warn("%s: refused (logged once): %s", place, reason)

    def warn(self, message: str, *arguments: object) -> None:
        """Log a warning without what the user's settings take out."""
        self._say(logging.WARNING, message, *arguments)

    def clean(self, value: object) -> str:
        """What may be logged of what somebody else says: an error, a server."""
        return self._cleaned(value, self._hide)

    def _cleaned(self, value: object, hide: Clean = str) -> str:
        text, _ = attempt(lambda: self._clean(hide(str(value))))
        return "<text that could not be checked>" if text is None else text

    def _say(self, level: int, message: str, *arguments: object, keep: str = "") -> None:
        if logger.isEnabledFor(level):
            shown = (
                argument if isinstance(argument, (int, float)) else self._cleaned(argument) for argument in arguments
            )
            say(level, message, *shown, keep=keep)

    def _count(self, key: str) -> bool:
        """Whether this was the first."""
        with self._lock.here:
            if key not in self._counts and len(self._counts) >= MAX_KEYS:
                key = "others"
            self._counts[key] += 1
            return self._counts[key] == 1


def guarded_start(place: str, begin: Callable[..., None], opener: Callable[..., Any]) -> Callable[..., None]:
    """A method that handles the start of a DSPy call by `begin(self, …, opener)`; its object has a `guard`."""

    def handle(self: Any, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        try:
            begin(self, call_id, instance, inputs, opener)
        except Exception as error:  # noqa: BLE001 - this is the guard
            self.guard.report(place, error)

    return handle


def guarded_end(place: str, end: Callable[..., None]) -> Callable[..., None]:
    """The same for the end of one."""

    def handle(self: Any, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        try:
            end(self, call_id, outputs, exception)
        except Exception as error:  # noqa: BLE001 - this is the guard
            self.guard.report(place, error)

    return handle


class _Shield:
    __slots__ = ("_caught", "_guard", "_place", "failed")

    def __init__(self, guard: Guard, place: str, caught: type[BaseException]) -> None:
        self._guard = guard
        self._place = place
        self._caught = caught
        self.failed = False

    def __enter__(self) -> _Shield:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or not isinstance(error, self._caught):
            return False
        self.failed = True
        self._guard.report(self._place, error)
        return True


def warn(message: str, *arguments: object) -> None:
    """Log a warning of a plugin's, on the logger `spanhook`: `spanhook.warn("backend acme: no region %s", region)`.

    Without the secrets that are known by their look. Never raises, whatever the program's log handlers do; on any
    thread, and no fork comes in the middle of it. `spanhook check` shows it, too.

    Args:
        message: what to say, with `%s` for each of the arguments.
        arguments: what may be long, or have anything in it.
    """
    if not arguments:  # it may be made of anything, too
        message, arguments = "%s", (message,)
    say(logging.WARNING, message, *arguments)


def say(level: int, message: str, *arguments: object, keep: str = "") -> None:
    """Log something, without the secrets in it that are known by their look and without orders to a terminal.

    A log handler of the program's that raises must not turn it into the program's problem, and none is left in the
    middle of its work by a fork. `keep`: characters that are none of a terminal's orders.
    """

    def log() -> None:
        shown = [a if isinstance(a, (int, float)) else printable(redacted(str(a)), keep=keep) for a in arguments]
        # Where a program has no logging, Python prints the message alone, and nobody would know whose it is.
        said = message if logger.hasHandlers() else f"spanhook: {message}"
        with without_forks():
            logger.log(level, said, *shown)

    if logger.isEnabledFor(level):
        attempt(log)


def describe(error: BaseException, hide: Clean | None = redacted) -> str:
    """`Type: message`, on one line and without secrets, even for an exception whose `__str__` raises.

    Args:
        error: what was raised.
        hide: takes the secrets out; None leaves the message out.
    """
    kind = type(error).__name__
    if hide is None or not (message := message_of(error)):
        return kind
    return one_line(f"{kind}: {message}", hide)


def one_line(text: str, hide: Clean = redacted) -> str:
    """What may be logged of a text that may be of any length and have secrets in it."""
    return hide(" ".join(text[:MAX_MESSAGE_CHARS].split()))[:500]  # in this order: half a key is not known as one


def located(error: BaseException, hide: Clean | None = redacted) -> str:
    """The same with the file and line that raised it: for people who look for a bug in their plugin."""
    raised_at = error.__traceback__
    while raised_at is not None and raised_at.tb_next is not None:
        raised_at = raised_at.tb_next
    if raised_at is None:
        return describe(error, hide)
    file = os.path.basename(raised_at.tb_frame.f_code.co_filename)
    return f"{describe(error, hide)} ({file}:{raised_at.tb_lineno})"


def message_of(error: BaseException) -> str:
    """The exception's text; a mark in its place when its own `__str__` raises."""
    message, failure = probe(lambda: str.__str__(str(error)))  # a plain one, if it is of a class of the program's
    return "<exception without a printable message>" if failure is not None or message is None else message


def attempt(work: Callable[..., T], *arguments: Any) -> tuple[T | None, Exception | None]:
    """Run a stranger's code whose failure is for the caller to explain: its result, or what it raised."""
    try:
        return work(*arguments), None
    except Exception as error:  # noqa: BLE001 - part of the guard
        return None, error


def probe(work: Callable[..., T], *arguments: Any) -> tuple[T | None, BaseException | None]:
    """Run code of the program's which it did not call itself: its result, or what it raised.

    An exit that such code raises is not the program's outcome, and does not reach it. What comes from outside while it
    runs passes through: an interrupt, and what a signal's handler raises.
    """
    try:
        return work(*arguments), None
    except Exception as error:  # noqa: BLE001 - part of the guard
        return None, error
    except _EXITS as error:
        if _is_from_outside(error):
            raise
        return None, error


# No task or generator is cancelled from outside in the middle of a call that is not its own.
_EXITS = (SystemExit, GeneratorExit, asyncio.CancelledError)


def _is_from_outside(error: BaseException) -> bool:
    """Whether a signal's handler has raised it: on the main thread that may happen anywhere."""
    handlers = [_code(signal.getsignal(number)) for number in signal.valid_signals()]
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code is code for frame, _ in frames for code in handlers if code is not None)


def _code(handler: Any) -> types.CodeType | None:
    function = handler.__func__ if type(handler) is types.MethodType else handler
    return function.__code__ if type(function) is types.FunctionType else None
