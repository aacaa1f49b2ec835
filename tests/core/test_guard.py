"""The one guard between the program and everything that is not the program."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import spanhook
from doubles import WAIT_S, Memory, messages, tracer_of
from spanhook import ConfigError
from spanhook.guard import MAX_KEYS, Guard, attempt, describe, message_of, probe, warn


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class NoText(Exception):
    def __str__(self) -> Any:
        return 5


def test_an_error_is_swallowed_counted_and_logged_once(caplog):
    """Once for each place and kind, with what it was; the block says afterwards that it failed."""
    guard = Guard()
    with caplog.at_level(logging.WARNING, "spanhook"):
        for place, error in [
            ("a", ValueError("1")),
            ("a", ValueError("2")),
            ("a", KeyError("3")),
            ("b", ValueError("4")),
        ]:
            shield = guard(place)
            with shield:
                raise error
            assert shield.failed
    assert guard.counts() == {"a: ValueError": 2, "a: KeyError": 1, "b: ValueError": 1}
    assert messages(caplog.records) == [
        "a failed; the program goes on (logged once): ValueError: 1",
        "a failed; the program goes on (logged once): KeyError: '3'",
        "b failed; the program goes on (logged once): ValueError: 4",
    ]


def test_the_place_of_an_error_is_logged(caplog):
    """File and line, for who looks for a bug in a plugin; at DEBUG the whole traceback, as text."""
    guard = Guard()
    with caplog.at_level(logging.DEBUG, "spanhook"), guard("a"):
        raise ValueError("1")
    assert re.search(r"ValueError: 1 \(test_guard.py:\d+\)$", caplog.messages[0])
    assert 'raise ValueError("1")' in caplog.messages[1]


def test_a_block_that_goes_well():
    """Nothing is counted."""
    guard = Guard()
    shield = guard("a")
    with shield:
        pass
    assert not shield.failed
    assert guard.call("a", lambda x, y: x + y, 1, 2) == 3
    assert guard.counts() == {}


def test_one_guarded_call():
    """The same for a single call: its result, or None."""
    guard = Guard()
    assert guard.call("a", int, "x") is None
    assert guard.counts() == {"a: ValueError": 1}


STOPS = [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError]


@pytest.mark.parametrize("stop", STOPS)
def test_what_is_no_exception_passes_through(stop):
    """Interrupts, exits and cancellation are the program's."""
    guard = Guard()
    with pytest.raises(stop), guard("a"):
        raise stop
    with pytest.raises(stop):
        guard.call("a", lambda: (_ for _ in ()).throw(stop()))
    assert guard.counts() == {}


@pytest.mark.parametrize("stop", STOPS)
def test_on_our_own_threads_everything_is_held(stop):
    """There nobody else could take it, and the thread has to go on."""
    guard = Guard()
    shield = guard("a", everything=True)
    with shield:
        raise stop
    assert shield.failed
    assert guard.counts() == {f"a: {stop.__name__}": 1}


def test_an_error_is_described_on_one_short_line():
    """Also when its text is long, has line breaks, is missing, or can't be had."""
    assert describe(ValueError("a\n  b\tc")) == "ValueError: a b c"
    assert describe(ValueError()) == "ValueError"
    assert len(describe(ValueError("x" * 10_000))) == 500
    assert describe(Unprintable()) == "Unprintable: <exception without a printable message>"
    assert message_of(NoText()) == "<exception without a printable message>"


def test_an_error_without_a_text_is_guarded_too(caplog):
    """What describes an error must not fail itself."""
    guard = Guard()
    with caplog.at_level(logging.WARNING, "spanhook"), guard("a"):
        raise Unprintable
    assert guard.counts() == {"a: Unprintable": 1}
    assert len(caplog.records) == 1


def test_ever_new_errors_dont_fill_the_memory(caplog):
    """Beyond a thousand kinds the rest is counted together and logged once."""
    guard = Guard()
    with caplog.at_level(logging.WARNING, "spanhook"):
        for number in range(MAX_KEYS + 50):
            guard.refuse("plugin", f"reason {number}")
    counts = guard.counts()
    assert len(counts) == MAX_KEYS + 1
    assert counts["others"] == 50
    assert len(caplog.records) == MAX_KEYS + 1


def test_counts_are_right_over_threads():
    """Eight threads that fail a thousand times each, in the same place."""
    guard = Guard()

    def work() -> None:
        for _ in range(1_000):
            guard.call("a", int, "x")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert guard.counts() == {"a: ValueError": 8_000}


def test_the_guard_may_be_needed_while_it_counts():
    """The garbage collector runs a destructor that fails too, on the same thread, at any moment: no deadlock."""
    guard = Guard()
    done = threading.Event()

    def work() -> None:
        with guard._lock.here:  # as if in the middle of counting
            guard.call("a destructor", int, "x")
        done.set()

    threading.Thread(target=work, daemon=True).start()
    assert done.wait(WAIT_S)
    assert guard.counts() == {"a destructor: ValueError": 1}


def test_an_error_keeps_nothing_alive(caplog):
    """Neither the counts nor a log handler that stores records hold on to the program's objects."""

    class Precious:
        pass

    def fail() -> None:
        precious = Precious()
        alive.append(weakref.ref(precious))
        raise ValueError(precious)

    alive: list[Any] = []
    with caplog.at_level(logging.WARNING, "spanhook"):
        Guard().call("a", fail)
    gc.collect()
    assert alive[0]() is None


