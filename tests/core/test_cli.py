"""The command line: what `spanhook check` and `spanhook plugins` say, and with which exit status."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
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


def test_check_says_all_that_matters(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates as they are, what is kept, redacted and spooled, and which variables are stronger than the file."""
    (elsewhere / "tracing.toml").write_text(
        '[tracing]\nsample_rate = 0.001\nkeep = ["error", "slow:5s"]\ncompile = "off"\nadapter_spans = false\n'
        '[redact]\nfields = ["iban"]\n[delivery]\nspool = "spool"\n'
    )
    monkeypatch.setenv("SPANHOOK_TRACING__SERVICE", "x")
    monkeypatch.setenv("SPANHOOK_DELIVERY__QUEUE_SPANS", "7")
    output = run("check").output
    for line in (
        "traced     every DSPy call; adapters have no spans",
        "sample     0.1% of traces, and those kept by error, slow:5s",
        "compile    off: nothing of an optimizer's run",
        "redact     the secrets that are known; patterns of yours: 0, fields: 1",
        "spool      spool",
        "variables  SPANHOOK_DELIVERY__QUEUE_SPANS, SPANHOOK_TRACING__SERVICE",
    ):
        assert f"  {line}\n" in output
    monkeypatch.setenv("SPANHOOK_TRACING__SAMPLE_RATE", "0.999")
    monkeypatch.setenv("SPANHOOK_REDACT__ENABLED", "false")
    monkeypatch.setenv("SPANHOOK_DELIVERY__SPOOL", "")
    output = run("check").output
    for line in ("99.9% of traces", "nothing: secrets in texts go out as they are", "none: what is not delivered yet"):
        assert line in output


def test_check_and_configure_agree_about_a_spool(elsewhere: Path) -> None:
    """A directory that can't be written is found by both."""
    (elsewhere / "taken").write_text("a file")
    (elsewhere / "tracing.toml").write_text('[delivery]\nspool = "taken/spool"\n')
    with pytest.raises(spanhook.ConfigError) as caught:
        spanhook.configure()
    (problem,) = caught.value.problems
    assert problem.startswith("tracing.toml: delivery.spool: taken/spool can't be written: ")
    result = run("check")
    assert (result.exit_code, problem in result.output) == (1, True)


def test_check_and_configure_agree_about_what_is_off(elsewhere: Path) -> None:
    """With enabled = false no plugin is looked at, by either of them."""
    (elsewhere / "tracing.toml").write_text('[tracing]\nenabled = false\nbackends = ["nope"]\n')
    spanhook.configure().shutdown()
    result = run("check")
    assert (result.exit_code, "nothing: enabled = false" in result.output) == (0, True)


def test_check_shows_what_a_plugin_warns_of(elsewhere: Path) -> None:
    """Raindrop without its key is right, and sends nothing: that is in the output, once."""
    pytest.importorskip("raindrop")
    (elsewhere / "tracing.toml").write_text('[tracing]\nbackends = ["raindrop"]\n')
    result = run("check")
    assert result.exit_code == 0
    assert "  warning    backend raindrop: no api_key: nothing is sent to Raindrop." in result.stdout
    assert result.output.count("no api_key") == 1


@pytest.mark.parametrize("command", [["check"], ["plugins"], ["check", "nöpe→.toml"]])
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_stream_that_has_not_every_character(elsewhere: Path, command: list[str], encoding: str) -> None:
    """What it can't take is escaped or left to plainer marks: a file that is right has exit status 0 all the same."""
    (elsewhere / "tracing.toml").write_text('[tracing]\nextractors = ["history"]\nkeep = ["error"]\n', "utf-8")
    result = CliRunner(charset=encoding).invoke(main, command)
    assert not isinstance(result.exception, UnicodeError)
    assert result.exit_code == (1 if len(command) > 1 else 0)
    assert r"\u2192.toml: no such file" in result.stderr if len(command) > 1 else "* " in result.stdout


def test_a_locale_that_has_not_every_character(elsewhere: Path) -> None:
    """As a user runs it where no locale is set, in a pipe."""
    (elsewhere / "tracing.toml").write_text('[redact]\nfields = ["ñ→"]\n', "utf-8")
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}
    program = [sys.executable, "-c", "from spanhook.cli import main; main(['check'])"]
    done = subprocess.run(program, env={**os.environ, **locale}, capture_output=True, check=False)
    assert (done.returncode, done.stdout[:14]) == (0, b"* tracing.toml"), done.stderr


