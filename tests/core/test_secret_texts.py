"""Secrets that stand behind their name in a text, and what stands behind such a name and is none."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM

import spanhook
from doubles import Memory, tracer_of
from spanhook.redaction.names import SecretNames
from spanhook.redaction.patterns import MARK, redacted

OWN = SecretNames(["patient_id", "iban", "Größe"])
PGP = "-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: GnuPG v2.0.22 (GNU/Linux)\n\nlQOYBFab\n"

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
    ("PGPASSWORD=hunter psql", "PGPASSWORD=[redacted] psql"),
    ("?PHPSESSID=hunter&a=1", "?PHPSESSID=[redacted]&a=1"),
    (r'"a\npassword: \"hunter\""', r'"a\npassword: \"[redacted]\""'),
    ('db_password     = "hunter"', 'db_password     = "[redacted]"'),
    ("db_password:        hunter22", "db_password:        [redacted]"),
    ("password=b'hunter'", "password=b'[redacted]'"),
    ('password = f"hunter"', 'password = f"[redacted]"'),
    ('password: str = "hunter"', 'password: str = "[redacted]"'),
    ("api_key: Optional[str] = 'hunter'", "api_key: Optional[str] = '[redacted]'"),
    ('password = """hunt"er"""', 'password = """[redacted]"""'),
    ("{b'password': b'hunter'}", "{b'password': b'[redacted]'}"),
    ('{"x-api-key": ["hunter", "two"]}', '{"x-api-key": ["[redacted]"]}'),
    ("['tool', '--api-key', 'hunter', 'x']", "['tool', '--api-key', '[redacted]', 'x']"),
    ('{"password": 4711, "n": 1}', '{"password": [redacted], "n": 1}'),
    ('{"credentials": {"user": "u", "key": ["k"]}, "n": 1}', '{"credentials": [redacted], "n": 1}'),
    (f"{PGP}-----END PGP PRIVATE KEY BLOCK-----\nafter", "-----BEGIN [redacted]\nafter"),
    (PGP, "-----BEGIN [redacted]"),
    ("1 | -----BEGIN PRIVATE KEY-----\n2 | MIIE\n3 | -----END PRIVATE KEY-----!", "1 | -----BEGIN [redacted]!"),
    ("> -----BEGIN PRIVATE KEY-----\n> MIIE\n> abc\n", "> -----BEGIN [redacted]"),
    ('["-----BEGIN PRIVATE KEY-----", "MIIE", "-----END PRIVATE KEY-----", ""]', '["-----BEGIN [redacted]", ""]'),
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
    "if API_KEY == 'x' and TOKEN === y: assert PASSWORD != ''; curl --no-auth --verbose https://h?time=10:30&mail=a@b.c",
    'docker login -u me --password-stdin registry.example.com; unk_token: Union[str, AddedToken] = "[UNK]"',
    "MAX_TOKEN=512 fw_update_20240101_final jina_embeddings_v2_base_en_1234 output_cost_per_reasoning_token: 1.5e-06",
    '{"token": " Paris", "logprob": -0.1}, {"token": "Hello", "bytes": [72]}, "max_token": 4096, {"pass": "yes"}',
    '{"password": {"type": "string", "title": "Password"}}; headers = {"Authorization": f"Bearer {key}"}',
    '_SECRET_WORDS = ("key", "token")',
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


