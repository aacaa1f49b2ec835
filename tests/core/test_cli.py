"""The command line: what `spanhook check` and `spanhook plugins` say, and with which exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import spanhook
from spanhook.cli import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with no configuration in it or above."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_check_says_what_would_run(elsewhere: Path) -> None:
    """A right file: its name, the plugins, what is captured; exit status 0."""
    (elsewhere / "tracing.toml").write_text(
        '[tracing]\nextractors = ["history"]\ncapture = "metadata"\nsample_rate = 0.25\n'
    )
    result = run("check")
    assert result.exit_code == 0, result.output
    assert "tracing.toml" in result.output
    for line in ("history", "structlog", "metadata: no content", "25% of traces", "every DSPy call"):
        assert line in result.output


def test_check_without_a_file_checks_the_defaults(elsewhere: Path) -> None:
    """Nothing found is no error: the defaults run."""
    result = run("check")
    assert result.exit_code == 0
    assert "defaults" in result.output
    assert "history, lm_usage, usage_attribute, finish_reason" in result.output


def test_check_tells_every_problem_and_fails(elsewhere: Path) -> None:
    """A wrong file: one line a problem, each with its key, then the count; exit status 1."""
    file = elsewhere / "wrong.toml"
    file.write_text('[tracing]\nbackend = ["structlog"]\nextractors = ["histroy"]\nsample_rate = 2\n')
    result = run("check", str(file))
    assert result.exit_code == 1
    assert "wrong.toml: tracing.backend: unknown option (did you mean 'backends'?)" in result.output
    assert "wrong.toml: tracing.sample_rate" in result.output
    assert "problems; nothing would run" in result.output
    missing = run("check", "nowhere.toml")
    assert missing.exit_code == 1
    assert "nowhere.toml: no such file" in missing.output


def test_plugins_lists_what_is_installed(elsewhere: Path) -> None:
    """Every plugin with its group, distribution and version, whether it is chosen and loads; as JSON too."""
    rows = {(row["group"], row["name"]): row for row in json.loads(run("plugins", "--json").output)}
    history = rows["spanhook.extractors", "history"]
    assert history == {
        "name": "history",
        "group": "spanhook.extractors",
        "distribution": "spanhook",
        "version": spanhook.__version__,
        "entry_point": "spanhook_extractors.history:HistoryExtractor",
        "selected": True,
        "error": None,
        "install": None,
    }
    table = run("plugins")
    assert table.exit_code == 0
    assert "spanhook.backends" in table.output
    (elsewhere / "tracing.toml").write_text('[tracing]\nextractors = ["finish_reason"]\n')
    rows = {(row["group"], row["name"]): row for row in json.loads(run("plugins", "--json").output)}
    assert rows["spanhook.extractors", "history"]["selected"] is False
    assert rows["spanhook.extractors", "finish_reason"]["selected"] is True


def test_plugins_says_why_one_cannot_be_loaded(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin whose import fails: listed, with the reason and what to install."""
    info = elsewhere / "site" / "acme_traces-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-traces\nVersion: 1.0\nProvides-Extra: acme\n")
    (info / "entry_points.txt").write_text("[spanhook.backends]\nacme = acme_traces:Backend\n")
    (elsewhere / "site" / "acme_traces.py").write_text("import acme_traces_missing")
    monkeypatch.syspath_prepend(str(elsewhere / "site"))
    (row,) = [row for row in json.loads(run("plugins", "--json").output) if row["name"] == "acme"]
    assert (row["distribution"], row["version"], row["selected"]) == ("acme-traces", "1.0", False)
    assert "No module named 'acme_traces_missing'" in row["error"]
    assert 'pip install "acme-traces[acme]"' in row["error"]
    assert 'needs pip install "acme-traces[acme]"' in run("plugins").output
    assert "acme_traces_missing" in run("plugins", "--verbose").output


def test_plugins_survives_a_wrong_configuration(elsewhere: Path) -> None:
    """What is installed is told all the same; the problem goes to standard error."""
    (elsewhere / "tracing.toml").write_text("[tracing\n")
    result = run("plugins", "--json")
    assert result.exit_code == 0
    assert "not valid TOML" in result.stderr
    assert not any(row["selected"] for row in json.loads(result.stdout))


def test_the_command_is_installed() -> None:
    """`spanhook --version`, as a user runs it."""
    command = Path(sys.executable).with_name("spanhook")
    result = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == f"spanhook, version {spanhook.__version__}"


def test_the_command_line_gives_a_terminal_no_orders(elsewhere: Path) -> None:
    """What stands in a file or in a plugin's message is shown, and not obeyed."""
    (elsewhere / "tracing.toml").write_text(
        "[tracing]\n" + r'"a\u001b]0;title\u0007b\u009b2J\u202ec\rd" = 1' + "\n" + r'service = "x"', encoding="utf-8"
    )
    for command in ("check", "plugins"):
        output = run(command).output
        assert r"a\x1b]0;title\x07b\x9b2J\u202ec\rd: unknown option" in output
        assert not {"\x1b", "\x07", "\x9b", "\u202e", "\r"} & set(output)