def test_help_shows_whole_sentences() -> None:
    """Of each command."""
    result = CliRunner().invoke(main, ["--help"], terminal_width=80)
    commands = result.output.partition("Commands:\n")[2].splitlines()
    assert len(commands) == 5
    assert all(line.endswith(".") and not line.endswith("...") for line in commands)


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


@pytest.fixture
def acme(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A distribution with the backend `acme`, whose module is not there, and an extra of that name."""
    site = elsewhere / "site"
    info = site / "acme_traces-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-traces\nVersion: 1.0\nProvides-Extra: acme\n")
    (info / "entry_points.txt").write_text("[spanhook.backends]\nacme = acme_traces_plugin.backend:Backend\n")
    monkeypatch.syspath_prepend(str(site))
    yield site
    for name in [name for name in sys.modules if name.startswith("acme_traces_plugin")]:
        del sys.modules[name]  # the next test has another of that name


def test_plugins_says_why_one_cannot_be_loaded(acme: Path) -> None:
    """A plugin whose import fails: listed, with the reason and what to install."""
    (acme / "acme_traces_plugin").mkdir()
    (acme / "acme_traces_plugin" / "backend.py").write_text("import acme_sdk_missing")
    (row,) = [row for row in json.loads(run("plugins", "--json").output) if row["name"] == "acme"]
    assert (row["distribution"], row["version"], row["selected"]) == ("acme-traces", "1.0", False)
    assert "No module named 'acme_sdk_missing'" in row["error"]
    assert 'to install what it needs: pip install "acme-traces[acme]"' in row["error"]
    output = run("plugins").output
    assert 'to install: pip install "acme-traces[acme]"\n' in output
    assert not [line for line in output.splitlines() if line.endswith(" ")]
    assert "acme_sdk_missing" in run("plugins", "--verbose").output


@pytest.mark.parametrize("has_package", [True, False])
def test_an_extra_is_no_help_where_the_plugin_itself_is_missing(acme: Path, has_package: bool) -> None:
    """An entry point that leads nowhere is its author's mistake."""
    if has_package:
        (acme / "acme_traces_plugin").mkdir()
    (row,) = [row for row in json.loads(run("plugins", "--json").output) if row["name"] == "acme"]
    assert "No module named 'acme_traces_plugin" in row["error"]
    assert "pip install" not in row["error"]
    assert row["install"] is None


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


@pytest.fixture
def commands(acme: Path) -> Path:
    """It has subcommands: one that works, one that can't be imported, one that is none, one with a name of ours."""
    places = {"greet": "commands", "lost": "nowhere", "number": "commands", "check": "commands"}
    points = [f"{name} = acme_traces_plugin.{module}:{name}\n" for name, module in places.items()]
    (acme / "acme_traces-1.0.dist-info" / "entry_points.txt").write_text("[spanhook.commands]\n" + "".join(points))
    (acme / "acme_traces_plugin").mkdir()
    (acme / "acme_traces_plugin" / "commands.py").write_text(
        "import click\n\n@click.command()\n@click.argument('name')\ndef greet(name):\n"
        "    'Greet somebody.'\n    click.echo(f'Hello {name}')\n\nnumber = 1\ncheck = greet\n"
    )
    return acme


def test_a_plugin_s_command_is_one_of_spanhook_s(commands: Path) -> None:
    """In the help, with its arguments; one of our own names stays ours."""
    assert "greet    Greet somebody." in run("--help").output
    assert run("greet", "Ada").output == "Hello Ada\n"
    assert "defaults" in run("check").output


@pytest.mark.parametrize(("name", "why"), [("lost", "No module named"), ("number", "is no click command")])
def test_a_command_that_cannot_be_used_says_why(commands: Path, name: str, why: str) -> None:
    """And spoils neither the help nor the others."""
    help_text = run("--help")
    assert help_text.exit_code == 0
    assert re.search(rf"{name} +Can't be used here", help_text.output)
    result = run(name)
    assert result.exit_code == 1
    assert why in result.output
    assert "distribution acme-traces 1.0" in result.output


def test_an_unknown_command_is_a_wrong_one() -> None:
    """As with every command line."""
    result = run("nope")
    assert result.exit_code == 2
    assert "No such command 'nope'" in result.output


def test_the_module_is_the_command() -> None:
    """For those who have no `spanhook` on their path."""
    done = subprocess.run([sys.executable, "-m", "spanhook", "--help"], capture_output=True, text=True, check=True)
    assert "python -m spanhook [OPTIONS] COMMAND" in done.stdout
