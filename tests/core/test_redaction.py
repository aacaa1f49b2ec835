"""What is taken for a secret and what is not: by its look, by its name, by the user's own rules."""

from __future__ import annotations

import json
import random
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import spanhook
from doubles import Memory, one_span, tracer_of
from fake_secrets import BY_LOOK, CANARY, NAMES, plain
from spanhook import RedactSettings
from spanhook.redaction import MARGIN_CHARS, Redactor
from spanhook.secret_names import is_secret_name
from spanhook.secret_patterns import MARK, redacted

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
        "bot_tokens", "cookies", "JSESSIONID", "PHPSESSID", "sessionId",
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


@pytest.mark.parametrize("value", ["x", 4711, 0.5, ["a", "b"], {"user": "u", "key": "k"}])
def test_a_field_is_hidden_as_a_whole(value):
    """Whatever is in it."""
    assert redactor().value([{"credentials": value}]) == [{"credentials": MARK}]


TEXTS = [
    ('{"password": "two words"}', '{"password": "[redacted]"}'),
    (r"{\"password\": \"it\\\"s\"}", r"{\"password\": \"[redacted]\"}"),
    ("{'api_key': 'hunter'}", "{'api_key': '[redacted]'}"),
    ('f(api_key="hunter", n=1)', 'f(api_key="[redacted]", n=1)'),
    ("Authorization: Bearer abcdef123456", "Authorization: Bearer [redacted]"),
    ("authorization: hunter22hunter", "authorization: [redacted]"),
    ("Cookie: sid=hunter; other=2", "Cookie: [redacted]"),
    ("-H 'X-Api-Key: hunter22'", "-H 'X-Api-Key: [redacted]'"),
    ("OPENAI_API_KEY=hunterhunter", "OPENAI_API_KEY=[redacted]"),
    ("export DB_PASSWORD='hunter'", "export DB_PASSWORD='[redacted]'"),
    ("GET /x?a=1&access_token=hunter&b=2", "GET /x?a=1&access_token=[redacted]&b=2"),
    ("tool --api-key hunter --n 2", "tool --api-key [redacted] --n 2"),
    ("tool --password=hunter", "tool --password=[redacted]"),
    ("<password>hunter22</password>", "<password>[redacted]</password>"),
    ("postgres://u:p@ss@host/db", "postgres://u:[redacted]@host/db"),
    ("redis://:hunter@host:6379/0", "redis://:[redacted]@host:6379/0"),
    ("AccountKey=aB3dE5fG7hI9jK1lM3nO5pQ7rS9==;x=1", "AccountKey=[redacted];x=1"),
    ("-----BEGIN PRIVATE KEY-----\nMIIE\nabc", "-----BEGIN [redacted]"),  # the end was cut off
]


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_a_name_and_its_value_in_a_text(text, expected):
    """In JSON, JSON in JSON, Python, headers, settings, command lines, XML, URLs. What was replaced once stays so."""
    assert redacted(text) == expected
    assert redacted(expected) == expected


ORDINARY = [
    "Your password must have at least 12 characters; the password: at least one digit. Token: a word or part of one.",
    "A secret of good coffee: 60 g a litre. The key: patience. Authorization: who may do what. Basic understanding.",
    "The bearer of this letter speaks for me. Cookie: a small text. Session: 3 of 5. Passwords are stored hashed.",
    'Set OPENAI_API_KEY=... or api_key=\'…\', or --token *** on the command line; "password": "...".',
    "def login(self, password: str, token: str | None = None) -> Token: return self.client.login(password=password)",
    "token = tokens[index]; api_key = os.environ['KEY']; secret = get_secret(name); password = getpass.getpass()",
    'parser.add_argument("--token", help="a token"); {"type": "string", "name": "password"}; "token": null',
    "max_tokens=1000, input_tokens: 512, total_tokens: 12345678, eos_token: 151643, token_count = 4096",
    f"commit 9fceb02d0ae598e95dc970b74767f19372d61af8, md5 d41d8cd98f00b204e9800998ecf8427e, id {uuid.UUID(int=5)}",
    "sk-learn-contrib, sk-estimator-doc-link, hf_hub_download_to_cache, npm_package_config, pypi-publish-action",
    "https://example.com:8080/a@b?mail=x@y.z and https://user@host/path and git@github.com:owner/name.git",
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ",
    "[[ ## question ## ]]\nWhat is the key to success?\n\n[[ ## answer ## ]]\nKey: work. Secret: none.",
    "eyJhbGci is how they begin; AKIA and ASIA too; xox- and ghp_ and sk- are prefixes; -----BEGIN CERTIFICATE-----",
    json.dumps(
        {"usage": {"prompt_tokens": 5, "completion_tokens": 7, "tokens": [1, 2]}, "id": "chatcmpl-Abc123Def456"}
    ),
    "ΑΒΓ İstanbul — 東京, café; naïve: ‘quoted’",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text):
    """Prose, code, hashes, ids, counts."""
    assert redacted(text) == text


def test_our_own_code_stays_as_it_is():
    """And so does a prompt that quotes it."""
    sources = sorted(Path(spanhook.__file__).parent.rglob("*.py"))
    assert len(sources) > 20
    for source in sources:
        text = source.read_text(encoding="utf-8")
        assert redacted(text) == text, source


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
    """Its shape stays: as many items, and no key is lost."""

    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return [shape(item) for item in value.values()]
        return [shape(item) for item in value] if isinstance(value, list) else None

    assert shape(redactor().value(value)) == shape(value)


def test_secret_keys_of_a_dict():
    """Two of them become two; neither takes the other's place."""
    keys = [BY_LOOK["OpenAI"](random.Random(seed)) for seed in range(2)]
    copied = redactor().value(dict.fromkeys(keys, 1))
    assert list(copied.values()) == [1, 1]
    assert CANARY not in str(copied)


def test_headers_as_pairs_and_as_names_and_values():
    """The shapes in which HTTP libraries and settings have them; two plain words are no header."""
    value = [
        ["X-Api-Key", "hunter"],
        ["secret", "garden"],
        {"name": "password", "value": "hunter"},
        {"name": "n", "value": 1},
    ]
    assert redactor().value(value) == [
        ["X-Api-Key", MARK], ["secret", "garden"], {"name": "password", "value": MARK}, {"name": "n", "value": 1},
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
        assert len(kept) == 100 + before
        assert len(kept) + int(more.split()[0]) == len(redacted(text))


def test_the_user_s_patterns_and_fields():
    """Beside what is known, in every spelling of the field."""
    own = redactor(patterns=[r"CUST-\d+", "(?i)project x"], fields=["patient_id"])
    assert own.value({"a": "for CUST-42 in Project X", "Patient-Id": 5, "patient id": "x", "password": "p"}) == {
        "a": "for [redacted] in [redacted]", "Patient-Id": MARK, "patient id": MARK, "password": MARK,
    }  # fmt: skip


def test_patterns_and_fields_from_the_environment(monkeypatch):
    """A pattern may have commas in it; fields are separated by them."""
    monkeypatch.setenv("SPANHOOK_REDACT__PATTERNS", r"x{2,3}")
    monkeypatch.setenv("SPANHOOK_REDACT__FIELDS", "a, b")
    settings = tracer_of(Memory()).settings.redact
    assert (settings.patterns, settings.fields) == ([r"x{2,3}"], ["a", "b"])


def test_a_pattern_that_never_ends(monkeypatch):
    """It is stopped; what it could not check does not leave the process, and that is counted."""
    monkeypatch.setattr("spanhook.redaction.PATTERN_TIMEOUT_S", 0.01)
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