FIELDS = [
    ("[[ ## iban ## ]]\nDE12 and\nmore\n\n[[ ## a ## ]]\nx", "[[ ## iban ## ]]\n[redacted]\n\n[[ ## a ## ]]\nx"),
    ("[[ ## token ## ]]\na word", "[[ ## token ## ]]\n[redacted]"),
    (r'{"a": "[[ ## password ## ]]\na word"}' + "\nmore", r'{"a": "[[ ## password ## ]]\n[redacted]' + "\nmore"),
    ("<password>\na word\n</password>\n<b>\nx\n</b>", "<password>\n[redacted]\n</password>\n<b>\nx\n</b>"),
    ("<iban>a word</iban>", "<iban>[redacted]</iban>"),
    ("<credentials><user>u</user></credentials>", "<credentials>[redacted]</credentials>"),
    (
        '{"patientId": 1, "iban": null, "n": {"patient_id": {"a": [1]}}}',
        '{"patientId": [redacted], "iban": null, "n": {"patient_id": [redacted]}}',
    ),
    ("iban=DE1 and patient_id: 7, but IBAN: none", "iban=[redacted] and patient_id: [redacted], but IBAN: none"),
    ("GRÖßE: 5", "GRÖßE: [redacted]"),
]


@pytest.mark.parametrize(("text", "expected"), FIELDS)
def test_a_field_in_a_text(text, expected):
    """Where DSPy's adapters and JSON write it: known names and the user's own alike, with all that the field holds."""
    assert redacted(text, OWN) == expected
    assert redacted(expected, OWN) == expected


@pytest.mark.parametrize(
    "text",
    [
        "[[ ## password ## ]]\n{password}\n\n[[ ## iban ## ]]\n{iban}        # note: a str\n\n[[ ## completed ## ]]",
        "Respond with the fields, starting with the field `[[ ## password ## ]]`, then `[[ ## iban ## ]]`.",
        "<password>\n{password}\n</password>, then `<iban>`. 1. `patient_id` (str): who it is. 2. `password` (str):",
        'a JSON object: {"iban": "{iban}", "password": "{password}"}',
        "def find(patient_id: str, iban=None): ...",
        "run `login <token>\nand then` go on",
    ],
)
def test_what_only_describes_a_field(text):
    """The instructions of a prompt stay whole."""
    assert redacted(text, OWN) == text


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter])
def test_what_dspy_makes_of_a_field(adapter):
    """Prompts, demos and answers of each adapter, on every span: only the values are gone."""
    memory = Memory()
    tracer = tracer_of(memory, redact={"fields": ["patient_id"]})
    lm = DummyLM([{"answer": "fine", "session_token": "out hunter"}] * 2, adapter=adapter())
    program = dspy.Predict("password, patient_id, question -> session_token, answer")
    given: dict[str, Any] = {"password": "demo hunter", "patient_id": "PAT-demo hunter", "question": "q"}
    program.demos = [dspy.Example(**given, session_token="demo hunter", answer="a")]
    with dspy.context(lm=lm, adapter=adapter()):
        program(password="in hunter", patient_id="PAT-hunter", question="what is new?")
    assert tracer.flush()
    assert len({span.kind for span in memory.spans}) == 4
    for span in memory.spans:
        shown = json.dumps(span.to_dict())
        assert "hunter" not in shown
        assert MARK in shown
        assert "what is new?" in shown or "fine" in shown


ADVERSARIAL = [
    "sk-a", "[[ ## password ## ]]\n", "[[ ## password ## ]]\\n", "<password>\n", "</password>", "<a ", "{",
    "-----BEGIN PRIVATE KEY-----{", "-----END ", 'password="', "password='''", "password: a[", "'password': [",
    "'password': {'a':'", "api_key: ['a',", '--password","', "\\npassword", "%20password=", "patient_id: 1", "://a:",
    "key   ", "eyJaaaaaa.", "\\", "'",
]  # fmt: skip


@pytest.mark.parametrize("unit", ADVERSARIAL)
def test_the_time_grows_in_a_straight_line(unit):
    """200,000 characters of what makes patterns try again and again."""
    started = time.perf_counter()
    for filler in ("", "\\" * 30, "a" * 50):
        redacted(((unit + filler) * 200_000)[:200_000], OWN)
    for rest in ("\\", "["):
        redacted(unit * 200 + rest * 200_000, OWN)
    assert time.perf_counter() - started < 20.0
