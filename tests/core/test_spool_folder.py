"""The spool's folder: where it is, whose, what else is in it, and when it can't be written or is removed."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

import spanhook
from doubles import WAIT_S, Memory, counts, one_span, tracer_of, wait_for
from spools import Switched, files, leave, spans, spooling

pytestmark = pytest.mark.usefixtures("short_pauses", "looks_often")


def test_a_folder_that_is_removed_is_noticed(spool_folder, caplog):
    """Said; what comes then has a new file, and what was in the old one is delivered, but not said to be kept."""
    backend = Switched()
    tracer = spooling(spool_folder, backend)
    spans(tracer, "1", "2")
    wait_for(lambda: counts(tracer).spooled == 2)
    shutil.rmtree(spool_folder)
    wait_for(lambda: counts(tracer).spooled == 0)
    spans(tracer, "3")
    wait_for(lambda: counts(tracer).spooled == 1)
    assert sum("was removed while it was in use" in message for message in caplog.messages) == 1
    backend.is_up.set()
    assert tracer.flush(WAIT_S)
    assert [span.name for span in backend.spans] == ["1", "2", "3"]
    assert tracer.shutdown(WAIT_S)
    assert files(spool_folder, "") == []


def test_a_folder_with_something_else_in_it(spool_folder, caplog):
    """What can't be opened is said; the program starts, and its spans go their way."""
    (spool_folder / "photos.db").mkdir(parents=True)
    memory = Memory()
    tracer = spooling(spool_folder, memory)
    spans(tracer, "1")
    assert tracer.flush(WAIT_S)
    wait_for(lambda: "photos.db" in caplog.text)
    assert tracer.shutdown(WAIT_S)
    assert len(memory.spans) == 1


def test_a_program_that_goes_to_another_directory(tmp_path, monkeypatch):
    """A relative spool stays where it was when the program was configured."""
    monkeypatch.chdir(tmp_path)
    tracer = spooling(Path("spool"), Switched())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    spans(tracer, "1")
    leave(tracer)
    assert len(files(tmp_path / "spool")) == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_files_are_for_their_user_only(spool_folder):
    """The folder too, when it is made."""
    tracer = spooling(spool_folder, Switched())
    spans(tracer, "1")
    wait_for(lambda: spool_folder.exists() and len(files(spool_folder, "")) == 3)
    assert {stat.S_IMODE(path.stat().st_mode) for path in spool_folder.iterdir()} == {0o600}
    assert stat.S_IMODE(spool_folder.stat().st_mode) == 0o700


def test_a_folder_that_can_t_be_written_is_a_config_error(tmp_path):
    """At once, with the option's name; nothing is configured."""
    (tmp_path / "file").write_text("")
    with pytest.raises(spanhook.ConfigError, match=r"delivery\.spool: .*file/spool can't be written"):
        spooling(tmp_path / "file" / "spool", Memory())


def test_without_a_spool_nothing_is_written(tmp_path):
    """No file, no folder."""
    tracer = tracer_of(Memory())
    one_span(tracer)
    assert tracer.shutdown(WAIT_S)
    assert list(tmp_path.iterdir()) == []
