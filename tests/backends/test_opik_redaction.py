"""What goes to Opik by another way than that of finished spans is redacted, too."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import dspy
import pytest

pytest.importorskip("opik")

import opik
import opik_contract
from opik_case import OpikCase, opik_case, options
from opik_server import OpikServer, Request

from spanhook import configure

MAIL = "alice@example.com"
KEY = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCD"
REDACT = {"patterns": [r"[\w.]+@[\w.]+"]}


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """All that servers have got, as text."""
    seen: list[str] = []
    take = OpikServer.take

    def noting(self: OpikServer, request: Request, raw: bytes) -> Any:
        answer = take(self, request, raw)
        seen.append(str(request.items))
        return answer

    monkeypatch.setattr(OpikServer, "take", noting)
    return lambda: "\n".join(seen)


@pytest.fixture
def clients(case: OpikCase) -> Iterator[None]:
    """The program's own Opik client, on the same server."""
    client = opik.Opik(**options(case.opik))
    before = opik.get_global_client()
    opik.set_global_client(client)
    yield
    client.end(timeout=5)
    opik.set_global_client(before)
    before.end(flush=False)


@pytest.fixture
def case(bodies: Callable[[], str]) -> Iterator[OpikCase]:
    with opik_case(redact=REDACT) as running:
        yield running


def test_a_trace_that_runs(case: OpikCase, bodies: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown before redaction has seen its root."""
    monkeypatch.setattr("spanhook_backends.opik.places.SHOW_AFTER_S", 0.0)
    with case.tracer.interaction(user_id=MAIL, convo_id=f"chat of {MAIL}", event=f"mail of {MAIL}"):
        with case.tracer.span("x"):
            pass
        assert case.trace().fields["name"] == "interaction"
    assert case.trace().fields["name"] == "mail of [redacted]"
    assert MAIL not in bodies()


@pytest.mark.usefixtures("clients")
def test_a_trace_of_the_programs_own_that_is_joined(case: OpikCase, bodies: Callable[[], str]) -> None:
    """The program sends that itself, so nothing that Spanhook knows is put into it."""

    @opik.track
    def handler() -> None:
        with case.tracer.interaction(user_id=MAIL, convo_id=f"chat of {MAIL}"), case.tracer.span("x"):
            pass

    handler()
    opik.flush_tracker()
    assert case.trace("handler").span("interaction")["metadata"]["thread_id"] == "chat of [redacted]"
    assert MAIL not in bodies()


@pytest.mark.parametrize("far", [0, 80])
def test_instructions_in_a_diagram(bodies: Callable[[], str], far: int) -> None:
    """Also where a label ends in the middle of a secret."""
    with opik_case(redact=REDACT, log_graph=True) as case:
        signature = dspy.Signature("question -> answer", f"{'x' * far} Use {KEY} for {MAIL}.")
        dspy.Predict(signature)(question="Why?")
        diagram = case.trace().fields["metadata"]["_opik_graph_definition"]["data"]
    assert "#91;redacted#93;" in diagram
    assert KEY[:8] not in bodies()
    assert MAIL not in bodies()


def test_a_diagram_without_content(bodies: Callable[[], str]) -> None:
    """With `capture = "metadata"` it has the modules, and none of their instructions."""
    with opik_case(tracing={"capture": "metadata"}, log_graph=True) as case:
        dspy.Predict(dspy.Signature("question -> answer", "Answer like a pirate."))(question="Why?")
        diagram = case.trace().fields["metadata"]["_opik_graph_definition"]["data"]
    assert "<b>Predict</b>" in diagram
    assert "pirate" not in bodies()


def test_a_key_that_the_server_repeats(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The line about a refusal has the server's answer, without the key that may stand in it."""

    def refuse(headers: dict[str, str], *_: Any) -> None:
        raise opik_contract.Refusal(f"unknown key {headers['authorization']}", 401)

    monkeypatch.setattr(opik_contract, "check_headers", refuse)
    with OpikServer() as server, caplog.at_level(logging.WARNING, "spanhook"):
        given = options(server, api_key="plain-looking-key")
        tracer = configure({"tracing": {"backends": ["opik"]}, "backends": {"opik": given}})
        with tracer.span("x"):
            pass
        assert not tracer.flush(30.0)
    said = [record.getMessage() for record in caplog.records if record.name == "spanhook"]
    assert "unknown key [redacted]" in said[0]
    assert "plain-looking-key" not in str(said)
    tracer.shutdown()
