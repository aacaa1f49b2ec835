"""`[backends.raindrop]`: what each option does, and what is refused at the start."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM

from programs import Answerer

pytest.importorskip("raindrop")

import raindrop as sdk
from raindrop_server import RaindropServer
from raindrop_tracing import WAIT_S, traced, tracing

import spanhook


@pytest.fixture(autouse=True)
def _an_lm() -> Iterator[None]:
    with dspy.context(lm=DummyLM([{"answer": "Yes."}] * 9)):
        yield


def configure(**options: Any) -> spanhook.Tracer:
    return spanhook.configure({"tracing": {"backends": ["raindrop"]}, "backends": {"raindrop": options}})


@pytest.mark.parametrize("key", [None, "", "  "])
def test_without_a_key_nothing_is_sent(
    raindrop: RaindropServer, caplog: pytest.LogCaptureFixture, key: str | None
) -> None:
    """One warning at the start, the program runs, and nothing counts as delivered."""
    tracer = configure(endpoint=raindrop.endpoint, **({} if key is None else {"api_key": key}))
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "no api_key" in warning
    assert 'api_key = "${RAINDROP_WRITE_KEY}"' in warning
    Answerer()(question="Why?")
    tracer.identify("u1")
    tracer.track_signal("e1", "clicked")
    tracer.flush()
    assert tracer.stats().backends["raindrop"].delivered == 0
    assert len([record for record in caplog.records if "no api_key" in record.getMessage()]) == 1
    assert raindrop.requests == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"api_key": "rk-a\nb"}, "backends.raindrop.api_key: must be one line of ASCII characters"),
        ({"api_key": "rk-€"}, "backends.raindrop.api_key: must be one line of ASCII characters"),
        ({"project_id": "Not A Slug"}, "backends.raindrop.project_id: must be a project's slug"),
        ({"project_id": "-x"}, "backends.raindrop.project_id"),
        ({"project_id": "x" * 64}, "backends.raindrop.project_id"),
        (
            {"endpoint": "not a url"},
            "backends.raindrop.endpoint: must be a URL like https://api.raindrop.ai/v1/",
        ),
        ({"endpoint": "ftp://example.com/"}, "backends.raindrop.endpoint"),
        ({"endpoint": "http://"}, "backends.raindrop.endpoint"),
        ({"endpoint": "http://host:port/"}, "backends.raindrop.endpoint"),
        ({"endpoint": "http://user:pass@host/"}, "backends.raindrop.endpoint: must be a URL without user"),
        ({"event_name": " "}, "backends.raindrop.event_name: must not be blank"),
        (
            {"event_id": ""},
            "backends.raindrop.event_id: must be a string that is not blank, or, from code",
        ),
        ({"event_id": 7}, "backends.raindrop.event_id"),
        ({"app_git": "yes"}, "backends.raindrop.app_git: must be true, false or a table"),
        ({"app_git": {"comit_sha": "x"}}, "backends.raindrop.app_git.comit_sha: unknown option"),
        ({"tools": "search"}, "backends.raindrop.tools"),
        ({"user_id": ""}, "backends.raindrop.user_id"),
        ({"client": "x"}, "backends.raindrop.client: only from code: a raindrop.Raindrop"),
        ({"api_kei": "x"}, "backends.raindrop.api_kei: unknown option (did you mean 'api_key'?)"),
        ({"tracing_enabled": "perhaps"}, "backends.raindrop.tracing_enabled"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], problem: str) -> None:
    """Each with its name and what it must be, before anything is configured; no value is shown that may be secret."""
    with pytest.raises(spanhook.ConfigError) as refused:
        configure(**{"api_key": "rk-hidden", **options})
    assert problem in str(refused.value)
    assert "rk-hidden" not in str(refused.value)
    assert "pass@" not in str(refused.value)


def test_a_key_is_never_shown() -> None:
    """Not where the options are printed."""
    from spanhook_backends.raindrop import RaindropBackend

    assert "rk-hidden" not in repr(RaindropBackend.Options(api_key="rk-hidden"))


def test_who_it_is_where_the_interaction_does_not_say(raindrop: RaindropServer) -> None:
    """`user_id`, `convo_id`, `event_name`: for calls without an interaction, and for what one leaves open."""
    with traced(raindrop, user_id="u0", convo_id="c0", event_name="e0") as tracer:
        Answerer()(question="Why?")
        with tracer.interaction(user_id="u1"):
            Answerer()(question="Why?")
        with tracer.interaction("u2", "c2", "e2"):
            Answerer()(question="Why?")
    assert [(event["user_id"], event["ai_data"]["convo_id"], event["event"]) for event in raindrop.events] == [
        ("u0", "c0", "e0"),
        ("u1", "c0", "e0"),
        ("u2", "c2", "e2"),
    ]


def test_a_project(raindrop: RaindropServer) -> None:
    """`project_id` stands in the header of every request, and spans have it too: the stand-in compares."""
    with traced(raindrop, project_id="support-bot") as tracer:
        with tracer.span("search", kind="tool"):
            pass
        tracer.identify("u1")
    assert len(raindrop.requests) == 3
    assert {request.headers.get("x-raindrop-project-id") for request in raindrop.requests} == {"support-bot"}


def test_the_path_of_an_endpoint_is_kept(raindrop: RaindropServer) -> None:
    """With or without a slash at its end; spans go to the root of the host all the same."""
    with traced(raindrop, endpoint=raindrop.endpoint.rstrip("/")) as tracer, tracer.span("search", kind="tool"):
        pass
    assert {request.path for request in raindrop.requests} == {"/v1/events/track", "/v1/traces"}


request_id: ContextVar[str] = ContextVar("request_id")


def test_the_programs_own_event_ids(raindrop: RaindropServer) -> None:
    """`event_id` as a function: asked on the program's thread, once a call; signals find their event by either id."""
    with traced(raindrop, event_id=lambda: request_id.get()) as tracer:
        for number in range(2):
            request_id.set(f"request-{number}")
            prediction = Answerer()(question="Why?")
            request_id.set("too late")
        tracer.track_signal(spanhook.event_id_of(prediction) or "", "by handle")
        tracer.track_signal("request-1", "by name")
        with tracer.interaction(event_id="chosen"):
            Answerer()(question="Why?")
    assert [event["event_id"] for event in raindrop.events] == ["request-0", "request-1", "chosen"]
    assert [signal["event_id"] for signal in raindrop.signals] == ["request-1", "request-1"]


