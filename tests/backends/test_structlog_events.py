"""The structlog backend as log events: through the program's own structlog, or as lines of JSON."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dspy
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

import spanhook
from forks import Writing
from lm_server import LMServer, Reply, Tokens
from spanhook import ConfigError, Signal, Span, SpanError, Tracer, Usage
from spanhook.testing import capture_spans
from spanhook_backends.structlog import StructlogBackend
from spanhook_backends.structlog.json_lines import write_lines

Configure = Callable[..., Tracer]
BIDI_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
JSON = dspy.JSONAdapter()  # of an LM's error: other adapters ask again in some releases of DSPy


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    """Structlog as a program finds it."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
def configure() -> Iterator[Configure]:
    """`spanhook.configure` with this backend, its options as arguments."""
    tracers = []

    def configured(tracing: Mapping[str, Any] | None = None, **options: Any) -> Tracer:
        tracers.append(spanhook.configure({"tracing": tracing or {}, "backends": {"structlog": options}}))
        return tracers[-1]

    yield configured
    for tracer in tracers:
        tracer.shutdown()


@pytest.fixture
def server() -> Iterator[LMServer]:
    with LMServer(finish_reasons=["stop"]) as running:
        yield running


def span(**more: Any) -> Span:
    """A finished span of 1.5 seconds."""
    times = {"start_ns": 1_700_000_000_000_000_000, "end_ns": 1_700_000_001_500_000_000}
    fields = {"trace_id": "t" * 32, "span_id": "s", "parent_id": None, "event_id": "e", "kind": "custom", "name": "n"}
    return Span(**{**fields, **times, **more})


def test_every_span_is_one_event_of_the_programs_structlog(configure: Configure, server: LMServer) -> None:
    """Flat keys, the numbers of the very call, and nothing for what is not known."""
    tracer = configure()
    server.script(
        [Reply(fields={"answer": "yes"}, tokens=Tokens(12, 3, cached=8), finish_reason="length", model="m-1")]
    )
    with capture_logs() as logs:
        with capture_spans() as spans, dspy.context(lm=server.lm()), tracer.interaction("ada", "c1", "chat"):
            dspy.Predict("question -> answer")(question="Why?")
        tracer.flush()
    assert [log["span_id"] for log in logs] == [span.span_id for span in spans]
    assert {(log["event"], log["log_level"]) for log in logs} == {("spanhook.span", "info")}
    (lm,) = [log for log in logs if log["kind"] == "lm"]
    (known,) = [span for span in spans if span.kind == "lm"]
    assert lm.pop("inputs")["messages"][-1]["role"] == "user"
    assert "answer" in lm.pop("outputs")[0]
    assert lm.pop("duration_s") == pytest.approx(known.duration_s, abs=1e-6)
    assert lm.pop("started_at").endswith("+00:00")
    assert lm == {
        "event": "spanhook.span",
        "log_level": "info",
        "kind": "lm",
        "span_name": "LM",
        "trace_id": known.trace_id,
        "span_id": known.span_id,
        "parent_id": known.parent_id,
        "event_id": known.event_id,
        "user_id": "ada",
        "convo_id": "c1",
        "model": "openai/test-model",
        "response_model": "m-1",
        "provider": "openai",
        "input_tokens": 12,
        "output_tokens": 3,
        "total_tokens": 15,
        "cached_input_tokens": 8,
        "finish_reason": "length",
        "cache_hit": False,
    }


def test_a_failed_span_is_an_error_and_one_traceback_is_enough(configure: Configure, server: LMServer) -> None:
    """Each span that the error passed says so; the traceback stands where it began, under structlog's own key."""
    tracer = configure()
    server.script([Reply(status=500)])
    with capture_logs() as logs:
        with dspy.context(lm=server.lm(), adapter=JSON), pytest.raises(Exception, match="scripted error"):
            dspy.ChainOfThought("question -> answer")(question="Why?")
        tracer.flush()
    failed = [log for log in logs if log["log_level"] == "error"]
    assert [log["kind"] for log in failed] == ["lm", "module", "module"]
    assert len({(log["error_type"], log["error_message"]) for log in failed}) == 1
    assert [log["kind"] for log in logs if "exception" in log] == ["lm"]
    assert failed[0]["exception"].startswith("Traceback (most recent call last):\n")


