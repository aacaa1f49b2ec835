"""Raindrop, Opik and structlog at once, from one tracing.toml: one id, one signal, and each on its own feet."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
import pytest

pytest.importorskip("opik")
pytest.importorskip("raindrop")

from opik_server import OpikServer
from raindrop_server import RaindropServer

import spanhook
from lm_server import LMServer
from programs import Answerer

WAIT_S = 30.0
BACKENDS = ("raindrop", "opik", "structlog")
FILE = """
[tracing]
backends = [
    "raindrop",
    "opik",
    "structlog",
]

[delivery]
exit_timeout_s = 0.5

[backends.raindrop]
api_key = "{raindrop.key}"
endpoint = "{raindrop.endpoint}"
app_git = false

[backends.opik]
host = "{opik.url}"
api_key = "{opik.api_key}"
workspace = "{opik.workspace}"

[backends.structlog]
format = "json"
"""


@dataclass
class Places:
    """The two services, the log, and the file that names them."""

    raindrop: RaindropServer
    opik: OpikServer
    printed: Callable[[], list[dict[str, Any]]]
    file: Path

    def leave_out(self, backend: str) -> None:
        """Remove one line of the file."""
        text = self.file.read_text()
        line = f'    "{backend}",\n'
        assert text.count(line) == 1
        self.file.write_text(text.replace(line, ""))

    def ids(self) -> dict[str, list[str]]:
        """By what id each place knows the interactions that it has heard of."""
        return {
            "raindrop": [event["event_id"] for event in self.raindrop.events],
            "opik": [trace.fields["id"] for trace in self.opik.traces],
            "structlog": sorted({line["event_id"] for line in self.printed() if "span_id" in line}),
        }

    def scored(self) -> dict[str, list[tuple[str, str]]]:
        """The signals that each place has got: which event, and what of it."""
        return {
            "raindrop": [(signal["event_id"], signal["signal_name"]) for signal in self.raindrop.signals],
            "opik": [(score["id"], score["name"]) for score in self.opik.scores],
            "structlog": [(line["event_id"], line["signal_name"]) for line in self.printed() if "signal_name" in line],
        }


@pytest.fixture
def places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Places]:
    lines: list[dict[str, Any]] = []

    def printed() -> list[dict[str, Any]]:
        lines.extend(json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{"))
        return lines

    with RaindropServer() as raindrop, OpikServer() as opik, LMServer() as lm, dspy.context(lm=lm.lm()):
        file = tmp_path / "tracing.toml"
        file.write_text(FILE.format(raindrop=raindrop, opik=opik))
        yield Places(raindrop, opik, printed, file)
        assert raindrop.problems == []
        assert opik.refused == []


def interact(tracer: spanhook.Tracer) -> str:
    """One interaction and a thumb for it; its event id."""
    with tracer.interaction(user_id="u1", convo_id="c1", event="chat") as interaction:
        Answerer()(question="Why?")
    assert tracer.track_signal(interaction.event_id, "thumbs_up", "feedback", comment="Good.", sentiment="POSITIVE")
    return interaction.event_id


def test_an_interaction_has_one_id_and_a_signal_reaches_all(places: Places) -> None:
    """The program's id is Raindrop's event, Opik's trace and the log's; one call gives all of them the thumb."""
    tracer = spanhook.configure()  # it finds the file
    event_id = interact(tracer)
    assert tracer.flush(WAIT_S), tracer.stats()
    assert places.ids() == {name: [event_id] for name in BACKENDS}
    assert places.scored() == {name: [(event_id, "thumbs_up")] for name in BACKENDS}
    (trace,) = places.opik.traces
    assert trace.scores["thumbs_up"]["reason"] == "Good."
    assert places.raindrop.signals[0]["properties"]["comment"] == "Good."


@pytest.mark.parametrize("backend", BACKENDS)
def test_removing_a_line_removes_a_backend(places: Places, backend: str) -> None:
    """Its options may stay where they are; the other two go on as before."""
    places.leave_out(backend)
    tracer = spanhook.configure()
    event_id = interact(tracer)
    assert tracer.flush(WAIT_S), tracer.stats()
    assert places.ids() == {name: [] if name == backend else [event_id] for name in BACKENDS}
    assert places.scored() == {name: [] if name == backend else [(event_id, "thumbs_up")] for name in BACKENDS}
    assert set(tracer.stats().backends) == set(BACKENDS) - {backend}


@pytest.mark.parametrize("trouble", ["hang", "refused"])
@pytest.mark.parametrize("broken", ["raindrop", "opik"])
def test_an_outage_of_one_leaves_the_others_whole(
    places: Places, broken: str, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hangs, or a port where nobody listens: the other two have everything, and the loss is counted."""
    monkeypatch.setenv("OPIK_CONNECTION_MONITOR_PING_INTERVAL", "0.5")
    server = getattr(places, broken)
    with contextlib.ExitStack() as outage:
        if trouble == "refused":
            server.__exit__()
        elif broken == "raindrop":
            server.fault(hang=True)
            outage.callback(server.heal)
        else:
            outage.enter_context(server.fail("hang"))
        tracer = spanhook.configure()
        check_an_outage(places, tracer, broken)
    # What the SDKs' threads still try has to end.
    with type(server)(port=server.port) if trouble == "refused" else contextlib.nullcontext():
        while left := [thread for thread in threading.enumerate() if thread.name.startswith("spanhook-")]:
            left[0].join(WAIT_S)


def check_an_outage(places: Places, tracer: spanhook.Tracer, broken: str) -> None:
    event_ids = [interact(tracer) for _ in range(3)]
    well = [name for name in BACKENDS if name != broken]
    assert not tracer.flush(2.0)

    def have(name: str) -> bool:
        stats = tracer.stats().backends[name]
        return stats.delivered == stats.accepted

    assert [name for name in well if not have(name)] == []
    ids, scored = places.ids(), places.scored()
    for name in well:
        assert sorted(ids[name]) == sorted(event_ids)
        assert [event_id for event_id, _ in scored[name]] == event_ids
    assert not have(broken)
    tracer.shutdown(0.5)
    assert tracer.stats().backends[broken].lost()
    assert [name for name in well if tracer.stats().backends[name].lost()] == []
