"""What is taken for a secret and what is not: by its look, by its name, by the user's own rules."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles import Memory, one_span, tracer_of
from fake_secrets import BY_LOOK, CANARY, NAMES, plain
from spanhook import RedactSettings
from spanhook.redaction.names import is_secret_name
from spanhook.redaction.patterns import MARK, redacted
from spanhook.redaction.redactor import MARGIN_CHARS, Redactor
from spanhook.snapshot import snapshot

WRAPS = [
    "{}",
    "'{}'",
    '"{}"',
    "({})",
    "[{}]",
    "<{}>",
    "x={}",
    "x: {}",
    "it is {}.",
    "{},",
    "a\n{}\nb",
    "`{}`",
    '\\"{}\\"',
    r'"a:\n{}"',  # behind an escape, whose last letter is none of a word
    r"b'\x00{}'",
    r"\u0022{}",
    r"\t{}\r\n",
    "?q=%20{}",
    "\x1b[33m{}\x1b[0m",
]


def redactor(max_chars: int = sys.maxsize, **settings: Any) -> Redactor:
    return Redactor(RedactSettings(**settings), max_chars)


@pytest.mark.parametrize("kind", BY_LOOK)
@pytest.mark.parametrize("wrap", WRAPS)
def test_a_secret_that_its_look_gives_away(kind, wrap):
    """Wherever it stands in a text, and the text around it stays."""
    dice = random.Random(f"{kind} {wrap}")
    for _ in range(20):
        text = wrap.format(BY_LOOK[kind](dice))
        assert CANARY.lower() not in redacted(text).lower(), text
        before, after = wrap.split("{}")
        assert redacted(text).startswith(before)
        assert redacted(text).endswith(after)


@pytest.mark.parametrize(
    "name",
    [
        *NAMES, "apikey", "api_keys", "OPENAI_API_KEY", "authToken", "id_token", "tokenValue", "db.password", "pwd",
        "properties.api_key", "secretKey", "write_key", "aws_session_token", "basic_auth", "sessionid", "DB_PASS",
        "bot_tokens", "cookies", "JSESSIONID", "PHPSESSID", "sessionId", "PGPASSWORD", "dbpassword", "AZURE_OPENAI_KEY",
        "smtp_pass", "x-functions-key", "myapikey",
    ],
)  # fmt: skip
def test_a_name_of_a_secret(name):
    """In any spelling."""
    assert is_secret_name(name)
    assert redactor().value({"a": [{name: "hunter2"}]}) == {"a": [{name: MARK}]}


@pytest.mark.parametrize(
    "name",
    [
        "max_tokens", "input_tokens", "total_tokens", "tokens", "token_count", "first_token", "time_to_first_token_s",
        "tokenizer", "eos_token", "next_page_token", "key", "keys", "primary_key", "cache_key", "public_key", "author",
        "authority", "session_id", "password_min_length", "api_key_name", "keyboard", "monkey", "compass",
        "secretary", "usage_by_model", "token_usage", "completion_tokens_details", "answer", "",
        "output_cost_per_reasoning_token", "max_token", "num_token", "max_new_token", "input_token", "pass",
        "first_pass",
    ],
)  # fmt: skip
def test_a_name_of_something_else(name):
    """Counts, limits and words that only begin alike."""
    assert not is_secret_name(name)
    assert redactor().value({name: "hunter2"}) == {name: "hunter2"}


@pytest.mark.parametrize("value", [None, True, False, "", [], {}])
def test_nothing_to_hide(value):
    """Whether a password was given is no password."""
    assert redactor().value({"password": value}) == {"password": value}


@pytest.mark.parametrize("value", ["x", 4711, ["a", "b"], {"user": "u", "key": "k"}])
def test_a_field_is_hidden_as_a_whole(value):
    """Whatever is in it."""
    assert redactor().value([{"credentials": value}]) == [{"credentials": MARK}]


@given(st.text(st.characters(codec=None)) | st.text(alphabet="sk-gh_pa.:/=@\"'\\ tokenBearer4eyJ", max_size=200))
def test_any_text(text: str):
    """Never an exception, and nothing is found in what was redacted already."""
    once = redacted(text)
    assert redacted(once) == once


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=20), lambda b: st.lists(b) | st.dictionaries(st.text(), b)
    )
)
def test_any_data(value: Any):
    """Its shape stays: as many items, and no key is lost; what is under a secret's name may be hidden as a whole."""

    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return [None if is_secret_name(name) else shape(item) for name, item in value.items()]
        return [shape(item) for item in value] if isinstance(value, list) else None

    assert shape(redactor().value(value)) == shape(value)


