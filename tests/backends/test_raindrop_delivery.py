"""What becomes of what Raindrop does not take at once: retried, counted, said, and never in the program's way."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any

import pytest

pytest.importorskip("raindrop")

import raindrop as sdk
from raindrop_server import RaindropServer
from raindrop_tracing import WAIT_S, traced, tracing, wait_for_threads

import spanhook
from http_server import Exchange, HTTPServer


def interact(tracer: spanhook.Tracer, text: str = "Why?", **identity: Any) -> str:
    """One interaction with an LM span and a tool span under it; its event id."""
    with tracer.interaction(**identity) as interaction:
        interaction.inputs, interaction.outputs = {"question": text}, {"answer": "Because."}
        with tracer.span("search", kind="tool", word=text):
            pass
    return interaction.event_id


def counted(tracer: spanhook.Tracer) -> spanhook.BackendStats:
    return tracer.stats().backends["raindrop"]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_wrong_key_is_said_once_and_counted(raindrop: RaindropServer, caplog: pytest.LogCaptureFixture) -> None:
    """401: nothing counts as delivered, flush says so, and one line says what to check."""
    with tracing(raindrop, api_key="rk-wrong") as tracer:
        for _ in range(3):
            interact(tracer)
            assert not tracer.flush(WAIT_S)
        stats = counted(tracer)
        assert (stats.accepted, stats.failed, stats.delivered) == (6, 6, 0)
    (refused,) = [line for line in warnings_of(caplog) if "401" in line]
    assert "check api_key" in refused
    assert "rk-wrong" not in caplog.text
    assert "not delivered: backend raindrop: 6 failed" in warnings_of(caplog)[-1]


def test_one_bad_event_takes_no_other_with_it(raindrop: RaindropServer, caplog: pytest.LogCaptureFixture) -> None:
    """400 for a request with something in it that Raindrop does not like: all else of that request arrives."""
    raindrop.fault(400, when=lambda body: b"poison" in body)
    with tracing(raindrop) as tracer:
        ids = [interact(tracer, text) for text in ("a", "b", "poison", "c")]
        assert not tracer.flush(WAIT_S)
        assert {event["event_id"] for event in raindrop.events} == {ids[0], ids[1], ids[3]}
        assert {span.event_id for span in raindrop.spans} == {ids[0], ids[1], ids[3]}
        assert (counted(tracer).delivered, counted(tracer).failed) == (6, 2)
        interact(tracer)
        assert tracer.flush(WAIT_S)
    assert any(ids[2] in line and "400" in line for line in warnings_of(caplog))


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_is_no_delivery(raindrop: RaindropServer, caplog: pytest.LogCaptureFixture, status: int) -> None:
    """The SDK follows it, and takes any page for a success: it counts as refused, and the log says what to set."""

    class Elsewhere(HTTPServer):
        def serve(self, exchange: Exchange) -> None:
            exchange.reply(200, b"<html>Welcome!</html>")

    class Redirecting(HTTPServer):
        def serve(self, exchange: Exchange) -> None:
            exchange.reply(status, headers={"Location": f"http://127.0.0.1:{elsewhere.port}{exchange.path}"})

    with Elsewhere() as elsewhere, Redirecting() as front:
        with tracing(raindrop, endpoint=f"http://127.0.0.1:{front.port}/v1/") as tracer:
            tracer.track_signal(interact(tracer), "thumbs_up")
            tracer.identify("u1")
            assert not tracer.flush(WAIT_S)
        assert (counted(tracer).delivered, counted(tracer).failed) == (0, 4)
    assert f"HTTP {status} from 127.0.0.1:{front.port}: a redirect; set endpoint" in warnings_of(caplog)[0]


@pytest.mark.parametrize("trouble", [{"status": 429}, {"status": 500}, {"status": 503}, {"hang_up": True}])
def test_trouble_that_passes_loses_nothing(raindrop: RaindropServer, trouble: dict[str, Any]) -> None:
    """Too many requests, a server error, a broken connection: tried again until it works, and nothing twice."""
    raindrop.fault(**trouble)
    with tracing(raindrop) as tracer:
        ids = [interact(tracer, user_id="u1") for _ in range(25)]
        tracer.identify("u1", {"name": "Alice"})
        tracer.track_signal(ids[0], "thumbs_up")
        raindrop.wait_for(lambda server: len(server.requests) > 2)
        assert counted(tracer).delivered == 0
        raindrop.heal()
        assert tracer.flush(WAIT_S)
        stats = counted(tracer)
        assert (stats.delivered, stats.failed) == (52, 0)
    assert [event["event_id"] for event in raindrop.events] == ids
    assert len(raindrop.spans) == 25
    assert (len(raindrop.identities), len(raindrop.signals)) == (1, 1)


def test_an_outage_is_said_when_it_begins_and_when_it_ends(
    raindrop: RaindropServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Two lines, whatever the number of events and attempts, and none of the SDK's own."""
    raindrop.fault(500)
    with tracing(raindrop) as tracer:
        for _ in range(30):
            interact(tracer)
        raindrop.wait_for(lambda server: len(server.requests) > 3)
        raindrop.heal()
        assert tracer.flush(WAIT_S)
    assert [line.split(":")[1].strip() for line in warnings_of(caplog)] == [
        "not reachable, will try again",
        "reachable again",
    ]


def test_a_flush_in_an_outage_is_honest(raindrop: RaindropServer) -> None:
    """False while nothing can be delivered; True as soon as everything was."""
    raindrop.fault(503)
    with tracing(raindrop) as tracer:
        interact(tracer)
        assert not tracer.flush(0.5)
        raindrop.heal()
        assert tracer.flush(WAIT_S)
        assert counted(tracer).delivered == 2


