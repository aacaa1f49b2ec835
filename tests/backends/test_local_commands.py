"""`spanhook traces` and `spanhook show`, on traces of real calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import dspy
import pytest
from click.testing import CliRunner, Result

import spanhook
from lm_server import LMServer
from spanhook.cli import main

ESCAPE = "\x1b[31m"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def lines(*arguments: str) -> list[str]:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def ids(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Two interactions and a failed call in the store of `tracing.toml` here; the event ids of the first two."""
    (tmp_path / "tracing.toml").write_text(
        '[tracing]\nbackends = ["local"]\nservice = "bot"\n[backends.local]\npath = "traces.db"\n'
    )
    tracer = spanhook.configure()
    program = dspy.ChainOfThought("question -> answer")
    with LMServer() as server, dspy.context(lm=server.lm(), adapter=dspy.ChatAdapter()):
        with tracer.interaction(user_id="ada", convo_id="c1", event="chat") as first:
            program(question=f"What is{ESCAPE} the capital of France?")
        with tracer.interaction(user_id="bob", event="search", event_id="my own id") as second:
            program(question="And of Spain?")
    with pytest.raises(LookupError), tracer.span("fetch", url="x"):
        raise LookupError("nobody is there")
    tracer.track_signal(second.event_id, "thumbs_down", "feedback", comment="Wrong!", sentiment="NEGATIVE")
    tracer.identify("bob", {"plan": "pro"})
    assert tracer.flush()
    yield {"first": first.event_id, "second": second.event_id}
    tracer.shutdown()


def test_the_list_says_of_each_trace_what_matters(ids: dict[str, str]) -> None:
    """The latest first: what it was, what failed, feedback, tokens, whose it was, what was asked and answered."""
    failed, second, first = lines("traces")
    assert "span fetch  ✗ LookupError" in failed
    assert first.startswith(ids["first"].replace("-", "")[-8:])
    assert "chat  user ada · 10,007→5,003 tokens · 1 LM call · bot" in first
    assert 'answer="answer-1"' in first
    assert "search  thumbs_down · user bob · 10,014→5,006 tokens · 1 LM call" in second


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--user", "ada"], ["chat"]),
        (["--convo", "c1"], ["chat"]),
        (["--signal", "thumbs_down"], ["search"]),
        (["--failed"], ["fetch"]),
        (["--since", "2h"], ["fetch", "search", "chat"]),
        (["--since", "1.5d", "--limit", "1"], ["fetch"]),
        (["--service", "bot", "-n", "2"], ["fetch", "search"]),
        (["--service", "another"], []),
    ],
)
def test_the_list_can_be_narrowed(ids: dict[str, str], options: list[str], names: list[str]) -> None:
    """By each of its options."""
    rows = json.loads(run("traces", "--json", *options).stdout)
    assert [row["name"] for row in rows] == names
    assert len(lines("traces", *options)) == len(names)


@pytest.mark.parametrize("since", ["yesterday", "2", "-2h", "2w"])
def test_a_time_that_is_none_is_a_wrong_option(ids: dict[str, str], since: str) -> None:
    """With what to write."""
    result = run("traces", "--since", since)
    assert result.exit_code == 2
    assert "write 30m, 2h or 7d" in result.output


def test_no_text_of_a_trace_is_an_order_to_the_terminal(ids: dict[str, str]) -> None:
    """Neither in the list nor in a trace, whole or not."""
    for arguments in (["traces"], ["show", ids["first"]], ["show", "--full", ids["first"]]):
        text = "\n".join(lines(*arguments))
        assert "\\x1b[31m" in text or "What is" not in text
        assert "\x1b" not in text


def test_a_trace_is_shown_as_a_tree_with_feedback_and_user(ids: dict[str, str]) -> None:
    """As on the terminal when it ran."""
    shown = lines("show", "my own id")
    assert "search  1 LM call · 10,014→5,006 tokens" in shown[0]
    assert any("└─ lm openai/test-model" in line for line in shown)
    assert not any("adapter" in line for line in shown)
    assert shown[-2:] == [
        '  signal  thumbs_down  feedback · negative · comment="Wrong!" · event my own id',
        'identify  bob  plan="pro"',
    ]
    assert any("adapter ChatAdapter.format" in line for line in lines("show", "my own id", "--adapters"))


def test_a_trace_is_found_by_whatever_id_there_is(ids: dict[str, str]) -> None:
    """An event's, the trace's, its end in either case, a span's; without one the latest is shown."""
    data = json.loads(run("show", ids["first"], "--json").stdout)
    trace_id, spans = data["trace_id"], data["spans"]
    for given in (trace_id, trace_id[-8:], trace_id[-8:].upper(), spans[-1]["span_id"]):
        assert "chat" in lines("show", given)[0], given
    assert "span fetch" in lines("show")[0]


