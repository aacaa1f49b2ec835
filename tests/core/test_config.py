"""Where the configuration is found, what is stronger than what, and what `${…}` stands for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanhook import ConfigError, DeliverySettings, Settings, TracingSettings
from spanhook.config.files import LoadedConfig, read, substitute


def load(config: Any = None) -> LoadedConfig:
    """The configuration that is found, which must be right."""
    loaded = read(config)
    if loaded.problems:
        raise ConfigError(loaded.problems)
    return loaded


def write(path: str | Path, service: str = "here") -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'[tracing]\nservice = "{service}"\n', encoding="utf-8")
    return path


def test_without_any_configuration_the_defaults_hold():
    """No file, no variable: structlog and the four extractors, with the numbers that the reference gives."""
    loaded = load()
    assert loaded.places.origin == "defaults"
    assert loaded.settings.tracing == TracingSettings(
        enabled=True,
        instrument="all",
        service=None,
        extractors=["history", "lm_usage", "usage_attribute", "finish_reason"],
        backends=["structlog"],
        capture="full",
        max_text_chars=100_000,
        sample_rate=1.0,
        strict=False,
    )
    assert loaded.settings.delivery == DeliverySettings(
        queue_spans=20_000, batch_spans=512, interval_s=0.2, exit_timeout_s=5.0
    )
    assert loaded.settings.backends == loaded.settings.extractors == {}


@pytest.mark.parametrize("as_type", [str, Path])
def test_the_argument_names_a_file(as_type):
    """A path, as text or as a Path, wins over everything that could be found."""
    write("tracing.toml", "found")
    loaded = load(as_type(write("elsewhere/mine.toml", "named")))
    assert (loaded.settings.tracing.service, loaded.places.origin) == ("named", os.path.join("elsewhere", "mine.toml"))


def test_a_dict_has_the_shape_of_the_file():
    """In code the same sections stand in a dict."""
    loaded = load({"tracing": {"service": "code", "extractors": []}, "backends": {"x": {"level": 3}}})
    assert loaded.settings.tracing.service == "code"
    assert loaded.settings.tracing.extractors == []
    assert loaded.settings.backends == {"x": {"level": 3}}
    assert loaded.places.origin == "configure()"


def test_ready_made_settings_are_taken_as_they_are(monkeypatch):
    """Settings from code are final: not even a reference in them is looked up."""
    settings = Settings(tracing=TracingSettings(service="${NOT_SET}"))
    monkeypatch.setenv("SPANHOOK_TRACING__SERVICE", "environment")
    assert load(settings).settings is settings
    assert settings.tracing.service == "${NOT_SET}"


def test_a_variable_names_the_file(monkeypatch):
    """SPANHOOK_CONFIG comes before the search."""
    write("tracing.toml", "found")
    monkeypatch.setenv("SPANHOOK_CONFIG", str(write("deploy/production.toml", "named")))
    assert load().settings.tracing.service == "named"


def test_an_empty_variable_names_no_file(monkeypatch):
    """SPANHOOK_CONFIG="" is as if it were not set."""
    write("tracing.toml", "found")
    monkeypatch.setenv("SPANHOOK_CONFIG", "")
    assert load().settings.tracing.service == "found"


def test_the_file_is_searched_here_and_in_every_parent(monkeypatch, tmp_path):
    """The nearest tracing.toml counts."""
    write("tracing.toml", "outer")
    (tmp_path / "a/b/c").mkdir(parents=True)
    monkeypatch.chdir("a/b/c")
    assert load().settings.tracing.service == "outer"
    write("../tracing.toml", "inner")
    loaded = load()
    assert loaded.settings.tracing.service == "inner"
    assert loaded.places.origin == str(tmp_path / "a" / "b" / "tracing.toml")


def test_pyproject_comes_after_every_tracing_toml(monkeypatch, tmp_path):
    """[tool.spanhook] counts where there is no tracing.toml, neither here nor above."""
    Path("pyproject.toml").write_text("[tool.spanhook.tracing]\nservice = 'project'\n", encoding="utf-8")
    loaded = load()
    assert (loaded.settings.tracing.service, loaded.places.origin) == ("project", "pyproject.toml [tool.spanhook]")
    assert loaded.places.of("tracing", "service") == "pyproject.toml [tool.spanhook]: tracing.service"
    (tmp_path / "below").mkdir()
    monkeypatch.chdir("below")
    assert load().settings.tracing.service == "project"
    write("../tracing.toml", "file")
    assert load().settings.tracing.service == "file"


@pytest.mark.parametrize("text", ["[project]\nname = 'x'\n", "not toml [", "tool = 1\n", "[tool]\nother = 1\n"])
def test_a_pyproject_that_says_nothing_is_passed_over(text):
    """What is wrong with a pyproject.toml is for the tools that own it to report."""
    Path("pyproject.toml").write_text(text, encoding="utf-8")
    assert load().places.origin == "defaults"


def test_without_a_working_directory_the_defaults_hold(monkeypatch, tmp_path):
    """A service whose directory was removed under it still starts."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert load().places.origin == "defaults"


def test_a_file_with_a_byte_order_mark_is_read():
    """Editors on Windows write one."""
    path = write("tracing.toml", "marked")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load().settings.tracing.service == "marked"