def test_an_event_id_that_can_not_be_made(raindrop: RaindropServer) -> None:
    """The program's function fails: the program goes on, and the event has the id that all backends share."""

    def fail() -> str:
        raise LookupError("no request")

    with tracing(raindrop, event_id=fail) as tracer:
        prediction = Answerer()(question="Why?")
        assert tracer.flush(WAIT_S)
        assert any("LookupError" in error for error in tracer.stats().errors)
    assert [event["event_id"] for event in raindrop.events] == [spanhook.event_id_of(prediction)]


def test_one_event_id_for_all(raindrop: RaindropServer) -> None:
    """`event_id` as a string is taken as it is: Raindrop makes one event of all calls."""
    with traced(raindrop, event_id="the-one"):
        Answerer()(question="Why?")
        Answerer()(question="Why?")
    assert [event["event_id"] for event in raindrop.events] == ["the-one"]


def test_the_programs_git_revision(raindrop: RaindropServer) -> None:
    """`app_git` as a table is told with every event; with false nothing is."""
    with traced(raindrop, app_git={"commit_sha": "a" * 40, "branch": "main"}, event_id="given"):
        Answerer()(question="Why?")
    with traced(raindrop, app_git=False, event_id="none"):
        Answerer()(question="Why?")
    given = raindrop.event("given")["properties"]
    assert (given["raindrop.app.commit_sha"], given["raindrop.app.branch"]) == ("a" * 40, "main")
    assert not [name for name in raindrop.event("none")["properties"] if name.startswith("raindrop.app")]


