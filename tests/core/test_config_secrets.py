"""No message about a configuration shows the value of an option or a variable: it may be a secret."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spanhook
from spanhook import ConfigError

SECRET = "S3CR3T-m4rk3r"
KEYS = st.sampled_from(["api_key", "port", "mode", "names", "level", "x", "url"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([SECRET, f"https://user:{SECRET}@host/", f"{SECRET}${{", "k", 0, 1.5, True]),
    lambda below: st.lists(below, max_size=2) | st.dictionaries(KEYS, below, max_size=2),
    max_leaves=4,
)
KEYED = st.fixed_dictionaries(
    {"api_key": st.just(SECRET)},
    optional={"port": st.sampled_from([13, 14, 15]) | VALUES, "mode": VALUES, "names": VALUES, "x": VALUES},
)
OTHERS = st.dictionaries(st.sampled_from(["plain", "loose", "gone"]), st.dictionaries(KEYS, VALUES) | VALUES)
TRACING = st.dictionaries(st.sampled_from(["service", "capture", "sample_rate", "strict", "zzz"]), VALUES, max_size=2)


@given(keyed=KEYED | VALUES, others=OTHERS, tracing=TRACING)
@settings(max_examples=200)
def test_a_secret_is_in_no_message(odd, keyed, others, tracing):
    """Whatever is wrong with a configuration, no option's value is in what is said of it, nor in its traceback."""
    config = {"tracing": {"backends": ["keyed", "loose", "plain"], **tracing}, "backends": {"keyed": keyed, **others}}
    said = ""
    try:
        spanhook.configure(config).shutdown()
    except ConfigError:
        said = traceback.format_exc()
    assert SECRET not in said


@pytest.mark.parametrize("port", [13, 14, 15])
def test_a_secret_in_what_a_constructor_raises_is_in_no_message(problems_of, port):
    """A plugin that tells its key, and one whose own validation error would show it."""
    options = {"api_key": SECRET, "port": port}
    assert SECRET not in "".join(problems_of({"tracing": {"backends": ["keyed"]}, "backends": {"keyed": options}}))


VARIABLES = ["TRACING", "BACKENDS", "BACKENDS__KEYED", "BACKENDS__KEYED__PORT", "BACKENDS__KEYED__MODE", "ZZZ"]


@pytest.mark.parametrize("value", [SECRET, f"{{{SECRET}", f'{{"x": "{SECRET}"}}'])
@pytest.mark.parametrize("name", [*VARIABLES, "TRACING__SAMPLE_RATE", "TRACING__CAPTURE"])
def test_a_secret_in_a_variable_is_in_no_message(problems_of, monkeypatch, name, value):
    """Nor is the value of a variable, whether it was parsed or not."""
    monkeypatch.setenv(f"SPANHOOK_{name}", value)
    assert SECRET not in "".join(problems_of({"tracing": {"extractors": ["nope"], "backends": ["keyed"]}}))


@pytest.mark.parametrize("text", [f"x = {SECRET}", f'x = "{SECRET}', f'[a]\nb = """{SECRET}', f'x = ["{SECRET}" 1]'])
def test_a_secret_in_a_broken_file_is_in_no_message(problems_of, text):
    """What the TOML reader says names lines and columns, not text."""
    Path("tracing.toml").write_text(text, encoding="utf-8")
    assert SECRET not in "".join(problems_of("tracing.toml"))
