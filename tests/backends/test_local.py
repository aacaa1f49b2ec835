"""The local store: what is in its file, and what becomes of that in whatever happens to it."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import spanhook
from doubles import WAIT_S, counts, one_span, wait_for
from forks import in_child
from lm_server import LMServer
from spanhook import ConfigError, Signal, Span, SpanError, Tracer, Usage
from spanhook_backends.local.reading import Wanted, reading
from spanhook_backends.local.store import Store

DAY_NS = 86_400 * 10**9
STARTED_NS = time.time_ns()
TRACE = "0" * 31 + "1"

Make = Callable[..., Tracer]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "traces.db"


@pytest.fixture
def make(path: Path) -> Iterator[Make]:
    """A tracer with this backend alone; arguments are its options."""
    made = []

    def tracer(**options: Any) -> Tracer:
        config = {"tracing": {"backends": ["local"]}, "backends": {"local": {"path": str(path), **options}}}
        made.append(spanhook.configure(config))
        return made[-1]

    yield tracer
    for one in made:
        one.shutdown()


def ask(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def store_of(path: Path, **limits: Any) -> Store:
    return Store(path, None, **{"max_days": 30.0, "max_bytes": 10**9, **limits})


def id_of(number: int, trace: int = 1) -> str:
    return f"{trace:08x}{number:08x}"


def span(number: int, trace: int = 1, parent: int | None = None, **more: Any) -> Span:
    """One of a trace, whose root is number 1; they begin in the order of their numbers."""
    parent_id = None if parent is None else id_of(parent, trace)
    start_ns = STARTED_NS + trace * 10**6 + number
    known: dict[str, Any] = {"start_ns": start_ns, "end_ns": start_ns + 10, "local_root_id": id_of(1, trace), **more}
    ids = f"{trace:032x}", id_of(number, trace), parent_id, f"event-{trace}"
    return Span(*ids, kind="custom", name=f"span {number}", **known)


def test_a_program_s_calls_users_and_feedback_can_be_asked_for_by_sql(make: Make, path: Path) -> None:
    """With the numbers that the model gave, and who it was for."""
    with LMServer() as server, dspy.context(lm=server.lm(), adapter=dspy.ChatAdapter()):
        tracer = make()
        with tracer.interaction(user_id="u1", convo_id="c1", event="chat") as interaction:
            prediction = dspy.Predict("question -> answer")(question="Why?")
        tracer.track_signal(interaction.event_id, "thumbs_up", "feedback", comment="Right!", sentiment="POSITIVE")
        tracer.identify("u1", {"plan": "pro", "seats": 3})
        tracer.identify("u1", {"seats": 4})
        assert tracer.flush(WAIT_S)
        told = server.answer_to(prediction.answer)
    assert told.tokens is not None
    assert ask(path, "SELECT input_tokens, output_tokens, finish_reason, user_id FROM spans WHERE kind = 'lm'") == [
        (told.tokens.prompt, told.tokens.completion, told.finish_reason, "u1")
    ]
    root = "SELECT event_id, name, user_id, convo_id, input_tokens, lm_calls, errors, is_complete FROM traces"
    assert ask(path, root) == [(interaction.event_id, "chat", "u1", "c1", told.tokens.prompt, 1, 0, 1)]
    assert ask(path, "SELECT event_id, name, sentiment, comment FROM signals") == [
        (interaction.event_id, "thumbs_up", "POSITIVE", "Right!")
    ]
    assert ask(path, "SELECT user_id, traits FROM users") == [("u1", '{"plan":"pro","seats":4}')]
    assert counts(tracer, "local").failed == 0


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
content = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@given(content, content, texts, st.none() | texts)
def test_what_is_read_is_what_was_written(tmp_path_factory, inputs, outputs, name, text):
    """A span and a signal, to the last bit, whatever their content."""
    path = tmp_path_factory.mktemp("store") / "traces.db"
    given = Span(TRACE, "1" * 16, text, name, "lm", name, 1, 2**62, inputs, outputs, model=text, cost_usd=0.1 + 0.2)
    given.usage, given.error = Usage(3, cached_input_tokens=0), SpanError("E", text, name)
    given.cache_hit, given.attributes, given.sources = False, {name: outputs}, {"model": name}
    signal = Signal(name, "s", "edit", 2**62, {name: inputs}, text, text, text, "NEGATIVE")
    store = store_of(path)
    store._max_ns = 2**63
    store.add_spans([given])
    store.add_signal(signal)
    with reading(path) as read:
        (again,) = read.spans(TRACE)
        assert repr(again.to_dict()) == repr(given.to_dict())
        assert (again.usage, again.error) == (given.usage, given.error)
        assert read.signals(TRACE) == [signal]


def test_a_span_that_comes_twice_is_there_once(path: Path) -> None:
    """As after a restart with a spool; feedback, too."""
    store = store_of(path)
    for _ in range(2):
        store.add_spans([span(2, parent=1), span(1)])
        store.add_signal(Signal("event-1", "thumbs_up", time_ns=time.time_ns() // DAY_NS * DAY_NS + DAY_NS))
    assert ask(path, "SELECT count(*) FROM spans") == [(2,)]
    assert ask(path, "SELECT name, errors FROM traces") == [("span 1", 0)]
    assert ask(path, "SELECT count(*) FROM signals") == [(1,)]


def test_a_trace_whose_root_has_not_ended_is_there(path: Path) -> None:
    """By the span that began first, until the root comes; also where a process died in it."""
    store = store_of(path)
    store.add_spans([span(3, parent=1)])
    store.add_spans([span(2, parent=1)])
    assert ask(path, "SELECT name, is_complete FROM traces") == [("span 2", 0)]
    store.add_spans([span(1)])
    store.add_spans([span(0, parent=1)])  # a late one
    assert ask(path, "SELECT name, is_complete FROM traces") == [("span 1", 1)]


def test_two_processes_of_one_trace(path: Path) -> None:
    """Each has a root of its own there; the trace's spans are together."""
    store_of(path).add_spans([span(1)])
    store_of(path).add_spans([span(5, parent=1, local_root_id=id_of(5))])
    assert sorted(ask(path, "SELECT name, trace_id FROM traces")) == [
        ("span 1", f"{1:032x}"), ("span 5", f"{1:032x}"),
    ]  # fmt: skip