def test_a_whole_trace_has_every_text_to_its_end(ids: dict[str, str]) -> None:
    """Each message to the model with its role, the answer, attributes and tracebacks."""
    whole = "\n".join(lines("show", "--full", ids["second"]))
    assert "system:\n" in whole
    assert "Your output fields are:" in whole
    assert "    answer: answer-2" in whole
    failed = "\n".join(lines("show", "--full"))
    assert "    Traceback (most recent call last):" in failed
    assert "    LookupError: nobody is there" in failed


def test_as_json_a_trace_has_all_fields(ids: dict[str, str]) -> None:
    """Those of `Span.to_dict`, its feedback and its users."""
    data = json.loads(run("show", ids["second"], "--json").stdout)
    (call,) = [span for span in data["spans"] if span["kind"] == "lm"]
    assert call["usage"]["input_tokens"] == 10_014
    assert call["user_id"] == "bob"
    assert data["signals"][0]["comment"] == "Wrong!"
    assert data["users"] == {"bob": {"plan": "pro"}}


def test_what_is_not_there_is_said(ids: dict[str, str], tmp_path: Path) -> None:
    """An unknown id, one that may be two traces, a missing file, one that is none of ours; with exit status 1."""
    assert "no such trace" in run("show", "ffffffffffff").output
    (tmp_path / "text").write_text("no database " * 200)
    for file, said in (("nope.db", "no such file"), ("text", "not a database")):
        for command in ("traces", "show"):
            result = run(command, "--path", file)
            assert result.exit_code == 1
            assert said in result.output


def test_an_end_that_two_traces_have_is_refused_with_both(tmp_path: Path) -> None:
    """Too little of an id; no guess is made."""
    tracer = spanhook.configure({"tracing": {"backends": ["local"]}})
    made = []
    for number in (1, 2):
        headers = {"traceparent": f"00-{number:024x}abcdef01-{number:016x}-01"}
        with spanhook.attach(headers), tracer.span("work") as span:
            made.append(span.trace_id)
    tracer.shutdown()
    result = run("show", "cdef01")
    assert result.exit_code == 1
    assert all(trace_id in result.output for trace_id in made)
    assert "no such trace" in run("show", "f01").output  # too short to be meant


def test_a_problem_elsewhere_in_the_file_is_no_hindrance(ids: dict[str, str], tmp_path: Path) -> None:
    """The shell of a person has no production key; where it may be the reason for a failure it is told."""
    file = tmp_path / "tracing.toml"
    file.write_text(file.read_text() + '[backends.raindrop]\napi_key = "${RAINDROP_WRITE_KEY}"\n')
    assert run("traces").stderr == ""
    (tmp_path / "traces.db").unlink()
    assert "RAINDROP_WRITE_KEY is not set" in run("traces").output


def test_a_wrong_option_of_the_store_is_said(tmp_path: Path) -> None:
    """In place of reading another file than the program writes."""
    (tmp_path / "tracing.toml").write_text('[backends.local]\npth = "traces.db"\n')
    result = run("traces")
    assert result.exit_code == 1
    assert "`spanhook check` says why" in result.output


def test_a_trace_that_never_ended_is_shown_as_incomplete(tmp_path: Path) -> None:
    """What has ended of it, as where the process was killed."""
    tracer = spanhook.configure({"tracing": {"backends": ["local"]}})
    with tracer.span("whole"):
        with tracer.span("part"):
            pass
        assert tracer.flush()
        (line,) = lines("traces")
        assert "span part  incomplete" in line
        assert "incomplete, its root has not ended" in lines("show")[0]
    tracer.shutdown()
    assert "span whole" in lines("show")[0]


def test_a_list_of_nothing(tmp_path: Path) -> None:
    """A store without a trace; standard output stays empty."""
    spanhook.configure({"tracing": {"backends": ["local"]}}).shutdown()
    result = run("traces")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "No such trace.\n")
    assert "there is no trace yet" in run("show").output
    assert json.loads(run("traces", "--json").stdout) == []


def test_an_old_trace_is_outside_of_a_short_time(tmp_path: Path) -> None:
    """`--since` counts from its beginning."""
    tracer = spanhook.configure({"tracing": {"backends": ["local"]}})
    with tracer.span("now"):
        pass
    tracer.shutdown()
    assert lines("traces", "--since", "0.001s") == []
    assert len(lines("traces", "--since", "1m")) == 1