def test_what_decides_is_the_moment_of_the_event(configure: Configure, capsys: pytest.CaptureFixture[str]) -> None:
    """A program that configures structlog after Spanhook gets the events from then on."""
    tracer = configure()
    with tracer.interaction(event="before"):
        pass
    tracer.flush()
    with capture_logs() as logs:
        with tracer.interaction(event="after"):
            pass
        tracer.flush()
    assert json.loads(capsys.readouterr().err)["span_name"] == "before"
    assert [log["span_name"] for log in logs] == ["after"]


def test_users_and_feedback_are_events_too(configure: Configure) -> None:
    """In order with the spans."""
    tracer = configure({"service": "desk"})
    with capture_logs() as logs:
        tracer.identify("ada", {"plan": "pro", "seats": 3})
        with tracer.interaction(event="chat") as interaction:
            pass
        when, more = "2026-01-02T03:04:05Z", {"score": 0.5}
        tracer.track_signal(interaction.event_id, "thumbs_up", "feedback", when, more, None, "Quick!", None, "POSITIVE")
        tracer.flush()
    identity, _, signal = logs
    assert {log["service"] for log in logs} == {"desk"}
    common = {"log_level": "info", "service": "desk"}
    assert identity == {**common, "event": "spanhook.identify", "user_id": "ada", "traits": {"plan": "pro", "seats": 3}}
    assert signal == {
        **common,
        "event": "spanhook.signal",
        "event_id": interaction.event_id,
        "signal_name": "thumbs_up",
        "signal_type": "feedback",
        "sentiment": "POSITIVE",
        "comment": "Quick!",
        "properties": {"score": 0.5},
        "signalled_at": "2026-01-02T03:04:05.000000+00:00",
    }


def test_without_a_terminal_every_span_is_a_line_of_json(
    configure: Configure, capsys: pytest.CaptureFixture[str], server: LMServer
) -> None:
    """On stderr, so that a program's stdout stays its own; and structlog is left unconfigured."""
    tracer = configure()
    with capture_spans() as spans, dspy.context(lm=server.lm()):
        dspy.Predict("question -> answer")(question="Wärum?\nSo.")
    tracer.flush()
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [json.loads(line) for line in printed.err.splitlines()]
    assert [line["span_id"] for line in lines] == [span.span_id for span in spans]
    assert list(lines[0])[:3] == ["timestamp", "level", "event"]
    root = lines[-1]
    assert (root["kind"], root["inputs"], root["outputs"]) == (
        "module",
        {"question": "Wärum?\nSo."},
        {"answer": "answer-1"},
    )
    assert "parent_id" not in root
    assert not structlog.is_configured()


def test_json_is_exact_and_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    """A line holds what was said to the letter, and no character that a terminal would obey."""
    text = "a\x1b[2Jb\u202ec\ud800"
    backend = StructlogBackend(StructlogBackend.Options(format="json"))
    backend.emit([span(name=text, inputs={text: text})])
    backend.track_signal(Signal("e", "s", comment=text))
    printed = capsys.readouterr().err
    assert printed.isascii()
    assert "\x1b" not in printed
    first, second = map(json.loads, printed.splitlines())
    assert (first["span_name"], first["inputs"], second["comment"]) == (text, {text: text}, text)


class Written(io.TextIOWrapper):
    """A stream of some encoding, and what was written to it."""

    def __init__(self, encoding: str) -> None:
        self.raw_bytes = io.BytesIO()
        super().__init__(self.raw_bytes, encoding=encoding)

    def text(self) -> str:
        self.flush()
        return self.raw_bytes.getvalue().decode(self.encoding)