def test_secret_keys_of_a_dict():
    """Two of them become two; neither takes the other's place."""
    keys = [BY_LOOK["OpenAI"](random.Random(seed)) for seed in range(2)]
    copied = redactor().value(dict.fromkeys(keys, 1))
    assert list(copied.values()) == [1, 1]
    assert CANARY not in str(copied)


def test_names_that_are_bytes():
    """Headers as some libraries have them."""
    assert redactor(fields=["iban"]).value(snapshot({b"password": "p", b"iban": 1, b"n": 2})) == {
        "b'password'": MARK, "b'iban'": MARK, "b'n'": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        {"token": "Paris", "logprob": -0.1, "bytes": [80], "top_logprobs": [{"token": "Rome", "logprob": -3.0}]},
        {"token": 151643, "token_str": "Paris", "score": 0.9},
        {"secret": 0.5, "pass": 0.9, "fail": 0.1},
        {"properties": {"token": {"type": "string"}, "password": {"anyOf": [{"type": "null"}], "default": None}}},
    ],
)
def test_what_only_has_the_name_of_a_secret(value):
    """Pieces of a text with their probability, shares, and the schema of a tool's arguments."""
    assert redactor().value(value) == value


@pytest.mark.parametrize("value", [{"type": "service_account", "key": "k"}, {"type": "string", "default": "hunter"}])
def test_a_secret_beside_a_type(value):
    """It is no schema, or one with a value in it."""
    assert redactor().value({"credentials": value}) == {"credentials": MARK}


def test_lists_whose_items_tell_of_each_other():
    """A command's options, and the lines of a private key."""
    key = ["-----BEGIN PRIVATE KEY-----", "MIIEvQIBADANBg", "abcd", "-----END PRIVATE KEY-----", "after"]
    value = [["tool", "--api-key", "hunter", "x"], ["--password", "--verbose", "x"], key]
    own = redactor()
    for _ in range(2):  # what is remembered as clean changes nothing
        assert own.value(value) == [
            ["tool", "--api-key", MARK, "x"], ["--password", "--verbose", "x"],
            ["-----BEGIN [redacted]", MARK, MARK, MARK, "after"],
        ]  # fmt: skip


def test_headers_as_pairs_and_as_names_and_values():
    """The shapes in which HTTP libraries and settings have them; two plain words are no header."""
    value = [
        ["X-Api-Key", "hunter"],
        ["secret", "garden"],
        {"name": "password", "value": "hunter"},
        {"name": "x", "key": "api_key", "value": "hunter"},
        {"Name": "DB_PASSWORD", "Value": "hunter"},
        {"name": "n", "value": 1},
    ]
    assert redactor().value(value) == [
        ["X-Api-Key", MARK], ["secret", "garden"], {"name": "password", "value": MARK},
        {"name": "x", "key": "api_key", "value": MARK}, {"Name": "DB_PASSWORD", "Value": MARK},
        {"name": "n", "value": 1},
    ]  # fmt: skip


@pytest.mark.parametrize("kind", BY_LOOK)
def test_a_secret_where_a_text_is_cut(kind):
    """Nothing of it is left in front of the cut, and the mark has the number of characters that are missing."""
    secret = BY_LOOK[kind](random.Random(1))
    for before in range(0, len(secret) + 5, 3):
        text = f"{'a ' * 50}{secret} {'b' * 2 * MARGIN_CHARS}"
        cut = redactor(100 + before).text(text)
        assert CANARY.lower() not in cut.lower()
        kept, _, more = cut.partition("… [")
        assert 50 < len(kept) <= 100 + before
        assert len(kept) + int(more.split()[0]) == len(redacted(text))


def test_what_comes_behind_the_margin_stays_there():
    """A text that gets shorter by what is taken out of it does not let in the half of a secret that ends later."""
    key = f"-----BEGIN PRIVATE KEY-----\n{'x' * 4_200}\n-----END PRIVATE KEY-----\n"
    for before in range(0, 2_200, 7):
        text = f"{key}{'x' * before} postgres://app:hunter2hunter2@db/prod {'y' * 9_000}"
        assert "hunter2" not in redactor(2_000).text(text)


