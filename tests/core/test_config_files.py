"""Which file is read, what may name it, and what is said where that can't be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import spanhook
from spanhook import ConfigError
from spanhook.config.files import read

SERVICE = "[tracing]\nservice = 'named'\n"


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (5, "a int"),
        (True, "a bool"),
        (["structlog"], "a list"),
        (b"tracing.toml", "a bytes"),
        (spanhook.TracingSettings(), "a TracingSettings"),
        ("", "an empty text"),
        ("[tracing]\nservice = 'x'\n", "the text of a file"),
    ],
    ids=str,
)
def test_what_is_no_configuration_is_refused(problems_of: Any, config: Any, what: str) -> None:
    """As the documentation promises, with a ConfigError that says what to give instead."""
    assert problems_of(config) == [f"configure(): give a path, a dict or Settings, not {what}"]


def test_a_path_is_shown_on_one_line(problems_of: Any) -> None:
    """Whatever is in it."""
    assert problems_of("a\x1b[2Jb\u2028.toml") == [r"a\x1b[2Jb\u2028.toml: no such file"]


@pytest.mark.parametrize("by_variable", [True, False])
def test_the_home_directory_in_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by_variable: bool) -> None:
    """`~` is the home directory, as a shell has it, where no shell has looked at the path."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "mine.toml").write_text(SERVICE, encoding="utf-8")
    if by_variable:
        monkeypatch.setenv("SPANHOOK_CONFIG", "~/mine.toml")
    assert read(None if by_variable else "~/mine.toml").settings.tracing.service == "named"


def test_the_case_of_the_variable_is_of_no_matter(problems_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is with the variables that give options; the one in capitals counts where there are two."""
    monkeypatch.setenv("spanhook_config", "nope.toml")
    assert problems_of() == ["nope.toml: no such file (named by spanhook_config)"]
    Path("tracing.toml").write_text(SERVICE, encoding="utf-8")
    monkeypatch.setenv("SPANHOOK_CONFIG", "tracing.toml")
    assert read().settings.tracing.service == "named"


@pytest.mark.parametrize("spool", ["", "  ", "${NOT_SET:-}"])
def test_an_empty_spool_is_none(monkeypatch: pytest.MonkeyPatch, spool: str) -> None:
    """A variable that is empty gives no directory; as a path it would be the working directory."""
    assert read({"delivery": {"spool": spool}}).settings.delivery.spool is None
    monkeypatch.setenv("SPANHOOK_DELIVERY__SPOOL", "")
    assert read().settings.delivery.spool is None
    assert read({"delivery": {"spool": "."}}).settings.delivery.spool == Path()


PYPROJECT = "[tool.spanhook.tracing]\nservice = 'named'\n"


def test_a_pyproject_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the argument and by the variable: what is for us in it counts, as where it is found."""
    Path("pyproject.toml").write_text(f"[project]\nname = 'x'\n{PYPROJECT}", encoding="utf-8")
    assert read("pyproject.toml").settings.tracing.service == "named"
    monkeypatch.setenv("SPANHOOK_CONFIG", "pyproject.toml")
    found = read()
    assert (found.settings.tracing.service, found.places.origin) == ("named", "pyproject.toml [tool.spanhook]")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[project]\nname = 'x'", "pyproject.toml: has no [tool.spanhook]"),
        ("[project", "pyproject.toml: not valid TOML: "),
        ("[tool]\nspanhook = 1", "pyproject.toml [tool.spanhook]: must be a table"),
        (f"{PYPROJECT}sample_rat = 1", "pyproject.toml [tool.spanhook]: tracing.sample_rat: unknown option"),
        (
            "[tool.spanhook]\nsample_rate = 1",
            "pyproject.toml [tool.spanhook]: sample_rate: belongs into [tool.spanhook.tracing]",
        ),
    ],
)
def test_a_pyproject_that_was_named_and_is_wrong(problems_of: Any, text: str, problem: str) -> None:
    """Nothing in it for us is an error then."""
    Path("pyproject.toml").write_text(text, encoding="utf-8")
    (found,) = problems_of("pyproject.toml")
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (PYPROJECT.replace("]", ""), "pyproject.toml: not valid TOML: "),
        ("[tool]\nspanhook = 1\n", "pyproject.toml [tool.spanhook]: must be a table"),
    ],
)
def test_a_pyproject_that_was_meant_for_us_and_is_wrong(problems_of: Any, text: str, problem: str) -> None:
    """It is not passed over in silence: the program would run with the defaults."""
    Path("pyproject.toml").write_text(text, encoding="utf-8")
    (found,) = problems_of()
    assert found.startswith(problem)


def test_settings_can_be_read_without_a_tracer(tmp_path: Path) -> None:
    """As `configure` would use them, with every problem in one error, or in a list beside what is right."""
    file = tmp_path / "tracing.toml"
    file.write_text('[tracing]\nservice = "bot"\nsample_rate = 2\n[backends.x]\nkey = "${NOT_SET_ANYWHERE}"\nn = 1\n')
    with pytest.raises(ConfigError) as caught:
        spanhook.read_settings(file)
    problems: list[str] = []
    settings = spanhook.read_settings(problems=problems)
    assert problems == list(caught.value.problems)
    assert len(problems) == 2
    assert (settings.tracing.service, settings.tracing.sample_rate) == ("bot", 1.0)
    assert settings.backends["x"]["n"] == 1
    assert spanhook.current_span() is None