def written_as_json(monkeypatch: pytest.MonkeyPatch, encoding: str, **more: Any) -> str:
    stream = Written(encoding)
    monkeypatch.setattr(sys, "stderr", stream)
    StructlogBackend(StructlogBackend.Options(format="json")).emit([span(**more)])
    return stream.text()


@pytest.mark.parametrize("more", [{}, {"attributes": {"half": "\ud800"}}])
def test_json_keeps_letters_as_people_read_them(monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]) -> None:
    """Of any script, where the stream takes them; also on a line that something has to be escaped on."""
    text = "naïve · سلام · می‌خواهم · 日本\u3000漢 · 👩‍💻"
    line = written_as_json(monkeypatch, "utf-8", inputs=text, **more)
    assert f'"{text}"' in line
    assert json.loads(line)["inputs"] == text


@pytest.mark.parametrize(("encoding", "kept"), [("ascii", ""), ("latin-1", ""), ("utf-16", "漢é")])
def test_json_escapes_what_the_stream_cannot_take(monkeypatch: pytest.MonkeyPatch, encoding: str, kept: str) -> None:
    """A line that the encoding has no letters for is ASCII, and holds the same."""
    line = written_as_json(monkeypatch, encoding, inputs="漢é")
    assert f'"{kept or chr(92) + "u6f22" + chr(92) + "u00e9"}"' in line
    assert json.loads(line)["inputs"] == "漢é"


def test_json_for_an_object_that_can_only_write_is_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does with a letter is not known."""
    written: list[str] = []
    stream = type("Log", (), {"write": staticmethod(written.append), "flush": staticmethod(lambda: None)})()
    monkeypatch.setattr(sys, "stderr", stream)
    StructlogBackend(StructlogBackend.Options(format="json")).emit([span(inputs="漢")])
    assert '"\\u6f22"' in "".join(written)


@given(text=st.text(st.characters(codec=None)) | st.text("a漢\x1b\x7f\x85\x9b\u2028\u202e\u2066\ufeff\ud800\U000e0041"))
def test_no_text_gets_an_order_into_json(text: str) -> None:
    """Whatever it is: one line, with nothing in it that a terminal obeys, that holds the text to the letter."""
    stream = Written("utf-8")
    write_lines(stream, {}, [("info", "e", {text: text})])
    line = stream.text()
    assert line.endswith("\n")
    shown = {unicodedata.category(char) for char in line[:-1]}
    assert not shown & {"Cc", "Cs", "Zl", "Zp"}
    assert not {unicodedata.bidirectional(char) for char in line} & BIDI_CONTROLS
    assert json.loads(line).get(text, text) == json.loads(json.dumps(text))


def test_json_on_stdout_beside_a_configured_structlog(capsys: pytest.CaptureFixture[str]) -> None:
    """`format` and `stream` are stronger than what "auto" would find."""
    with capture_logs() as logs:
        StructlogBackend(StructlogBackend.Options(format="json", stream="stdout")).emit([span()])
    assert logs == []
    assert json.loads(capsys.readouterr().out)["duration_s"] == 1.5


def test_without_content_events_have_numbers_only(configure: Configure, server: LMServer) -> None:
    """`capture = "metadata"`: neither a question nor an answer nor an error's message."""
    tracer = configure({"capture": "metadata"})
    server.script([Reply(fields={"answer": "secret"}), Reply(status=500)])
    with capture_logs() as logs:
        with dspy.context(lm=server.lm(), adapter=JSON):
            dspy.Predict("question -> answer")(question="secret")
            with pytest.raises(Exception, match="scripted error"):
                dspy.Predict("question -> answer")(question="secret")
        tracer.flush()
    assert sum(log["kind"] == "lm" for log in logs) == 2
    assert "secret" not in json.dumps(logs)
    assert "scripted error" not in json.dumps(logs)