def test_what_is_too_old_is_deleted(path: Path) -> None:
    """Traces, feedback and users."""
    store = store_of(path, max_days=2)
    old_ns = time.time_ns() - 3 * DAY_NS
    store._next_tidy_s = float("inf")
    store.add_spans([span(1, trace=1, start_ns=old_ns), span(1, trace=2)])
    store.add_signal(Signal("event-1", "thumbs_up", time_ns=old_ns))
    store.add_user("u", {})
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE users SET time_ns = ?", (old_ns,))
    later = store_of(path, max_days=2)
    later.add_spans([span(1, trace=3)])
    assert ask(path, "SELECT event_id FROM spans ORDER BY 1") == [("event-2",), ("event-3",)]
    assert ask(path, "SELECT event_id FROM traces ORDER BY 1") == [("event-2",), ("event-3",)]
    assert ask(path, "SELECT * FROM signals UNION ALL SELECT *, 0, 0, 0, 0, 0, 0 FROM users") == []


def test_the_file_stays_within_its_size(path: Path) -> None:
    """The oldest traces go, as many as have to; the newest is always there."""
    store = store_of(path, max_bytes=300_000)
    for trace in range(1, 101):
        store.add_spans([span(2, trace, parent=1, inputs="x" * 20_000), span(1, trace)])
    kept = [trace for (trace,) in ask(path, "SELECT event_id FROM traces ORDER BY start_ns")]
    assert kept == [f"event-{trace}" for trace in range(101 - len(kept), 101)]
    assert 5 <= len(kept) <= 15
    assert path.stat().st_size < 400_000
    assert ask(path, "SELECT count(*) FROM spans") == [(2 * len(kept),)]


def test_only_its_user_may_read_it(make: Make, path: Path) -> None:
    """The file, what SQLite has beside it, and a folder that was made for it; which git ignores."""
    tracer = make()
    one_span(tracer)
    tracer.flush()
    with closing(sqlite3.connect(path)) as db:
        db.execute("SELECT * FROM spans")
        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.glob("traces.db*")}
    assert modes == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert (path.parent / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no database at all, but long enough to be looked at" * 20, "file is not a database; move it away"),
        (None, "can't be used: unable to open database file"),
    ],
)
def test_a_file_that_is_none_of_ours_is_an_error_at_once(make: Make, path: Path, content: bytes | None, said: str):
    """With its name and what to do; it stays as it is."""
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"backends.local.*traces.db: {said}"):
        make()
    assert content is None or path.read_bytes() == content


def test_the_file_of_another_release_is_an_error_at_once(make: Make, path: Path) -> None:
    """Nothing is written to it."""
    make().shutdown()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 7")
    with pytest.raises(ConfigError, match=r"of another release of Spanhook \(format 7, not 1\)"):
        make()


def test_a_folder_that_cannot_be_made_is_an_error_at_once(make: Make, path: Path) -> None:
    """A file stands where the folder should be."""
    path.parent.write_text("")
    with pytest.raises(ConfigError, match="can't be made: "):
        make()


@pytest.mark.parametrize("option", [{"max_days": 0}, {"max_mb": 0.5}, {"max_days": float("inf")}, {"pth": "x"}])
def test_a_wrong_option_is_named(make: Make, option: dict[str, Any]) -> None:
    """As with every plugin."""
    with pytest.raises(ConfigError, match=f"backends.local.{next(iter(option))}"):
        make(**option)


def test_while_another_process_holds_the_file_nothing_is_lost(make: Make, path: Path, caplog) -> None:
    """The batch waits, which is logged once, and is written when it can be."""
    tracer = make()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        one_span(tracer)
        wait_for(lambda: "database is locked" in caplog.text)
        assert counts(tracer, "local").queued == 1
        other.execute("ROLLBACK")
    assert tracer.flush(WAIT_S)
    assert ask(path, "SELECT name FROM spans") == [("work",)]


