"""The backend's options, the module for moving over, and what leaves the process beside the traces."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from opik_case import PROJECT, opik_case, options
from opik_server import OpikServer

import spanhook
from lm_server import LMServer
from programs import Answerer
from spanhook import ConfigError
from spanhook_backends.opik import OpikBackend
from spanhook_backends.opik.drop_in import OpikCallback
from spanhook_backends.opik.graph import mermaid, modules_of


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpikServer]:
    """A server that Opik's own variables lead to."""
    with OpikServer() as server:
        monkeypatch.setenv("OPIK_URL_OVERRIDE", server.url)
        monkeypatch.setenv("OPIK_API_KEY", str(server.api_key))
        monkeypatch.setenv("OPIK_WORKSPACE", server.workspace)
        monkeypatch.setenv("OPIK_PROJECT_NAME", "from-the-environment")
        yield server


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"host": "https://u:pass@opik.example.com/api"}, "backends.opik.host: must be a URL without user"),
        ({"host": "opik.example.com"}, "backends.opik.host: must be a URL"),
        ({"host": "ftp://opik.example.com"}, "backends.opik.host: must be a URL"),
        ({"project": "p"}, "backends.opik.project: unknown option (did you mean 'project_name'?)"),
        ({"project_name": ""}, "backends.opik.project_name: "),
        ({"tags": 1}, "backends.opik.tags: must be a list"),
        ({"api_key": "opik-\u00e9"}, "backends.opik.api_key: must be one line of ASCII characters"),
        ({"api_key": "one\ntwo"}, "backends.opik.api_key: must be one line of ASCII characters"),
    ],
)
def test_a_wrong_option_is_an_error_at_the_start(given: dict[str, Any], problem: str, tmp_path: Path) -> None:
    """With its name and what it may be; nothing is configured then."""
    with pytest.raises(ConfigError) as raised:
        spanhook.configure({"tracing": {"backends": ["opik"]}, "backends": {"opik": given}})
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"), [("background_workers", "many"), ("url_override", "opik.local"), ("api_key", "one\ntwo")]
)
def test_wrong_settings_of_opiks_own_are_an_error_at_the_start(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's variables count, so a bad one is told as a problem of the configuration."""
    monkeypatch.setenv(f"OPIK_{name.upper()}", value)
    with pytest.raises(ConfigError, match=f"backends.opik: Opik's own settings: {name}"):
        spanhook.configure({"tracing": {"backends": ["opik"]}})


def test_the_key_is_not_printed() -> None:
    """Neither by the options nor by the backend."""
    chosen = OpikBackend.Options(api_key="opik-secret-1234")
    assert "opik-secret-1234" not in repr(chosen)
    assert "opik-secret-1234" not in str(chosen.model_dump())


def test_what_is_left_out_comes_from_opiks_own_settings(environment: OpikServer) -> None:
    """A team that has configured Opik already writes `backends = ["opik"]`, and that is all."""
    tracer = spanhook.configure({"tracing": {"backends": ["opik"], "service": "support-bot"}})
    with tracer.span("one"):
        pass
    assert tracer.flush(30.0)
    (trace,) = environment.traces
    assert trace.fields["project_name"] == "from-the-environment"
    assert trace.fields["metadata"]["service"] == "support-bot"
    assert not environment.refused


@pytest.mark.parametrize("where", ["file", "environment"])
def test_a_line_break_at_the_end_of_a_key_is_no_part_of_it(
    environment: OpikServer, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Mounted files have one, and so has what is read from them."""
    given = {}
    if where == "environment":
        monkeypatch.setenv("OPIK_API_KEY", f"{environment.api_key}\n")
        monkeypatch.setenv("OPIK_WORKSPACE", f"{environment.workspace}\n")
    else:
        given = {"api_key": f"{environment.api_key}\n", "workspace": f"{environment.workspace}\n"}
    tracer = spanhook.configure({"tracing": {"backends": ["opik"]}, "backends": {"opik": given}})
    with tracer.span("one"):
        pass
    assert tracer.flush(30.0)
    assert len(environment.traces) == 1


def test_tags_are_on_every_trace() -> None:
    """And not on each of its spans."""
    with opik_case(tags=["prod", "eu"]) as case:
        Answerer()(question="Why?")
        trace = case.trace()
    assert trace.fields["tags"] == ["prod", "eu"]
    assert not any("tags" in span for span in trace.spans)


def test_a_second_configure_leaves_nothing_of_the_first_behind() -> None:
    """The new backend has a connection of its own, though its options are the same."""
    with opik_case() as first, LMServer() as lm_server:
        Answerer()(question="Why?")
        again = spanhook.configure(
            {"tracing": {"backends": ["opik"]}, "backends": {"opik": options(first.opik)}},
        )
        with dspy.context(lm=lm_server.lm()):
            Answerer()(question="Why?")
        assert again.flush(30.0)
        assert len(first.opik.traces) == 2


class Agent(dspy.Module):
    """Modules, a list of them, tools, and itself."""

    def __init__(self) -> None:
        super().__init__()
        signature = dspy.Signature("question -> answer", 'Say "<b>hi</b>"; use `tools` [x] (y) {z} | end\nnow')
        self.respond = dspy.Predict(signature)
        self.several = [dspy.ChainOfThought("a -> b"), {"not": "seen"}]
        self.react = dspy.ReAct("question -> answer", tools=[look_up])
        self.myself = self

    def forward(self, question: str) -> dspy.Prediction:
        return self.respond(question=question)


def look_up(city: str) -> str:
    """Looks a city up."""
    return city


def test_the_graph_of_a_program_is_on_its_trace_and_its_nodes_on_the_spans() -> None:
    """Where Opik's graph view looks for them; an interaction shows the program inside of it."""
    with opik_case(log_graph=True) as case:
        with case.tracer.interaction(event="chat"):
            Agent()(question="Why?")
        trace = case.trace("chat")
    graph = trace.fields["metadata"]["_opik_graph_definition"]
    assert graph["format"] == "mermaid"
    nodes = {
        span["name"]: span["metadata"]["_opik"]["graph_node_id"] for span in trace.spans if "Ad" not in span["name"]
    }
    assert set(nodes) == {"Agent", "Predict", "LM: openai - test-model"}
    for node in nodes.values():
        assert f"{node}[" in graph["data"]
    assert not any("_opik_graph_definition" in span["metadata"] for span in trace.spans)


def test_a_graph_has_every_module_and_no_label_breaks_out() -> None:
    """Modules in lists, tools and LMs are there, a cycle ends, and what a label says is text."""
    lines = mermaid(modules_of(Agent())).splitlines()
    assert lines[0] == "graph TD"
    nodes = {}
    for line in lines[1:]:
        if found := re.fullmatch(r'(\w+)\["([^"]*)"\]:::(module|predictor|lm|tool)', line):
            nodes[found[1]] = found[2]
        else:
            assert re.fullmatch(r"\w+ --> \w+|classDef \w+ fill:#\w+", line), line
    for edge in (line for line in lines if "-->" in line):
        assert set(edge.split(" --> ")) <= set(nodes)
    text = "\n".join(nodes.values())
    for name in ("Agent", "ChainOfThought", "ReAct", "look_up", "finish"):
        assert f"<b>{name}</b>" in text
    said = next(label for label in nodes.values() if "hi" in label)
    plain = re.sub(r"</?[bi]>|<br>", "", said)
    assert re.fullmatch(r"[^\"<>`\[\]{}|\n]*", plain)
    assert "#34;#60;b#62;hi#60;/b#62;#34;" in plain


def test_without_the_option_there_is_no_graph() -> None:
    """Drawing it costs time on the program's thread."""
    with opik_case() as case:
        Agent()(question="Why?")
        assert "_opik" not in str(case.trace().fields)


def test_the_callback_for_moving_over_works_where_theirs_does(environment: OpikServer) -> None:
    """In `dspy.configure`, in `dspy.context` and on one module; with their parameters and their `flush`."""
    callback = OpikCallback(project_name=PROJECT, log_graph=True)
    with LMServer() as server:
        lm = server.lm()
        with dspy.context(lm=lm, callbacks=[callback]):
            Answerer()(question="Why?")
        program = Answerer()
        program.callbacks = [callback]
        with dspy.context(lm=lm):
            program(question="Why?")
            Answerer()(question="not traced")
        assert callback.flush()
    assert copy.deepcopy(callback) is callback
    first, second = environment.traces
    assert [first.fields["name"], second.fields["name"]] == ["Answerer", "Answerer"]
    assert first.fields["project_name"] == PROJECT
    assert first.tree()[2] == "  llm LM: openai - test-model"
    assert "_opik_graph_definition" in first.fields["metadata"]
    assert not environment.refused


def test_the_callback_gives_the_tracer_for_all_that_theirs_has_not(environment: OpikServer) -> None:
    """Interactions, users and signals, with nothing else to configure."""
    callback = OpikCallback(project_name="")  # which theirs takes for none, too
    with LMServer() as server, dspy.context(lm=server.lm(), callbacks=[callback]):
        with callback.tracer.interaction(user_id="u1", event="chat") as interaction:
            Answerer()(question="Why?")
        callback.tracer.track_signal(interaction.event_id, "thumbs_up")
        assert callback.flush()
    trace = environment.trace("chat")
    assert trace.fields["project_name"] == "from-the-environment"
    assert trace.scores["thumbs_up"]["value"] == 1.0


REPORTS = """
import sys
{before}
import spanhook_backends.opik
import opik.analytics, sentry_sdk
client = sentry_sdk.get_client()
print(bool(client.dsn) and client.transport is not None, opik.analytics.reporting_allowed())
"""


@pytest.mark.parametrize("before", ["", "import opik"], ids=["first", "after-the-program"])
@pytest.mark.parametrize("wanted", [None, "true", "false"])
def test_nothing_is_reported_to_opiks_makers_unless_the_environment_says_so(before: str, wanted: str | None) -> None:
    """Errors to Sentry and usage analytics: on by themselves in the SDK, off with Spanhook, also if imported before."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPIK_", "PYTEST_"))}
    asked = {} if wanted is None else {"OPIK_SENTRY_ENABLE": wanted, "OPIK_ANALYTICS_ENABLE": wanted}
    done = subprocess.run(
        [sys.executable, "-c", REPORTS.format(before=before)],
        env={**kept, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [str(wanted == "true")] * 2, done.stderr


def test_a_sentry_of_the_programs_own_is_left_alone() -> None:
    """It was initialized with another DSN."""
    before = "import dspy, sentry_sdk; sentry_sdk.init('http://key@127.0.0.1:9/1')"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPIK_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-c", REPORTS.format(before=before)], env=kept, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["True", "False"], done.stderr