def test_the_user_s_patterns_and_fields():
    """Beside what is known, in every spelling of the field."""
    own = redactor(patterns=[r"CUST-\d+", "(?i)project x"], fields=["patient_id"])
    given = {
        "a": "for CUST-42 in Project X", "Patient-Id": 5, "patient id": 0.5, "patientId": ["x"], "password": "p",
        "old_patient_id": "y",
    }  # fmt: skip
    assert own.value(given) == {
        "a": "for [redacted] in [redacted]", "Patient-Id": MARK, "patient id": MARK, "patientId": MARK,
        "password": MARK, "old_patient_id": "y",
    }  # fmt: skip


def test_patterns_and_fields_from_the_environment(monkeypatch):
    """A pattern may have commas in it; fields are separated by them."""
    monkeypatch.setenv("SPANHOOK_REDACT__PATTERNS", r"x{2,3}")
    monkeypatch.setenv("SPANHOOK_REDACT__FIELDS", "a, b")
    settings = tracer_of(Memory()).settings.redact
    assert (settings.patterns, settings.fields) == ([r"x{2,3}"], ["a", "b"])


def test_a_pattern_that_never_ends(monkeypatch):
    """It is stopped; what it could not check does not leave the process, and that is counted."""
    monkeypatch.setattr("spanhook.redaction.redactor.PATTERN_TIMEOUT_S", 0.01)
    memory = Memory()
    tracer = tracer_of(memory, redact={"patterns": [r"(a|aa)+$"]})
    with tracer.span("work", text="a" * 40 + "c"):
        pass
    one_span(tracer, "next")
    assert tracer.flush(30.0)
    assert [(span.name, span.inputs, span.attributes) for span in memory.spans] == [
        ("work", None, {"spanhook.content_lost": True}), ("next", None, {}),
    ]  # fmt: skip
    assert tracer.stats().errors == {"delivery: preparing a span: TimeoutError": 1}


def test_switched_off():
    """Then texts go out as they are, still cut to size."""
    secret = BY_LOOK["OpenAI"](random.Random(1))
    off = redactor(100, enabled=False, fields=["a"])
    assert off.value({"password": secret, "a": "b" * 200}) == {
        "password": secret,
        "a": f"{'b' * 100}… [100 more characters]",
    }


def test_without_content_attributes_and_names_are_still_checked():
    """`capture = "metadata"` leaves attributes, names and users in."""
    dice = random.Random(1)
    memory = Memory()
    tracer = tracer_of(memory, tracing={"capture": "metadata"})
    with (
        tracer.interaction(user_id=BY_LOOK["JWT"](dice), properties={"api_key": plain(dice)}),
        tracer.span(BY_LOOK["GitHub"](dice)) as span,
    ):
        span.attributes["note"] = BY_LOOK["Slack"](dice)
    assert tracer.flush()
    assert len(memory.spans) == 2
    assert CANARY.lower() not in str([span.to_dict() for span in memory.spans]).lower()


def test_one_id_is_redacted_to_one_id():
    """A signal still finds its interaction, should the program have made a secret of its id."""
    event_id = BY_LOOK["OpenAI"](random.Random(1))
    memory = Memory()
    tracer = tracer_of(memory)
    with tracer.interaction(event_id=event_id):
        pass
    tracer.track_signal(event_id, "thumbs_up")
    assert tracer.flush()
    assert memory.spans[0].event_id == memory.signals[0].event_id == "sk-[redacted]"


def test_an_identity_and_a_signal_that_can_t_be_checked(monkeypatch):
    """They go out without what the user wrote."""

    def fail(*_: Any) -> Any:
        raise RuntimeError

    memory = Memory()
    tracer = tracer_of(memory)
    monkeypatch.setattr(Redactor, "value", fail)
    tracer.identify("u", {"a": "b"})
    tracer.track_signal("e", "edit", "edit", after="text", comment="text", properties={"a": "b"})
    assert tracer.flush()
    assert memory.identities == [("u", {})]
    (signal,) = memory.signals
    assert (signal.name, signal.after, signal.comment) == ("edit", None, None)
    assert signal.properties == {"spanhook.content_lost": True}