FULL_DISK = """
import resource, spanhook
tracer = spanhook.configure({"tracing": {"backends": ["local"]}, "backends": {"local": {"path": "traces.db"}}})
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, most))
for number in range(50):
    with tracer.span("work", text="x" * 20_000):
        pass
print(tracer.flush(1.0), tracer.stats().backends["local"].delivered)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
print(tracer.flush(30.0))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs limits as POSIX has them")
def test_while_there_is_no_room_on_the_disk_nothing_is_lost(tmp_path: Path) -> None:
    """The batch waits until there is."""
    done = subprocess.run([sys.executable, "-c", FULL_DISK], cwd=tmp_path, capture_output=True, text=True, timeout=90)
    assert done.stdout.splitlines() == ["False 0", "True"], done.stderr
    assert ask(tmp_path / "traces.db", "SELECT count(*) FROM spans") == [(50,)]


def test_a_file_that_goes_away_is_made_anew(make: Make, path: Path) -> None:
    """As when somebody deletes it while the program runs."""
    tracer = make()
    one_span(tracer, "before")
    assert tracer.flush(WAIT_S)
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    one_span(tracer, "after")
    assert tracer.flush(WAIT_S)
    assert ask(path, "SELECT name FROM spans") == [("after",)]


def test_a_relative_path_stays_where_the_program_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default it is a hidden folder there."""
    tracer = spanhook.configure({"tracing": {"backends": ["local"]}})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    one_span(tracer)
    assert tracer.shutdown()
    assert ask(tmp_path / ".spanhook" / "traces.db", "SELECT name FROM spans") == [("work",)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_writes_its_own_spans_beside_the_parent_s(make: Make, path: Path) -> None:
    """Each once."""
    tracer = make()
    one_span(tracer, "before")

    def child() -> bool:
        one_span(tracer, "child")
        return tracer.flush(WAIT_S)

    assert in_child(child)
    one_span(tracer, "after")
    assert tracer.flush(WAIT_S)
    assert sorted(ask(path, "SELECT name FROM spans")) == [("after",), ("before",), ("child",)]


def test_without_content_there_is_none_in_the_file(path: Path) -> None:
    """`capture = "metadata"`."""
    config = {"tracing": {"backends": ["local"], "capture": "metadata"}, "backends": {"local": {"path": str(path)}}}
    tracer = spanhook.configure(config)
    with pytest.raises(LookupError), tracer.span("work", query="geheim"):
        raise LookupError("geheim")
    tracer.track_signal("e", "edit", "edit", after="geheim", comment="geheim")
    assert tracer.shutdown()
    assert ask(path, "SELECT error_type FROM spans") == [("LookupError",)]
    assert b"geheim" not in path.read_bytes()


def test_traces_are_chosen_by_what_is_asked_for(path: Path) -> None:
    """By user, conversation, feedback, failure and time; the latest first."""
    store = store_of(path)
    ago_ns = time.time_ns() - DAY_NS
    failed = SpanError("E", None, None)
    store.add_spans(
        [
            span(1, 1, user_id="u1", convo_id="c1", start_ns=ago_ns),
            span(1, 2, user_id="u1", convo_id="c2", error=failed),
            span(1, 3, user_id="u2"),
            span(2, 3, parent=1, error=failed),
        ]
    )
    store.add_signal(Signal("event-3", "thumbs_down", time_ns=time.time_ns()))
    with reading(path) as read:

        def found(**wanted: Any) -> list[str]:
            return [row["event_id"] for row in read.traces(Wanted(**wanted), 10)]

        assert found() == ["event-3", "event-2", "event-1"]
        assert found(user_id="u1") == ["event-2", "event-1"]
        assert found(convo_id="c1") == ["event-1"]
        assert found(signal="thumbs_down") == ["event-3"]
        assert found(failed=True) == ["event-3", "event-2"]
        assert found(since_ns=time.time_ns() - DAY_NS // 2) == ["event-3", "event-2"]
        assert [row["event_id"] for row in read.traces(Wanted(), 1)] == ["event-3"]


def test_what_is_inside_of_a_trace_counts_too(path: Path) -> None:
    """A job that handles the requests of many users is found by each of them, and by feedback on any."""
    store = store_of(path)
    request = span(2, 1, parent=1, user_id="u1", convo_id="c1")
    request.kind, request.event_id = "interaction", "request-1"
    store.add_spans([request, span(1, 1), span(1, 2)])
    store.add_signal(Signal("request-1", "thumbs_up", time_ns=time.time_ns()))
    with reading(path) as read:
        for wanted in (Wanted(user_id="u1"), Wanted(convo_id="c1"), Wanted(signal="thumbs_up")):
            assert [row["event_id"] for row in read.traces(wanted, 10)] == ["event-1"]
        assert read.find("request-1") == f"{1:032x}"
        assert [signal.name for signal in read.signals(f"{1:032x}")] == ["thumbs_up"]
