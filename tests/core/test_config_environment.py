"""Lists and tables in variables, which are texts: for our own options, for those of plugins, and whole sections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import spanhook
from doubles import install
from spanhook.config.files import read

SINK = """
    import spanhook
    given = []
    class Sink:
        class Options(spanhook.PluginOptions):
            tags: list[str] = []
            names: frozenset[str] | None = None
            headers: dict[str, str] = {}
            text: str = ""
        def __init__(self, options):
            given.append(options)
        @spanhook.hookimpl
        def emit(self, spans): ...
"""


@pytest.fixture
def given(site: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function: the options that the backend `sink` gets."""
    install(site, "one", backends="sink = sink_module:Sink", sink_module=SINK)
    monkeypatch.setenv("SPANHOOK_TRACING__BACKENDS", "sink")

    def configure(config: Any = None) -> Any:
        spanhook.configure(config)
        import sink_module

        return sink_module.given[-1]

    return configure


@pytest.mark.parametrize("text", ["a,b", " a , b ", '["a", "b"]'])
def test_a_list_of_a_plugin(given: Any, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """With commas, as our own lists, or as JSON; from a file's `${…}` too."""
    monkeypatch.setenv("SPANHOOK_BACKENDS__SINK__TAGS", text)
    monkeypatch.setenv("SPANHOOK_BACKENDS__SINK__NAMES", text)
    options = given()
    assert (options.tags, options.names) == (["a", "b"], {"a", "b"})
    monkeypatch.setenv("THE_TAGS", text)
    assert given({"backends": {"sink": {"tags": "${THE_TAGS}"}}}).tags == ["a", "b"]


def test_a_table_of_a_plugin(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON, or with a variable for each key."""
    monkeypatch.setenv("SPANHOOK_BACKENDS__SINK__HEADERS", '{"X-One": "1"}')
    assert given().headers == {"X-One": "1"}
    monkeypatch.delenv("SPANHOOK_BACKENDS__SINK__HEADERS")
    monkeypatch.setenv("SPANHOOK_BACKENDS__SINK__HEADERS__AUTHORIZATION", "k")
    assert given().headers == {"authorization": "k"}


def test_a_text_stays_one(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks like a list is read as one only where a list is wanted."""
    monkeypatch.setenv("SPANHOOK_BACKENDS__SINK__TEXT", '["a"]')
    assert given().text == '["a"]'


@pytest.mark.parametrize("text", ["{", "a=b", '["a"]'])
def test_what_is_no_table(given: Any, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Says how one can be written in a variable."""
    monkeypatch.setenv("SPANHOOK_BACKENDS__SINK__HEADERS", text)
    with pytest.raises(spanhook.ConfigError) as caught:
        given()
    assert str(caught.value) == (
        "SPANHOOK_BACKENDS__SINK__HEADERS: must be a table "
        "(as JSON, or with a variable SPANHOOK_BACKENDS__SINK__HEADERS__… for each value)"
    )


def test_whole_sections(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON; a variable for one option is stronger."""
    monkeypatch.delenv("SPANHOOK_TRACING__BACKENDS")
    monkeypatch.setenv("SPANHOOK_TRACING", '{"backends": ["sink"], "service": "whole"}')
    monkeypatch.setenv("SPANHOOK_TRACING__SERVICE", "one")
    monkeypatch.setenv("SPANHOOK_BACKENDS", '{"sink": {"tags": ["a"]}}')
    monkeypatch.setenv("SPANHOOK_BACKENDS__SINK", '{"text": "b"}')
    options = given()
    assert (options.tags, options.text) == (["a"], "b")
    assert read().settings.tracing.service == "one"


def test_our_own_lists_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of plugins."""
    monkeypatch.setenv("SPANHOOK_TRACING__BACKENDS", '["structlog", "otlp"]')
    monkeypatch.setenv("SPANHOOK_TRACING__KEEP", '["error"]')
    tracing = read().settings.tracing
    assert (tracing.backends, tracing.keep) == (["structlog", "otlp"], ["error"])


def test_only_the_section_that_is_no_json_is_named(problems_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the one that is right."""
    monkeypatch.setenv("SPANHOOK_TRACING", '{"service": "x"}')
    monkeypatch.setenv("SPANHOOK_DELIVERY", "{")
    assert problems_of() == ["SPANHOOK_DELIVERY: not valid JSON; better give each option a variable of its own"]
