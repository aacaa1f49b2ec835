"""The module for moving over from raindrop-dspy: its names, its parameters, and what it loses arrives."""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

import spanhook
from lm_server import LMServer
from programs import Answerer

pytest.importorskip("raindrop")

import raindrop as sdk
from raindrop_server import RaindropServer
from raindrop_tracing import WAIT_S

from spanhook_backends.raindrop.drop_in import RaindropDSPy, create_raindrop_dspy


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LMServer]:
    for name in ("RAINDROP_WRITE_KEY", "RAINDROP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with LMServer() as server, dspy.context(lm=server.lm()):
        yield server


class Slow(dspy.Module):
    """A program whose `forward` is a coroutine function."""

    def __init__(self) -> None:
        super().__init__()
        self.respond = dspy.Predict("question -> answer")

    async def forward(self, question: str) -> Any:
        if question == "fail":
            raise LookupError(question)
        return await self.respond.acall(question=question)


@pytest.mark.parametrize("make", [RaindropDSPy, create_raindrop_dspy])
def test_it_works_like_theirs(raindrop: RaindropServer, make: Any) -> None:
    """Made by the class or by the factory: wrap, identify, track_signal, flush, shutdown."""
    drop_in = make(api_key=raindrop.key, endpoint=raindrop.endpoint, user_id="u1", convo_id="c1", app_git=False)
    program = drop_in.wrap(Answerer())
    prediction = program(question="Why?")
    Answerer()(question="Not traced?")
    drop_in.identify("u1", traits={"plan": "pro"})
    drop_in.track_signal(
        spanhook.event_id_of(prediction), "thumbs_up", "feedback", comment="Good.", sentiment="POSITIVE", timestamp=None
    )
    assert drop_in.flush(WAIT_S)
    assert drop_in.shutdown(WAIT_S)
    (event,) = raindrop.events
    assert (event["user_id"], event["ai_data"]["convo_id"]) == ("u1", "c1")
    assert event["ai_data"]["output"] == prediction.answer
    assert raindrop.identities == [{"user_id": "u1", "traits": {"plan": "pro"}}]
    assert raindrop.signals[0]["event_id"] == event["event_id"]
    assert [span.kind for span in raindrop.spans] == ["llm"]
    assert raindrop.problems == []


def test_the_parameters_are_theirs() -> None:
    """Names, order, kinds and defaults of raindrop-dspy's, on the class, the factory and the methods."""
    theirs = pytest.importorskip("raindrop_dspy")

    def parameters(function: Any) -> list[tuple[str, Any, Any]]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    assert parameters(RaindropDSPy) == parameters(theirs.RaindropDSPy)
    assert parameters(create_raindrop_dspy) == parameters(theirs.create_raindrop_dspy)
    for method in ("wrap", "identify", "track_signal"):
        assert parameters(getattr(RaindropDSPy, method)) == parameters(getattr(theirs.RaindropDSPy, method))


def test_dict_style_access(raindrop: RaindropServer) -> None:
    """`raindrop["wrap"]` works, and warns as theirs does; an unknown key is a KeyError."""
    drop_in = RaindropDSPy(raindrop.key, endpoint=raindrop.endpoint, app_git=False)
    for key in ("wrap", "flush", "shutdown", "identify", "track_signal"):
        with pytest.warns(DeprecationWarning, match=f"raindrop.{key}"):
            assert drop_in[key] == getattr(drop_in, key)
    with pytest.raises(KeyError):
        drop_in["client"]


def test_wrapping_changes_nothing_of_the_program(raindrop: RaindropServer) -> None:
    """The same object comes back, its forward is its own, copies and saved state are as without; twice is once."""
    drop_in = RaindropDSPy(raindrop.key, endpoint=raindrop.endpoint, app_git=False)
    program = Answerer()
    assert drop_in.wrap(drop_in.wrap(program)) is program
    assert "forward" not in vars(program)
    copy.deepcopy(program)
    assert program.dump_state() == Answerer().dump_state()
    program(question="Why?")
    assert drop_in.flush(WAIT_S)
    assert len(raindrop.events) == 1


def test_an_async_forward(raindrop: RaindropServer, server: LMServer) -> None:
    """Several awaited at once: an event each, with its own input, output and tokens, and the program's own id."""
    ids = iter(["id-0", "id-1", "id-2"])
    drop_in = RaindropDSPy(raindrop.key, endpoint=raindrop.endpoint, event_id=lambda: next(ids), app_git=False)
    program = drop_in.wrap(drop_in.wrap(Slow()))

    async def run() -> list[Any]:
        return await asyncio.gather(*(program(question=f"{number}?") for number in range(3)))

    predictions = asyncio.run(run())
    assert drop_in.flush(WAIT_S)
    assert [event["event_id"] for event in sorted(raindrop.events, key=str)] == ["id-0", "id-1", "id-2"]
    for number, prediction in enumerate(predictions):
        (event,) = [event for event in raindrop.events if event["ai_data"]["input"] == f"{number}?"]
        assert event["event_id"] == spanhook.event_id_of(prediction)
        assert event["ai_data"]["output"] == prediction.answer
        assert event["properties"]["ai.usage.prompt_tokens"] == server.answer_to(prediction.answer).tokens.prompt
    assert {span.event_id for span in raindrop.spans} == {"id-0", "id-1", "id-2"}


def test_an_async_forward_that_fails(raindrop: RaindropServer) -> None:
    """The exception goes on unchanged and is told."""
    drop_in = RaindropDSPy(raindrop.key, endpoint=raindrop.endpoint, app_git=False)
    with pytest.raises(LookupError):
        asyncio.run(drop_in.wrap(Slow())(question="fail"))
    assert drop_in.flush(WAIT_S)
    assert raindrop.events[0]["properties"]["error.type"] == "LookupError"


def test_an_async_program_can_be_copied_and_saved(raindrop: RaindropServer, tmp_path: Path) -> None:
    """What was wrapped stays a program like any other: copies and saved programs work, with predictors of their own."""
    drop_in = RaindropDSPy(raindrop.key, endpoint=raindrop.endpoint, app_git=False)
    program = drop_in.wrap(Slow())
    copied = copy.deepcopy(program)
    copied.respond.demos = [dspy.Example(question="a", answer="b")]
    assert program.respond.demos == []
    assert asyncio.run(copied(question="Why?")).answer == "answer-1"
    program.save(tmp_path / "saved", save_program=True)
    allowed = {"allow_pickle": True} if "allow_pickle" in inspect.signature(dspy.load).parameters else {}
    loaded = dspy.load(tmp_path / "saved", **allowed)
    assert asyncio.run(loaded(question="Why?")).answer == "answer-2"


def test_the_environment_is_read_as_theirs_does(raindrop: RaindropServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """RAINDROP_WRITE_KEY and RAINDROP_ENDPOINT where nothing is given; what is given wins."""
    monkeypatch.setenv("RAINDROP_WRITE_KEY", raindrop.key)
    monkeypatch.setenv("RAINDROP_ENDPOINT", raindrop.endpoint)
    drop_in = RaindropDSPy(app_git=False)
    drop_in.wrap(Answerer())(question="Why?")
    assert drop_in.flush(WAIT_S)
    other = RaindropDSPy("rk-wrong", app_git=False)
    other.wrap(Answerer())(question="Why?")
    assert not other.flush(WAIT_S)
    assert len(raindrop.events) == 1


def test_without_a_key_the_program_runs(caplog: pytest.LogCaptureFixture) -> None:
    """One warning, as theirs has it, and nothing else."""
    with pytest.warns(UserWarning, match="no api_key"):
        drop_in = RaindropDSPy()
    assert drop_in.wrap(Answerer())(question="Why?").answer == "answer-1"
    assert asyncio.run(drop_in.wrap(Slow())(question="Why?")).answer == "answer-2"
    drop_in.flush()
    drop_in.shutdown()
    assert not [record for record in caplog.records if record.name.startswith(("spanhook", "raindrop"))]


def test_tools_of_one_module(raindrop: RaindropServer) -> None:
    """`wrap(module, tools=…)` is for this module; a `${` in a description is no reference to a variable."""
    everywhere = [{"type": "function", "function": {"name": "search", "description": "Costs ${amount}."}}]
    drop_in = RaindropDSPy(raindrop.key, endpoint=raindrop.endpoint, tools=everywhere, app_git=False)
    drop_in.wrap(Answerer())(question="One?")
    assert drop_in.flush(WAIT_S)
    drop_in.wrap(Answerer(), tools=[])(question="Two?")
    assert drop_in.flush(WAIT_S)
    assert drop_in.shutdown(WAIT_S)
    one, two = raindrop.spans
    assert [json.loads(tool)["description"] for tool in one.attributes["ai.prompt.tools"]] == ["Costs ${amount}."]
    assert two.attributes["ai.prompt.tools"] == []


def test_two_of_them_go_their_own_ways(raindrop: RaindropServer) -> None:
    """Two projects in one process; and a tracer of `spanhook.configure` beside them traces on."""
    one = RaindropDSPy(raindrop.key, project_id="one", endpoint=raindrop.endpoint, app_git=False)
    two = RaindropDSPy(raindrop.key, project_id="two", endpoint=raindrop.endpoint, app_git=False)
    one.wrap(Answerer())(question="One?")
    two.wrap(Answerer())(question="Two?")
    assert one.flush(WAIT_S)
    assert two.flush(WAIT_S)
    said = {request.headers["x-raindrop-project-id"] for request in raindrop.requests if b"Two?" in request.body}
    assert said == {"two"}
    assert [event["ai_data"]["input"] for event in raindrop.events] == ["One?", "Two?"]


def test_what_can_not_be_is_said_at_the_start() -> None:
    """Where raindrop-dspy ignores a slug that is none and sends to the default project."""
    with pytest.raises(spanhook.ConfigError, match="project_id"):
        RaindropDSPy("rk", project_id="Not A Slug")


def test_an_empty_text_is_none(raindrop: RaindropServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a variable that is not set comes in, and as raindrop-dspy takes it; also where RAINDROP_ENDPOINT is empty."""
    nothing = {"user_id": "", "convo_id": "", "project_id": "", "event_id": "", "event_name": ""}
    drop_in = RaindropDSPy(raindrop.key, endpoint=raindrop.endpoint, app_git=False, **nothing)
    prediction = drop_in.wrap(Answerer())(question="Why?")
    assert drop_in.shutdown(WAIT_S)
    (event,) = raindrop.events
    assert (event["user_id"], event["event"]) == ("unknown", "ai_generation")
    assert event["event_id"] == spanhook.event_id_of(prediction)
    assert not any("x-raindrop-project-id" in request.headers for request in raindrop.requests)
    monkeypatch.setenv("RAINDROP_ENDPOINT", "")
    RaindropDSPy("rk").shutdown(0.1)


def test_patching_libraries_has_no_use() -> None:
    """`disable_auto_instrument=False` is accepted, does nothing, and says so."""
    with pytest.warns(UserWarning, match="without patching"):
        RaindropDSPy("rk", disable_auto_instrument=False)


def test_their_client_can_be_ours(raindrop: RaindropServer) -> None:
    """`client=`: a client that the program has already."""
    client = sdk.Raindrop(raindrop.key, endpoint=raindrop.endpoint, local_workshop_url=None, app_git=False)
    try:
        drop_in = RaindropDSPy(client=client, endpoint=raindrop.endpoint, event_name="named")
        drop_in.wrap(Answerer())(question="Why?")
        assert drop_in.shutdown(WAIT_S)
    finally:
        client.shutdown()
    assert [event["event"] for event in raindrop.events] == ["named"]
