"""The spool: what was not delivered outlasts an outage, a shutdown and the process, and is delivered once."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import spanhook
from doubles import WAIT_S, Gate, Memory, counts, messages, one_span, tracer_of, wait_for
from spanhook import BackendStats, Signal, Span, SpanError, Usage
from spanhook.delivery import codec, items, outage, spool
from spanhook.delivery.items import Identity
from spanhook.delivery.spool_file import SpoolFile
from spools import Switched, files, leave, rows, spans, spooling
from threads import end_of_all


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses are those of a test."""
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(outage, "LONGEST_PAUSE_S", 0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_an_outage_longer_than_the_queue_loses_nothing(folder):
    """What found no room in memory is read from the spool: in order, once; then the folder is empty."""
    backend, free = Switched(), Memory()
    tracer = spooling(folder, backend, free, queue_spans=20, batch_spans=7)
    names = [str(number) for number in range(300)]
    for name in names:
        spans(tracer, name)
        if int(name) % 10 == 9:
            assert tracer.flush(0) is False
            wait_for(lambda: counts(tracer, "b").delivered > int(name))  # noqa: B023
    assert counts(tracer) == BackendStats(accepted=300, queued=300, spooled=300)
    backend.is_up.set()
    assert tracer.flush(WAIT_S)
    assert [span.name for span in backend.spans] == names
    assert [span.name for span in free.spans] == names
    assert counts(tracer) == BackendStats(accepted=300, delivered=300)
    assert tracer.shutdown(WAIT_S)
    assert files(folder, "") == []


def test_what_a_shutdown_leaves_is_said_and_delivered_by_the_next_start(folder, caplog):
    """Each backend gets what it lacks and nothing else: spans, identities, signals, in order."""
    down, up = Switched(), Switched(is_up=True)
    tracer = spooling(folder, down, up)
    with tracer.interaction(user_id="u1", event="chat", properties={"plan": "pro"}) as interaction:
        spans(tracer, "inner", question="Why?")
    tracer.identify("u1", {"seats": 3, "beta": True})
    tracer.track_signal(interaction.event_id, "thumbs_up", "feedback", comment="Right!", sentiment="POSITIVE")
    with caplog.at_level(logging.WARNING, "spanhook"):
        wait_for(lambda: counts(tracer, "b").delivered == 4)
        leave(tracer)
    assert messages(caplog.records)[-1] == "not delivered: backend a: 4 kept in the spool"
    assert counts(tracer) == BackendStats(accepted=4, queued=4, spooled=4)
    assert len(up.calls) >= 4

    late, idle = Switched(is_up=True), Switched(is_up=True)
    second = spooling(folder, late, idle)
    wait_for(lambda: counts(second).delivered == 4)  # without a span of its own, and without a flush
    assert second.flush(WAIT_S)
    assert counts(second) == BackendStats(accepted=4, delivered=4)
    assert [span.to_dict() for span in late.spans] == [span.to_dict() for span in up.spans]
    assert late.identities == up.identities
    assert late.signals == up.signals
    assert [hook for hook in late.hooks if hook != "flush"][-2:] == ["identify", "track_signal"]
    assert not idle.spans
    assert second.shutdown(WAIT_S)
    assert files(folder, "") == []


def test_what_is_new_waits_behind_what_is_old(folder):
    """A flush is about both; nothing is delivered twice."""
    first = spooling(folder, Switched())
    spans(first, "1", "2", "3")
    leave(first)
    backend = Switched()
    second = spooling(folder, backend, batch_spans=2)
    spans(second, "4", "5")
    assert second.flush(0.01) is False
    backend.is_up.set()
    assert second.flush(WAIT_S)
    assert [span.name for span in backend.spans] == ["1", "2", "3", "4", "5"]
    assert counts(second) == BackendStats(accepted=5, delivered=5)


def test_a_backend_that_hangs_keeps_its_spans_and_no_one_waits(folder):
    """The shutdown is over in time; what was not sent is there for the next start."""
    gate = Gate()
    tracer = spooling(folder, Memory(gate), batch_spans=1)
    spans(tracer, "1", "2", "3")
    assert tracer.flush(0) is False
    assert gate.reached.wait(WAIT_S)
    assert tracer.shutdown(0.2) is False
    assert counts(tracer).queued == counts(tracer).spooled == 3
    gate.open()
    end_of_all()
    memory = Memory()
    second = spooling(folder, memory)
    wait_for(lambda: counts(second).delivered >= 2)
    assert second.flush(WAIT_S)
    assert [span.name for span in memory.spans][-2:] == ["2", "3"], "the first may come again: nobody noted its end"


def test_a_batch_that_was_refused_does_not_come_again(folder):
    """A poisoned batch must not be offered at each start."""

    def refuse(_: object) -> None:
        raise ValueError("HTTP 400")

    tracer = spooling(folder, Memory(refuse))
    spans(tracer, "1", "2")
    assert tracer.shutdown(WAIT_S) is False
    assert counts(tracer) == BackendStats(accepted=2, failed=2)
    assert files(folder, "") == []


def test_the_files_of_living_processes_are_left_alone(folder):
    """Two tracers share the folder, as two processes do: each delivers its own."""
    one, two = Switched(), Switched()
    first = spooling(folder, one)
    spans(first, "1")
    wait_for(lambda: folder.exists() and files(folder))
    source = {"instrument": "wrapped", "backends": [], "extractors": []}
    second = spanhook.configure(
        {"tracing": source, "delivery": {"spool": str(folder), "interval_s": 0.001}}, plugins={"a": two}
    )
    spans(second, "2")
    wait_for(lambda: len(files(folder)) == 2 or not files(folder))
    one.is_up.set()
    two.is_up.set()
    assert second.flush(WAIT_S)
    first.shutdown(WAIT_S)
    assert [span.name for span in (*one.spans, *two.spans)] in (["1", "2"], ["2", "1"])


def test_a_damaged_file_is_set_aside_and_said(folder, caplog):
    """Not a database, or half of one: never a failure to start."""
    first = spooling(folder, Switched())
    spans(first, *map(str, range(200)), text="x" * 1_000)
    leave(first)
    (half,) = files(folder)
    half.write_bytes(half.read_bytes()[:20_000])
    (folder / "1-nonsense.db").write_bytes(b"nonsense" * 1_000)
    memory = Memory()
    with caplog.at_level(logging.WARNING, "spanhook"):
        second = spooling(folder, memory)
        spans(second, "fine")
        wait_for(lambda: memory.spans and memory.spans[-1].name == "fine")
        assert len(files(folder, ".damaged")) == 2
    assert "1-nonsense.db is damaged" in caplog.text
    counts(second)
    second.shutdown(WAIT_S)


def test_a_damaged_row_takes_no_other_with_it(folder):
    """It is counted as dropped."""
    first = spooling(folder, Switched())
    spans(first, "1", "2", "3")
    leave(first)
    (path,) = files(folder)
    database = sqlite3.connect(path)
    database.execute("UPDATE items SET body = x'00ff' WHERE id = 2")
    database.commit()
    database.close()
    memory = Memory()
    second = spooling(folder, memory)
    wait_for(lambda: counts(second).delivered == 2)
    assert second.flush(WAIT_S) is False, "the loss is told"
    assert [span.name for span in memory.spans] == ["1", "3"]
    assert counts(second) == BackendStats(accepted=3, delivered=2, dropped={"spool_damaged": 1})


def test_a_full_spool_drops_the_oldest_and_counts_them(folder, caplog):
    """In memory and on disk; what stays arrives, in order, and the backend that was quick has all."""
    backend, free = Switched(), Memory()
    tracer = spooling(folder, backend, free, queue_spans=10, batch_spans=5, spool_bytes=50_000)
    with caplog.at_level(logging.WARNING, "spanhook"):
        for number in range(200):
            spans(tracer, str(number), text="x" * 1_000)
            if number % 5 == 4:
                assert tracer.flush(0) is False
                wait_for(lambda: counts(tracer, "b").delivered > number)  # noqa: B023
    assert any("dropped (spool full)" in message for message in messages(caplog.records))
    dropped = counts(tracer).dropped["spool_full"]
    assert 100 < dropped < 200
    assert sum(len(body) for path in files(folder) for _, body in rows(path)) <= 50_000
    backend.is_up.set()
    assert tracer.flush(WAIT_S) is False
    names = [int(span.name) for span in backend.spans]
    assert names == sorted(set(names))
    assert names[-1] == 199
    assert len(names) == 200 - dropped
    assert counts(tracer) == BackendStats(accepted=200, delivered=200 - dropped, dropped={"spool_full": dropped})
    assert len(free.spans) == 200


def test_what_is_too_old_is_dropped_and_counted(folder, monkeypatch):
    """It is looked for at the start, and once a minute."""
    first = spooling(folder, Switched())
    spans(first, "1", "2")
    leave(first)
    memory = Memory()
    now = spool.time.time_ns()
    monkeypatch.setattr(spool.time, "time_ns", lambda: now + 8 * 86_400 * 10**9)
    second = spooling(folder, memory)
    wait_for(lambda: sum(counts(second).dropped.values()) or memory.spans)
    stats = counts(second)
    assert stats.dropped.get("spool_expired", 0) + stats.delivered == 2
    monkeypatch.undo()
    second.shutdown(WAIT_S)
    assert files(folder, "") == []


def test_what_is_for_a_backend_that_is_not_configured_stays_and_is_said(folder, caplog):
    """Another program may have it; a later start with that backend delivers it."""
    first = spooling(folder, Switched(is_up=True), Switched())
    spans(first, "1", "2")
    wait_for(lambda: counts(first).delivered == 2)
    leave(first)
    with caplog.at_level(logging.WARNING, "spanhook"):
        only_a = spooling(folder, Memory())
        wait_for(lambda: "2 items are for backend b, which is not configured here" in caplog.text)
        assert only_a.shutdown(WAIT_S)
    memory = Memory()
    both = spooling(folder, Memory(), memory)
    wait_for(lambda: counts(both, "b").delivered == 2)
    assert counts(both) == BackendStats()
    assert both.shutdown(WAIT_S)
    assert files(folder, "") == []


def test_files_are_for_their_user_only(folder):
    """The folder too, when it is made."""
    tracer = spooling(folder, Switched())
    spans(tracer, "1")
    wait_for(lambda: folder.exists() and len(files(folder, "")) == 3)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_metadata_alone_is_all_that_is_written(folder):
    """With capture = "metadata" no content is on the disk either."""
    tracer = tracer_of(
        Switched(), tracing={"capture": "metadata"}, delivery={"spool": str(folder), "interval_s": 0.001}
    )
    with pytest.raises(KeyError), tracer.span("work", question="sesame"):
        raise KeyError("sesame")
    leave(tracer)
    (path,) = files(folder)
    assert b"work" in path.read_bytes()
    assert b"sesame" not in path.read_bytes()


def test_a_folder_that_can_t_be_written_is_a_config_error(tmp_path):
    """At once, with the option's name; nothing is configured."""
    (tmp_path / "file").write_text("")
    with pytest.raises(spanhook.ConfigError, match=r"delivery\.spool: .*file/spool can't be written"):
        spooling(tmp_path / "file" / "spool", Memory())


def test_a_disk_that_fails_is_said_and_delivery_goes_on(folder, monkeypatch):
    """From memory, as without a spool."""

    def full(*_: object) -> SpoolFile:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(SpoolFile, "create", full)
    memory = Memory()
    tracer = spooling(folder, memory)
    spans(tracer, "1", "2")
    assert tracer.flush(WAIT_S)
    assert [span.name for span in memory.spans] == ["1", "2"]
    assert counts(tracer) == BackendStats(accepted=2, delivered=2)
    assert any("spool: writing" in place for place in tracer.stats().errors)


def test_what_can_t_be_written_goes_on_from_memory(folder, monkeypatch):
    """Nothing that an item holds ends the thread that writes it."""
    monkeypatch.setattr("spanhook.delivery.spool_file.encode", lambda item: "\ud800".encode())
    memory = Memory()
    tracer = spooling(folder, memory)
    spans(tracer, "1")
    assert tracer.flush(WAIT_S)
    monkeypatch.undo()
    spans(tracer, "2")
    assert tracer.flush(WAIT_S)
    assert [span.name for span in memory.spans] == ["1", "2"]
    assert counts(tracer) == BackendStats(accepted=2, delivered=2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_a_file_of_its_own(folder):
    """What the parent had spooled stays the parent's; what the child leaves, a later start delivers."""
    backend = Switched()
    tracer = spooling(folder, backend)
    spans(tracer, "parent")
    wait_for(lambda: folder.exists() and files(folder))
    child = os.fork()
    if child == 0:
        try:
            spans(tracer, "child")
            wait_for(lambda: tracer.stats().backends["a"].spooled)  # a forked copy of a large process is slow at first
            tracer.shutdown(0.5)
        finally:
            os._exit(len(files(folder)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    backend.is_up.set()
    assert tracer.flush(WAIT_S)
    assert tracer.shutdown(WAIT_S)
    assert [span.name for span in backend.spans] == ["parent"]
    memory = Memory()
    second = spooling(folder, memory)
    wait_for(lambda: [span.name for span in memory.spans] == ["child"])
    assert second.shutdown(WAIT_S)
    assert files(folder, "") == []


def test_without_a_spool_nothing_is_written(tmp_path):
    """No file, no folder."""
    tracer = tracer_of(Memory())
    one_span(tracer)
    assert tracer.shutdown(WAIT_S)
    assert list(tmp_path.iterdir()) == []


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_content = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(_content, _content, _texts, st.none() | _texts)
def test_a_span_is_the_same_after_a_restart(inputs, outputs, name, text):
    """To the last bit, whatever its content."""
    span = Span("0" * 32, "1" * 16, text, name, "lm", name, 1, 2**62, inputs, outputs, model=text, cost_usd=0.1 + 0.2)
    span.usage, span.error = Usage(3, cached_input_tokens=0), SpanError("E", text, name)
    span.cache_hit, span.attributes, span.sources = False, {name: outputs}, {"model": name}
    again = codec.decode(items.SPAN, codec.encode(span))
    assert isinstance(again, Span)
    assert repr(again.to_dict()) == repr(span.to_dict())
    assert again.usage == span.usage
    assert again.error == span.error


@given(
    st.dictionaries(_texts, _texts | st.integers(-(2**63) + 1, 2**63 - 1) | st.booleans()), _content, st.none() | _texts
)
def test_identities_and_signals_too(traits, content, text):
    """With the same types."""
    identity = Identity("u", traits)
    assert repr(codec.decode(items.IDENTITY, codec.encode(identity))) == repr(identity)
    signal = Signal("e", "s", "edit", 2**62, {"x": content}, text, text, text, "NEGATIVE")
    assert repr(codec.decode(items.SIGNAL, codec.encode(signal))) == repr(signal)