def test_debug_shows_the_sdks_log(raindrop: RaindropServer, caplog: pytest.LogCaptureFixture) -> None:
    """With `debug` all that the SDK logs is seen; without, nothing of it."""
    try:
        with traced(raindrop, debug=True) as tracer:
            Answerer()(question="Why?")
            assert tracer.flush(WAIT_S)
        assert any("Request successful" in record.getMessage() for record in caplog.records)
    finally:
        sdk.analytics.set_debug_logs(False)
        logging.getLogger("raindrop.analytics").setLevel(logging.NOTSET)
    caplog.clear()
    with traced(raindrop):
        Answerer()(question="Why?")
    assert not [record for record in caplog.records if record.name.startswith("raindrop")]


def test_a_client_of_ones_own(raindrop: RaindropServer) -> None:
    """`client`: its key and its project count, and it works after the tracer's end."""
    client = sdk.Raindrop(
        api_key=raindrop.key,
        project_id="own",
        endpoint=raindrop.endpoint,
        local_workshop_url=None,
        app_git=False,
        auto_instrument=False,
    )
    try:
        tracer = configure(client=client, endpoint=raindrop.endpoint)
        with tracer.span("search", kind="tool"):
            pass
        assert tracer.shutdown(WAIT_S)
        client.track_ai("u1", "later", input="Still there?")
    finally:
        client.shutdown()
    assert [event["event"] for event in raindrop.events] == ["ai_generation", "later"]
    assert raindrop.spans[0].attributes["raindrop.project_id"] == "own"
    assert raindrop.problems == []


def test_nothing_is_looked_for_on_this_machine(raindrop: RaindropServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's copy of everything to a server on this machine is made only where its own variable asks for it."""
    with RaindropServer() as workshop:
        monkeypatch.setenv("RAINDROP_LOCAL_DEBUGGER", workshop.endpoint)
        workshop.fault(200)
        with traced(raindrop):
            Answerer()(question="Why?")
        assert [request.path for request in workshop.requests] == ["/v1/events/track"]
        assert "authorization" not in workshop.requests[0].headers


def test_the_service_is_named_in_spans(raindrop: RaindropServer) -> None:
    """`[tracing] service`."""
    with tracing(raindrop, section={"service": "support-bot"}) as tracer:
        with tracer.span("search", kind="tool"):
            pass
        assert tracer.flush(WAIT_S)
    assert raindrop.spans[0].resource["service.name"] == "support-bot"


def test_a_file_with_every_option(raindrop: RaindropServer, tmp_path: Path) -> None:
    """As one writes them into tracing.toml."""
    (tmp_path / "tracing.toml").write_text(
        f"""
        [tracing]
        backends = ["raindrop"]

        [backends.raindrop]
        api_key = "{raindrop.key}"
        endpoint = "{raindrop.endpoint}"
        user_id = "u0"
        convo_id = "c0"
        project_id = "support"
        event_name = "chat"
        event_id = "e0"
        tracing_enabled = true
        bypass_otel_for_tools = false
        debug = false
        app_git = {{ commit_sha = "{"b" * 40}" }}
        tools = [{{ name = "search", input_schema = {{ type = "object" }} }}]
        """
    )
    tracer = spanhook.configure(tmp_path / "tracing.toml")
    Answerer()(question="Why?")
    assert tracer.shutdown(WAIT_S)
    assert raindrop.problems == []
    assert raindrop.event("e0")["properties"]["raindrop.app.commit_sha"] == "b" * 40


def test_only_its_own_sdk_is_imported_and_only_when_chosen() -> None:
    """`import spanhook` imports nothing of Raindrop's."""
    code = "import sys, spanhook; print([name for name in ('raindrop', 'traceloop') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