def test_events_pass_through_the_standard_library(caplog: pytest.LogCaptureFixture) -> None:
    """With structlog over `logging`, each key becomes an attribute of the record: none may be one that it has."""
    structlog.configure(
        processors=[structlog.stdlib.add_logger_name, structlog.stdlib.render_to_log_kwargs],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    backend = StructlogBackend()
    error = SpanError("ValueError", "no", "Traceback …")
    usage = Usage(1, 2, 3, 4, 5, 6, 7, 8)
    values = {"model": "m", "response_model": "m", "provider": "p", "finish_reason": "stop", "cache_hit": False}
    more = {"cost_usd": 0.1, "time_to_first_token_s": 0.1, "user_id": "u", "convo_id": "c", "attributes": {"a": 1}}
    full = span(parent_id="p", usage=usage, error=error, inputs={"i": 1}, outputs=2, **values, **more)
    with caplog.at_level(logging.INFO):
        backend.emit([full])
        backend.identify("u", {"plan": "pro"})
        backend.track_signal(Signal("e", "s", "edit", 0, {"a": 1}, "part", "comment", "after", "NEGATIVE"))
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("spanhook.spans", "ERROR", "spanhook.span"),
        ("spanhook.spans", "INFO", "spanhook.identify"),
        ("spanhook.spans", "INFO", "spanhook.signal"),
    ]
    assert caplog.records[0].__dict__["audio_output_tokens"] == 8


def test_a_renderer_for_people_gets_nothing_that_a_terminal_obeys() -> None:
    """structlog's console renderer writes strings as they are: the escape sequences in them are escaped before."""
    out = io.StringIO()
    structlog.configure(
        processors=[structlog.dev.ConsoleRenderer(colors=False)], logger_factory=structlog.PrintLoggerFactory(out)
    )
    hostile = "a\x1b]0;x\x07b\rc\x9b2J\u202ed\te\nf"
    error = SpanError(hostile, hostile, hostile)
    backend = StructlogBackend()
    backend.emit([span(name=hostile, inputs={hostile: hostile}, outputs=hostile, error=error, user_id=hostile)])
    backend.track_signal(Signal(hostile, hostile, comment=hostile))
    assert {char for char in out.getvalue() if not char.isprintable()} == {"\n", "\t"}
    assert r"a\x1b]0;x\x07b\rc\x9b2J\u202ed" in out.getvalue()


def test_an_error_of_the_programs_own_processor_is_counted(configure: Configure) -> None:
    """It reaches neither the program nor the figures of what was delivered."""
    tracer = configure()

    def broken(logger: Any, method: str, event: Mapping[str, Any]) -> Mapping[str, Any]:
        raise LookupError("no")

    structlog.configure(processors=[broken])
    with tracer.interaction():
        pass
    assert not tracer.flush()
    stats = tracer.stats().backends["structlog"]
    assert (stats.failed, stats.delivered) == (1, 0)


def test_a_wrong_option_is_an_error_with_its_place(configure: Configure) -> None:
    """Before anything is traced."""
    with pytest.raises(ConfigError) as caught:
        configure(format="xml", colour=True)
    assert len(caught.value.problems) == 2
    assert all("backends.structlog" in problem for problem in caught.value.problems)


def test_the_process_may_have_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under pythonw there is no stderr: an error that says so, not output to somewhere else."""
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(RuntimeError, match="no stderr"):
        StructlogBackend().emit([span()])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("shape", ["json", "tree"])
def test_no_fork_comes_in_the_middle_of_writing(
    monkeypatch: pytest.MonkeyPatch, configure: Configure, shape: str
) -> None:
    """The stream is the program's too: what the child writes to it would wait for a lock that nobody holds."""
    writing = Writing()
    stream = io.StringIO()
    monkeypatch.setattr(stream, "write", writing)
    monkeypatch.setattr(sys, "stderr", stream)
    tracer = configure(format=shape)
    with tracer.span("work"):
        pass
    assert tracer.flush(0) is False
    assert writing.is_over_in_child()