def test_a_log_handler_that_raises_is_held(monkeypatch):
    """A broken handler of the program's is not made worse by us."""

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError

    monkeypatch.setattr(logging.getLogger("spanhook"), "handlers", [Raising()])
    warn("%s", "text")
    guard = Guard()
    assert guard.call("a", int, "x") is None
    assert guard.counts() == {"a: ValueError": 1}


@pytest.mark.parametrize("said", [("region eu", "sk-%s" % ("a1B2" * 10)), (f"100% of region eu, sk-{'a1B2' * 10}",)])
def test_a_plugin_that_warns_tells_no_secret(said, caplog):
    """As an argument or in the message itself, in which a percent sign is one then."""
    spanhook.warn(*(("backend acme: no %s, %s", *said) if len(said) == 2 else said))
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("spanhook", "WARNING")
    assert "region eu, sk-[redacted]" in record.getMessage()


def test_an_attempt():
    """A result, or the exception, for its caller to explain."""
    assert attempt(lambda: 5) == (5, None)
    result, error = attempt(lambda: 1 / 0)
    assert result is None
    assert isinstance(error, ZeroDivisionError)
    with pytest.raises(SystemExit):
        attempt(lambda: exec("raise SystemExit"))


def test_a_message_gives_a_terminal_no_orders_and_tells_no_secrets(caplog):
    """An exception's text may be a model's answer: what we log of it is escaped, on one line, and redacted."""
    caplog.set_level(logging.DEBUG, "spanhook")
    error = ValueError("a\x1b]0;title\x07b\x9b2J\u202ec\rd\ne \x1b sk-proj-Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6")
    Guard().call("here", raises(error))
    warned, traced = caplog.records
    assert r"ValueError: a\x1b]0;title\x07b\x9b2J\u202ec d e \x1b sk-[redacted]" in warned.getMessage()
    for text in (warned.getMessage(), traced.getMessage()):
        assert not {"\x1b", "\x07", "\x9b", "\u202e", "\r"} & set(text)
        assert "Zm9v" not in text


def raises(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


class Nosy:
    """An extractor that raises with what it has seen."""

    @spanhook.hookimpl
    def span_end(self, span, call):
        raise KeyError(f"no price for {call.inputs}")


def test_the_user_s_own_rules_hold_for_our_log_too(caplog):
    """Patterns and fields, in an error's message, its traceback, and what is said of a wrong argument."""
    caplog.set_level(logging.DEBUG, "spanhook")
    rules = {"patterns": [r"CUST-\d{6}"], "fields": ["patient_id"]}
    tracer = tracer_of(Memory(), Nosy(), redact=rules)
    with tracer.span("a", q="for CUST-123456", patient_id=4711):
        pass
    tracer.track_signal("e", "n", "x" * 280 + " CUST-654321")  # type: ignore[arg-type]
    tracer.identify("u", {"CUST-111111": None})  # type: ignore[dict-item]
    assert "no price for {'q': 'for [redacted]', 'patient_id': [redacted]}" in caplog.text
    assert "rejected: signal_type must be one of" in caplog.text
    assert not re.search(r"CUST|4711", caplog.text)


def test_without_content_there_is_none_in_our_log(caplog):
    """`capture = "metadata"`: the type and the place of an error, and what is wrong without the value."""
    caplog.set_level(logging.DEBUG, "spanhook")
    tracer = tracer_of(Memory(), Nosy(), tracing={"capture": "metadata"})
    with tracer.span("a", q="content"):
        pass
    tracer.track_signal("e", "n", "content")  # type: ignore[arg-type]
    assert re.search(r"KeyError \(test_guard.py:\d+\)$", caplog.messages[0])
    assert caplog.messages[1:] == ["track_signal: rejected: signal_type must be one of default, feedback, edit"]


def test_what_can_t_be_cleaned_is_not_logged(caplog):
    """A pattern of the user's may take too long; that something failed is said all the same."""

    def fail(text: str) -> str:
        raise TimeoutError

    with caplog.at_level(logging.WARNING, "spanhook"):
        Guard(fail).call("a", int, "content")
    assert "text that could not be checked" in caplog.text
    assert "content" not in caplog.text


def test_a_wrong_configuration_gives_a_terminal_no_orders():
    """Python prints the error, which quotes keys of the file."""
    error = ConfigError(["unknown key \x1b]0;title\x07a\nb"])
    assert str(error) == r"unknown key \x1b]0;title\x07a\nb"


@pytest.mark.parametrize("stop", [SystemExit, GeneratorExit, asyncio.CancelledError, RuntimeError])
def test_an_exit_of_code_that_the_program_did_not_call(stop):
    """It ends nothing of the program's."""
    result, error = probe(raises(stop()))
    assert result is None
    assert isinstance(error, stop)


def test_an_interrupt_during_such_code_is_the_program_s():
    """Whoever raised it."""
    with pytest.raises(KeyboardInterrupt):
        probe(raises(KeyboardInterrupt()))


def test_an_exit_by_a_signal_during_such_code_is_the_program_s():
    """SIGTERM's handler as it is often written: it runs wherever the main thread is."""

    def leave(*_: Any) -> None:
        raise SystemExit(3)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        with pytest.raises(SystemExit):
            probe(lambda: signal.raise_signal(signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("before", "shown"),
    [("pass", "spanhook: it is late"), ("logging.basicConfig()", "WARNING:spanhook:it is late")],
)
def test_a_line_says_whose_it_is(before: str, shown: str) -> None:
    """Where the program has set up no logging, Python prints the message alone."""
    script = f"import logging; from spanhook.guard import warn; {before}; warn('it is %s', 'late')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [shown]
