"""No message about a configuration shows the value of an option or a variable: it may be a secret."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, HttpUrl, SecretBytes, SecretStr

import spanhook
from doubles import one_span
from spanhook import ConfigError, PluginOptions
from spanhook.config.secrets import hide, secrets_in

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


TELLING = {"api_key": SECRET, "login": {"password": "pass-w0rd"}, "url": "http://acme.test/v1/abc12345"}


def test_a_secret_is_in_no_line_of_a_running_tracer(odd, caplog):
    """Whatever a plugin raises at work, tracebacks included. What is no secret, its address, is told."""
    caplog.set_level(logging.DEBUG, "spanhook")
    tracer = spanhook.configure({"tracing": {"backends": ["telling"]}, "backends": {"telling": TELLING}})
    one_span(tracer)
    assert tracer.shutdown() is False
    told = [message for message in caplog.messages if "… … is wrong at http://acme.test/v1/abc12345" in message]
    places = ["span_end failed", "not reachable", "emit failed", "shutdown failed"]
    assert [place for place in places if not any(f"backend telling: {place}" in line for line in told)] == []
    assert SECRET not in caplog.text
    assert "pass-w0rd" not in caplog.text.lower()


def test_a_secret_is_in_no_line_of_a_plugin_that_is_let_go(odd, caplog):
    """It was made before another one turned out to be wrong."""
    with pytest.raises(ConfigError):
        spanhook.configure({"tracing": {"backends": ["telling", "greedy"]}, "backends": {"telling": TELLING}})
    assert "shutdown failed" in caplog.text
    assert SECRET not in caplog.text


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


class Auth(BaseModel):
    """A part of a plugin's options, with a secret in it."""

    user: str = ""
    password: SecretStr | None = None


class Marked(PluginOptions):
    """Options of which one field is marked as a secret, in every way there is."""

    key: SecretStr | None = None
    many: list[SecretStr] = Field(default=[])
    headers: dict[str, SecretStr] = Field(default={})
    auth: Auth | None = None
    auths: tuple[Auth, ...] = ()
    raw: SecretBytes | None = None
    api_token: str = ""
    url: HttpUrl | None = None
    protocol: Literal["http", "grpc"] = "http"
    file: str = ""


# Of characters that the sentences don't have, so that what is found in one is the secret; whitespace of all kinds too.
SECRETS = st.text(st.characters(exclude_characters=" <>…'\"no user is wrong:[redacted]\\")).filter(str.strip)
HOLDERS: dict[str, Any] = {
    "key": lambda secret: secret,
    "many": lambda secret: ["a", secret],
    "headers": lambda secret: {"X-Plain": secret},
    "auth": lambda secret: {"user": "ada", "password": secret},
    "auths": lambda secret: [{"password": secret}],
    "raw": lambda secret: secret.encode(errors="ignore"),
    "api_token": lambda secret: secret,
    "a_misspelt_kee": lambda secret: secret,
    "as an object": lambda secret: {"key": SecretStr(secret)},
}


@pytest.mark.parametrize("field", HOLDERS)
@given(secret=SECRETS, around=st.sampled_from([("", ""), ("no user: ", " is wrong"), ("<", ">"), ("('", "')")]))
def test_a_marked_value_is_taken_out_of_every_sentence(field, secret, around):
    """Of any length, wherever in the options it stands, and as it is, in quotes, or on one line."""
    assume(field != "raw" or not any("\ud800" <= char <= "\udfff" for char in secret))  # no bytes say half a character
    value = HOLDERS[field](secret)
    hidden = secrets_in(value if field == "as an object" else {field: value}, Marked)
    for form in (secret, repr(secret), secret.strip(), " ".join(secret.split())):
        said = hide(form.join(around), hidden)
        assert secret.strip() not in said
        assert repr(secret)[1:-1] not in said


@given(secret=st.text(st.characters(categories=["L", "N"]), min_size=4, max_size=12))
def test_a_marked_value_in_the_middle_of_a_word(secret):
    """From four characters on; a password of six is short, and still one."""
    assert hide(f"x{secret}y", secrets_in({"key": secret}, Marked)) == "x…y"


def test_a_default_that_is_marked_is_hidden_too():
    """A key that the options took from somewhere else was never in the configuration."""
    hidden = secrets_in(Marked(key=SecretStr("hunter2"), auth=Auth(password=SecretStr("geheim"))))
    assert hide("hunter2 and geheim", hidden) == "… and …"


def test_what_is_no_secret_stays_readable():
    """A value that nothing marks as a secret doesn't destroy what is said of it or of its neighbours."""
    options = {"protocol": "http", "file": "/etc/ssl/nope.pem", "key": "hunter2", "auth": {"user": "ada"}}
    hidden = secrets_in({name: options[name] for name in ("protocol", "file", "key")}, Marked)
    assert hide("no such file: /etc/ssl/nope.pem", hidden) == "no such file: /etc/ssl/nope.pem"
    assert hide("must be 'http/protobuf' or 'grpc'", hidden) == "must be 'http/protobuf' or 'grpc'"
    assert hide("http://ada:pw@host", hidden) == "http://ada:[redacted]@host"


def test_a_long_exception_is_not_cut_in_the_middle_of_a_secret(problems_of, monkeypatch):
    """Half of one is not known as one."""

    def fail(self, options):
        raise RuntimeError("x" * 485 + options.api_key.get_secret_value())

    monkeypatch.setattr("odd_plugins.Keyed.__init__", fail)
    (problem,) = problems_of({"tracing": {"backends": ["keyed"]}, "backends": {"keyed": {"api_key": "qwertyuiop" * 3}}})
    assert "qw" not in problem