def test_spans_alone_in_trouble(raindrop: RaindropServer) -> None:
    """v1/traces answers 500 for a while, events go through: nothing is lost, no event is sent twice."""
    raindrop.fault(500, only="traces")
    with tracing(raindrop) as tracer:
        interact(tracer)
        raindrop.wait_for(lambda server: len(server.requests) > 2)
        raindrop.heal()
        assert tracer.flush(WAIT_S)
    assert [request.path for request in raindrop.requests].count("/v1/events/track") == 1
    assert len(raindrop.spans) == 1


@pytest.mark.parametrize("status", [400, 302])
def test_refused_spans_are_counted(raindrop: RaindropServer, caplog: pytest.LogCaptureFixture, status: int) -> None:
    """v1/traces answers 400 or a redirect: the event is there, the loss is counted and said."""
    raindrop.fault(status, only="traces")
    with tracing(raindrop) as tracer:
        interact(tracer)
        assert not tracer.flush(WAIT_S)
        assert counted(tracer).failed == 1
    assert len(raindrop.events) == 1
    assert any(f"1 of 1 LM and tool spans: HTTP {status}" in line for line in warnings_of(caplog))


def test_a_server_that_hangs_holds_up_nobody(raindrop: RaindropServer) -> None:
    """flush and shutdown keep within their timeout, and say that it was not enough; the loss is in the counts."""
    raindrop.fault(hang=True)
    with tracing(raindrop) as tracer:
        interact(tracer)
        raindrop.wait_for(lambda server: bool(server.requests))
        assert not tracer.flush(0.2)
        assert not tracer.shutdown(0.2)
        assert counted(tracer).queued == 2
        raindrop.heal()
        wait_for_threads()
        assert len(raindrop.spans) == 1


def test_nobody_waits_for_what_the_backend_has_left_to_do(raindrop: RaindropServer) -> None:
    """Shut down while what is left of a running interaction can't be sent: in time, and with False."""
    with tracing(raindrop) as tracer:
        with tracer.interaction():
            with tracer.span("search", kind="tool"):
                pass
            assert tracer.flush(WAIT_S)
            raindrop.fault(hang=True)
            assert not tracer.shutdown(0.2)
        raindrop.heal()
        wait_for_threads()


def test_when_the_sdks_log_is_off_nobody_can_tell(raindrop: RaindropServer, caplog: pytest.LogCaptureFixture) -> None:
    """`logging.disable` takes away the only sign of what became of a request: it is made once, and flush says False."""
    logging.disable(logging.CRITICAL)
    try:
        with tracing(raindrop) as tracer:
            interact(tracer)
            assert not tracer.flush(WAIT_S)
            assert tracer.flush(WAIT_S)
    finally:
        logging.disable(logging.NOTSET)
    assert len(raindrop.events) == 1
    with traced(raindrop) as tracer:
        interact(tracer)


def test_the_sdks_logger_is_left_as_it_was(raindrop: RaindropServer, caplog: pytest.LogCaptureFixture) -> None:
    """Its level and its filters; and while it is listened to, nothing more of it is seen than otherwise."""
    logger = logging.getLogger("raindrop.analytics")
    before = (logger.level, list(logger.filters))
    with caplog.at_level(logging.INFO, "raindrop"), traced(raindrop) as tracer:
        interact(tracer)
        assert tracer.flush(WAIT_S)
        logger.debug("of another client")
        logger.warning("of another client too")
    assert (logger.level, list(logger.filters)) == before
    seen = [record.getMessage() for record in caplog.records if record.name == logger.name]
    assert [line for line in seen if "another" in line] == ["of another client too"]
    assert not [line for line in seen if "buffer" in line]


def test_another_client_in_the_process(raindrop: RaindropServer) -> None:
    """A client of the program's own goes on as before, and its failures are none of ours."""
    own = sdk.Raindrop(
        api_key="rk-wrong", endpoint=raindrop.endpoint, auto_instrument=False, local_workshop_url=None, app_git=False
    )
    try:
        with traced(raindrop) as tracer:
            for number in range(20):
                own.track_ai("someone", "theirs", input=f"{number}")
                interact(tracer)
    finally:
        own.shutdown()
    assert len(raindrop.events) == 20
    assert sum(request.status == 401 for request in raindrop.requests) > 0


def test_many_events_go_in_batches(raindrop: RaindropServer) -> None:
    """Ten a request, as many as Raindrop takes, and each of them once."""
    with traced(raindrop, tracing_enabled=False) as tracer:
        ids = [interact(tracer) for _ in range(100)]
        assert tracer.flush(WAIT_S)
    assert sorted(event["event_id"] for event in raindrop.events) == sorted(ids)
    sizes = [len(json.loads(request.body)) for request in raindrop.requests]
    assert sum(sizes) == 100
    assert max(sizes) == 10


def test_two_tracers_at_once(raindrop: RaindropServer) -> None:
    """Two backends in one process hear each their own client."""
    with RaindropServer() as other:
        section = {"instrument": "wrapped"}
        other.fault(500)
        with tracing(raindrop, section=section) as one, tracing(other, section=section) as two:
            threads = [
                threading.Thread(target=lambda tracer=tracer: [interact(tracer) for _ in range(50)])
                for tracer in (one, two)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert one.flush(WAIT_S)
            assert counted(two).delivered == 0
            other.heal()
            assert two.flush(WAIT_S)
        assert (len(raindrop.events), len(other.events)) == (50, 50)