def test_the_environment_is_stronger_than_a_file(monkeypatch):
    """Each variable replaces one value and leaves the others of its section."""
    Path("tracing.toml").write_text(
        "[tracing]\nservice='file'\nsample_rate=0.5\n[backends.x]\nurl='file'\nlevel=1\n", encoding="utf-8"
    )
    monkeypatch.setenv("SPANHOOK_TRACING__SAMPLE_RATE", "0.1")
    monkeypatch.setenv("SPANHOOK_TRACING__BACKENDS", "one, two")
    monkeypatch.setenv("SPANHOOK_BACKENDS__X__URL", "environment")
    monkeypatch.setenv("SPANHOOK_DELIVERY__BATCH_SPANS", "7")
    settings = load().settings
    assert (settings.tracing.service, settings.tracing.sample_rate) == ("file", 0.1)
    assert settings.tracing.backends == ["one", "two"]
    assert settings.backends == {"x": {"url": "environment", "level": 1}}
    assert settings.delivery.batch_spans == 7


def test_code_is_stronger_than_the_environment(monkeypatch):
    """What the dict leaves open the environment may give; what it says is final, and a wrong variable does no harm."""
    monkeypatch.setenv("SPANHOOK_TRACING__SAMPLE_RATE", "often")
    monkeypatch.setenv("SPANHOOK_TRACING__SERVICE", "environment")
    monkeypatch.setenv("SPANHOOK_BACKENDS__X__URL", "environment")
    settings = load({"tracing": {"sample_rate": 0.5}, "backends": {"x": {"level": 1}}}).settings
    assert (settings.tracing.sample_rate, settings.tracing.service) == (0.5, "environment")
    assert settings.backends == {"x": {"level": 1, "url": "environment"}}


def test_settings_made_in_code_read_the_environment(monkeypatch):
    """Settings() without arguments is the environment over the defaults."""
    monkeypatch.setenv("SPANHOOK_TRACING__STRICT", "true")
    assert Settings().tracing.strict is True
    assert Settings(tracing=TracingSettings(strict=False)).tracing.strict is False


def test_a_value_is_traced_to_where_it_was_given(monkeypatch):
    """Messages about plugins name the variable where one gave the value, the file otherwise."""
    write("tracing.toml")
    monkeypatch.setenv("SPANHOOK_BACKENDS__X__URL", "environment")
    loaded = load()
    assert loaded.places.of("backends", "x", "url") == "SPANHOOK_BACKENDS__X__URL"
    assert loaded.places.of("backends", "x", "level") == "tracing.toml: backends.x.level"
    assert loaded.places.of("backends", "x") == "SPANHOOK_BACKENDS__X__URL"
    assert loaded.places.of("backends", "y") == "tracing.toml: backends.y"


VARIABLES = {"NAME": "value", "EMPTY": "", "TRICKY": "${NAME}"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain $NAME {NAME} $ {", "plain $NAME {NAME} $ {"),
        ("${NAME}", "value"),
        ("a-${NAME}-${NAME}-b", "a-value-value-b"),
        ("${EMPTY}", ""),
        ("${NAME:-other}", "value"),
        ("${EMPTY:-other}", "other"),
        ("${UNSET:-other}", "other"),
        ("${UNSET:-}", ""),
        ("${UNSET:-a:-b $c}", "a:-b $c"),
        ("$${NAME}", "${NAME}"),
        ("$$${NAME}", "$${NAME}"),
        ("$${not one", "${not one"),
        ("${TRICKY}", "${NAME}"),
    ],
)
def test_references_are_replaced(text, expected):
    """${NAME}, ${NAME:-default} and $${…}; a variable's own text is never looked at again."""
    problems: list[str] = []
    tree = {"a": [text, {"b": text}], "n": 1, "flag": True}
    assert substitute(tree, VARIABLES, "f", problems) == {"a": [expected, {"b": expected}], "n": 1, "flag": True}
    assert problems == []


NO_BRACE = st.text(st.characters(exclude_characters="{"))


@given(
    st.recursive(st.none() | st.integers() | NO_BRACE, lambda below: st.lists(below) | st.dictionaries(NO_BRACE, below))
)
def test_a_tree_without_references_stays_as_it_is(tree: Any):
    """Substitution touches nothing else."""
    problems: list[str] = []
    assert substitute(tree, VARIABLES, "f", problems) == tree
    assert problems == []


def test_settings_never_show_the_options_of_plugins(monkeypatch):
    """A program that prints its settings prints no key, and neither does a validation error."""
    monkeypatch.setenv("SPANHOOK_BACKENDS__X__API_KEY", "sk-very-secret")
    settings = load().settings
    assert settings.backends["x"]["api_key"] == "sk-very-secret"
    assert "sk-very-secret" not in f"{settings!r}{settings}"
    with pytest.raises(ValueError, match="valid dictionary") as caught:
        Settings(backends={"x": "sk-very-secret"})
    assert "sk-very-secret" not in str(caught.value)


def test_settings_cant_be_changed():
    """What was configured holds until it is configured anew."""
    settings = load({}).settings
    with pytest.raises(ValueError, match="frozen"):
        settings.tracing.strict = True  # type: ignore[misc]
    with pytest.raises(ConfigError):
        load({"tracing": {"strict": "perhaps"}})


def test_the_settings_are_loaded_with_the_first_use():
    """Importing Spanhook leaves the configuration's models and their library alone; they are public all the same."""
    code = (
        "import sys, spanhook; assert 'spanhook.config.settings' not in sys.modules; "
        "assert set(spanhook.__all__) <= set(dir(spanhook)); assert spanhook.Settings().tracing.enabled"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
