"""What is logged of what Raindrop's backend could not deliver at a flush or at the end."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("raindrop")

from raindrop_server import RaindropServer
from raindrop_tracing import WAIT_S, wait_for_threads

import spanhook
from doubles import wait_for
from spanhook_backends.raindrop import delivery


@pytest.fixture
def tracer(raindrop: RaindropServer) -> spanhook.Tracer:
    """With a pattern of the user's, for the server's name."""
    return spanhook.configure(
        {
            "tracing": {"backends": ["raindrop"]},
            "redact": {"patterns": [r"127\.0\.0\.1|localhost|LM and tool"]},
            "backends": {"raindrop": raindrop.options},
        }
    )


def call(tracer: spanhook.Tracer) -> None:
    with tracer.span("search", kind="tool"):
        pass


def test_the_users_patterns_hold_at_the_end(
    raindrop: RaindropServer, tracer: spanhook.Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    """An interaction still runs, and Raindrop refuses its event."""
    with tracer.interaction():
        call(tracer)
        assert tracer.flush(WAIT_S)
        raindrop.fault(400)
        assert tracer.shutdown(WAIT_S) is False
    (said,) = [message for message in caplog.messages if "HTTP 400 from" in message]
    assert "backend raindrop: shutdown failed" in said
    assert "[redacted]" in said
    assert "127.0.0.1" not in caplog.text
    assert "localhost" not in caplog.text
    assert "backend raindrop: shutdown: NotDelivered" in tracer.stats().errors


def test_the_users_patterns_hold_at_a_flush(
    raindrop: RaindropServer, tracer: spanhook.Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls of an interaction that still runs are refused; what comes later is delivered."""
    with tracer.interaction():
        call(tracer)
        raindrop.fault(400)
        assert tracer.flush(WAIT_S) is False
        raindrop.heal()
        assert tracer.flush(WAIT_S)
    assert tracer.shutdown(WAIT_S)
    (said,) = [message for message in caplog.messages if "HTTP 400" in message]
    assert said.startswith("backend raindrop: flush failed")
    assert "1 of 1 [redacted] spans" in said


def test_what_is_refused_when_nobody_waits_any_more_is_said(
    raindrop: RaindropServer, tracer: spanhook.Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the server's words, which nobody could check there."""
    with tracer.interaction():
        call(tracer)
        assert tracer.flush(WAIT_S)
        raindrop.fault(400, hang=True)
        assert tracer.shutdown(2) is False  # time enough to send it, and not to be answered
    wait_for(lambda: all(thread.name != "spanhook-raindrop" for thread in threading.enumerate()))  # the backend's own
    raindrop.heal()
    wait_for_threads()
    said = [message for message in caplog.messages if "nobody waited" in message]
    assert said == ["backend raindrop: not delivered, when nobody waited any more: NotDelivered"]


def test_the_users_patterns_hold_where_a_text_is_cut(
    raindrop: RaindropServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a secret is not known as one: what an event's error says is cut only when its secrets are out."""

    def fails(*_: object) -> None:
        raise ValueError(f"tenant-{'4' * 20} " * 100)

    monkeypatch.setattr(delivery, "event_of", fails)
    tracer = spanhook.configure(
        {
            "tracing": {"backends": ["raindrop"]},
            "redact": {"patterns": [r"tenant-\d{20}"]},
            "backends": {"raindrop": raindrop.options},
        }
    )
    call(tracer)
    assert tracer.shutdown(WAIT_S) is False
    assert "can't be made: ValueError: [redacted] [redacted]" in caplog.text
    assert "tenant-" not in caplog.text
