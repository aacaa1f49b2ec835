"""What a wrong configuration is told: every problem at once, each with its place and what to do; nothing half done."""

from __future__ import annotations

from pathlib import Path

import pytest

import odd_plugins
import spanhook
from doubles import Memory
from spanhook import ConfigError

TRACING = ", ".join(sorted(spanhook.TracingSettings.model_fields))
NAMES = ("TRACING", "DELIVERY", "REDACT", "BACKENDS", "EXTRACTORS")
SECTIONS = ", ".join(["SPANHOOK_CONFIG", *(f"SPANHOOK_{name}__…" for name in NAMES)])
UNDERSCORES = ", with two underscores"
MALFORMED = (
    "this ${ begins no reference (write ${NAME} or ${NAME:-default} without braces inside, or $${ for the text itself)"
)


def write(data: str | bytes) -> str:
    Path("tracing.toml").write_bytes(data if isinstance(data, bytes) else data.encode())
    return "tracing.toml"


def test_no_such_file(problems_of):
    """The argument, or the variable that names the file."""
    assert problems_of("nowhere.toml") == ["nowhere.toml: no such file"]


def test_no_such_file_named_by_a_variable(problems_of, monkeypatch):
    """Says which variable to correct."""
    monkeypatch.setenv("SPANHOOK_CONFIG", "nowhere.toml")
    assert problems_of() == ["nowhere.toml: no such file (named by SPANHOOK_CONFIG)"]


def test_a_directory(problems_of, tmp_path):
    """Says which file in it was probably meant."""
    (tmp_path / "conf").mkdir()
    assert problems_of("conf") == ["conf: this is a directory; give the file in it, conf/tracing.toml"]


def test_a_file_that_may_not_be_read(problems_of, monkeypatch):
    """The system's reason, without a traceback."""

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    write("")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert problems_of("tracing.toml") == ["tracing.toml: can't be read: Permission denied"]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"a = '\xff'", "tracing.toml: not UTF-8 at byte 5; save the file as UTF-8"),
        ("[tracing]".encode("utf-16"), "tracing.toml: not UTF-8 at byte 0; save the file as UTF-8"),
        (
            "[tracing",
            "tracing.toml: not valid TOML: Expected ']' at the end of a table declaration (at end of document)",
        ),
        ("x = " + "[" * 100_000, "tracing.toml: not valid TOML: "),
        ("x = " + "9" * 10_000, "tracing.toml: not valid TOML: "),
    ],
    ids=["not utf-8", "utf-16", "broken", "nested too deep", "a number too long"],
)
def test_a_file_that_is_no_toml(problems_of, data, problem):
    """Where in the file, and what to do."""
    (found,) = problems_of(write(data))
    assert found.startswith(problem) if problem.endswith(": ") else found == problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[tracng]\nservice='x'", "tracng: unknown section (did you mean 'tracing'?)"),
        ("[Tracing]\nservice='x'", "Tracing: unknown section (did you mean 'tracing'?)"),
        ("zzz = 1", "zzz: unknown section (known: backends, delivery, extractors, redact, tracing)"),
        ("[tracing]\nsample_rte = 1", "tracing.sample_rte: unknown option (did you mean 'sample_rate'?)"),
        ("[tracing]\nzzz = 1", f"tracing.zzz: unknown option (known: {TRACING})"),
        ("[delivery]\nqueue_span = 1", "delivery.queue_span: unknown option (did you mean 'queue_spans'?)"),
        ("[tracing]\nstrict = 'perhaps'", "tracing.strict: must be true or false"),
        ("[tracing]\nsample_rate = []", "tracing.sample_rate: must be a number"),
        ("[tracing]\nsample_rate = 1.5", "tracing.sample_rate: must be at most 1"),
        ("[tracing]\nsample_rate = nan", "tracing.sample_rate: must be at most 1"),
        ("[tracing]\nmax_text_chars = 0", "tracing.max_text_chars: must be at least 1"),
        ("[tracing]\ncapture = 'some'", "tracing.capture: must be 'full' or 'metadata'"),
        ("[tracing]\nbackends = {}", "tracing.backends: must be a list"),
        ("[tracing]\nbackends = ['plain', 3]", "tracing.backends.1: must be a text"),
        ("[delivery]\nexit_timeout_s = inf", "delivery.exit_timeout_s: must be a finite number"),
        ("[delivery]\ninterval_s = 0", "delivery.interval_s: must be more than 0"),
        ("tracing = 'plain'", "tracing: must be a table"),
        ("project = 1", "project: unknown section (known: backends, delivery, extractors, redact, tracing)"),
        ("[trace]\nservice='x'", "trace: unknown section (did you mean 'tracing'?)"),
        ("sample_rate = 0.5", "sample_rate: belongs into [tracing]"),
        ("enabled = false", "enabled: belongs into [tracing] or [redact]"),
        ("[tracing]\nspool = 'x'", "tracing.spool: belongs into [delivery]"),
        ("backends = ['plain']",
         "backends: the list belongs into [tracing]; [backends.NAME] has the options of one"),
        ("extractors = 'plain'",
         "extractors: the list belongs into [tracing]; [extractors.NAME] has the options of one"),
        ("[tool.spanhook.tracing]\nservice = 'x'",
         "tool: sections have no tool.spanhook before them in this file: [tracing], not [tool.spanhook.tracing]"),
        ("[backends]\nplain = 1", "backends.plain: must be a table"),
        ("[tracing]\nservice = '${NOT_SET}'",
         "tracing.service: the environment variable NOT_SET is not set (set it, or write ${NOT_SET:-default})"),
        ("[tracing]\nservice = '${NOT-A-NAME}'", f"tracing.service: {MALFORMED}"),
        ("[tracing]\nservice = '${A:-${B:-c}}'", f"tracing.service: {MALFORMED}"),
        ("[tracing]\nservice = '${A'", f"tracing.service: {MALFORMED}"),
        ("[tracing]\nbackends = []", "tracing.backends: name at least one backend, or set enabled = false"),
        ("[tracing]\nbackends = ['plain', 'plain']", "tracing.backends.1: 'plain' is named twice"),
        ("[tracing]\nbackends = ['plan']",
         "tracing.backends.0: no backend named 'plan' is installed (did you mean 'plain'?)"),
        ("[tracing]\nbackends = ['reader']",
         "tracing.backends.0: 'reader' is the name of an extractor; list it under extractors"),
        ("[tracing]\nbackends=['plain']\nextractors=['plain']",
         "tracing.extractors.0: 'plain' is the name of a backend; list it under backends"),
        ("[redact]\npatterns = ['a', '(']",
         "redact.patterns.1: no valid regular expression: missing ) at position 1"),
        ("[redact]\npatterns = ['a*']",
         "redact.patterns.0: it matches the empty text, and so would match everywhere"),
        ("[redact]\nfield = ['a']", "redact.field: unknown option (did you mean 'fields'?)"),
        ("[tracing]\nbackends = ['plain']\n[backends.plan]\nx = 1",
         "backends.plan: no backend of this name is installed (did you mean 'plain'?)"),
        ("[tracing]\nbackends = ['plain']\n[backends.plain]\nx = 1",
         "backends.plain.x: backend plain takes no options"),
        ("[tracing]\nbackends = ['keyed']",
         "backends.keyed.api_key: required (here, or SPANHOOK_BACKENDS__KEYED__API_KEY)"),
        ("[tracing]\nbackends = ['keyed']\n[backends.keyed]\napi_key='k'\nprt=1",
         "backends.keyed.prt: unknown option (did you mean 'port'?)"),
        ("[tracing]\nbackends = ['keyed']\n[backends.keyed]\napi_key='k'\nport='x'",
         "backends.keyed.port: must be a whole number"),
        ("[tracing]\nbackends = ['keyed']\n[backends.keyed]\napi_key='k'\nport=0",
         "backends.keyed.port: must be at least 1"),
        ("[tracing]\nbackends = ['keyed']\n[backends.keyed]\napi_key='k'\nnames=['a', 1]",
         "backends.keyed.names.1: must be a text"),
        ("[tracing]\nbackends = ['keyed']\n[backends.keyed]\napi_key='k'\nmode='secretive'",
         "backends.keyed.mode: no mode secretive"),
        ("[tracing]\nbackends = ['keyed']\n[backends.keyed]\napi_key='sk-secret'\nport=13",
         "backends.keyed: backend keyed: RuntimeError: can't reach port 13 with … (odd_plugins.py:45)"),
        ("[tracing]\nbackends = ['keyed']\n[backends.keyed]\napi_key='k'\nmode='bad'",
         "backends.keyed.mode: Not a good one"),
        ("[tracing]\nbackends = ['loose']\n[backends.loose]\nlevl=1",
         "backends.loose.levl: unknown option (did you mean 'level'?)"),
    ],
)  # fmt: skip
def test_one_problem(problems_of, text, problem):
    """The whole message, for each kind of mistake."""
    assert problems_of(write(text)) == [f"tracing.toml: {problem}"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"retry": {"trys": 3}}, "retry.trys: unknown option (did you mean 'tries'?)"),
        ({"steps": [{"Size": 1}, {"Siez": 2}]}, "steps.1.Siez: unknown option (did you mean 'Size'?)"),
        ({"by_name": {"a": {"code": [1]}}}, "by_name.a.code: unknown option (did you mean 'codes'?)"),
        ({"dpth": 1}, "dpth: unknown option (did you mean 'depth'?)"),
    ],
)
def test_a_misspelt_option_in_a_table_of_a_plugins(problems_of, options, problem):
    """Models that let pydantic pass over what they don't know, at any depth, are no excuse for silence."""
    config = {"tracing": {"backends": ["loose"]}, "backends": {"loose": options}}
    assert problems_of(config) == [f"configure(): backends.loose.{problem}"]


def test_a_misspelt_variable_of_a_table_of_a_plugins(problems_of, monkeypatch):
    """It is not ignored in silence."""
    monkeypatch.setenv("SPANHOOK_BACKENDS__LOOSE__RETRY__TRYS", "3")
    (problem,) = problems_of({"tracing": {"backends": ["loose"]}})
    assert problem.startswith("SPANHOOK_BACKENDS__LOOSE__RETRY__TRYS: unknown option")


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 2, "retry": {"tries": 2}, "steps": [{"Size": 2}], "by_name": {"any": {"codes": [1]}}},
        {"free": {"any": {"thing": [{"at": "all"}]}}, "either": {"any": 1}},
    ],
)
def test_what_a_plugins_tables_have_is_no_mistake(odd, options):
    """By any name that pydantic takes, and in tables that are free or may be one of two things."""
    spanhook.configure({"tracing": {"backends": ["loose"]}, "backends": {"loose": options}}).shutdown()


def test_a_class_that_asks_for_something_else(problems_of):
    """A plugin's author learns what a class may ask for."""
    (problem,) = problems_of({"tracing": {"backends": ["greedy"]}})
    assert problem == (
        "configure(): tracing.backends.0: backend 'greedy' (entry point greedy = odd_plugins:Greedy, "
        "distribution odd-plugins 1.0): Greedy asks for options, client; "
        "it may ask for tracing, and for options if it has a class Options"
    )


def test_a_plugin_may_say_which_option_or_variable_is_wrong(problems_of, monkeypatch):
    """A line that begins with one has its place: the option's, or the variable alone, which no file has set."""
    monkeypatch.setenv("ODD_REGION", "mars")
    config = {"tracing": {"backends": ["keyed"]}, "backends": {"keyed": {"api_key": "k", "port": 16}}}
    assert problems_of(config) == [
        "configure(): backends.keyed.mode: not for port 16",
        "ODD_REGION: no such region",
    ]


def test_a_plugin_may_report_problems_of_its_own(problems_of):
    """A ConfigError from a constructor: each problem under the plugin's section."""
    config = {"tracing": {"backends": ["keyed"]}, "backends": {"keyed": {"api_key": "k", "port": 14}}}
    assert problems_of(config) == [
        "configure(): backends.keyed: region: needed for port 14",
        "configure(): backends.keyed: zone: too",
    ]


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"SPANHOOK_ZZZ": "1"}, f"SPANHOOK_ZZZ: unknown variable (known: {SECTIONS})"),
        ({"SPANHOOK_TRACNG__STRICT": "1"},
         "SPANHOOK_TRACNG__STRICT: unknown variable (did you mean SPANHOOK_TRACING__STRICT?)"),
        ({"SPANHOOK_BACKEND__KEYED__PORT": "1"},
         "SPANHOOK_BACKEND__KEYED__PORT: unknown variable (did you mean SPANHOOK_BACKENDS__KEYED__PORT?)"),
        ({"SPANHOOK_TRACING_SAMPLE_RATE": "1"},
         f"SPANHOOK_TRACING_SAMPLE_RATE: unknown variable (did you mean SPANHOOK_TRACING__SAMPLE_RATE{UNDERSCORES}?)"),
        ({"SPANHOOK_SAMPLE_RATE": "1"},
         f"SPANHOOK_SAMPLE_RATE: unknown variable (did you mean SPANHOOK_TRACING__SAMPLE_RATE{UNDERSCORES}?)"),
        ({"SPANHOOK_BACKENDS_KEYED_PORT": "1"},
         "SPANHOOK_BACKENDS_KEYED_PORT: unknown variable "
         f"(did you mean SPANHOOK_BACKENDS__NAME__OPTION{UNDERSCORES}?)"),
        ({"SPANHOOK_CONFIG_FILE": "x"},
         "SPANHOOK_CONFIG_FILE: unknown variable (did you mean SPANHOOK_CONFIG?)"),
        ({"SPANHOOK_TRACING__SPOOL": "x"},
         "SPANHOOK_TRACING__SPOOL: unknown option (did you mean SPANHOOK_DELIVERY__SPOOL?)"),
        ({"SPANHOOK_BACKENDS__PLAN__X": "1"},
         "SPANHOOK_BACKENDS__PLAN__X: no backend of this name is installed (did you mean 'plain'?)"),
        ({"SPANHOOK_TRACING__SAMPLE_RATE__X": "1"}, "SPANHOOK_TRACING__SAMPLE_RATE__X: must be a number"),
        ({"SPANHOOK_TRACING": '{"sample_rat": 1}'}, "SPANHOOK_TRACING: unknown option (did you mean 'sample_rate'?)"),
        ({"spanhook_tracing__strict": "perhaps"}, "spanhook_tracing__strict: must be true or false"),
        ({"SPANHOOK_BACKENDS": '["plain"]'},
         "SPANHOOK_BACKENDS: the list belongs into [tracing]; [backends.NAME] has the options of one"),
        ({"SPANHOOK_BACKENDS": "plain"},
         "SPANHOOK_BACKENDS: not valid JSON; the list of names is SPANHOOK_TRACING__BACKENDS"),
        ({"SPANHOOK_TRACING__STRCT": "1"}, "SPANHOOK_TRACING__STRCT: unknown option (did you mean 'strict'?)"),
        ({"SPANHOOK_TRACING__SAMPLE_RATE": "often"},
         "SPANHOOK_TRACING__SAMPLE_RATE: must be a number"),
        ({"SPANHOOK_TRACING__BACKENDS": "plain,plan"},
         "SPANHOOK_TRACING__BACKENDS: no backend named 'plan' is installed (did you mean 'plain'?)"),
        ({"SPANHOOK_TRACING__BACKENDS": " , "},
         "SPANHOOK_TRACING__BACKENDS: name at least one backend, or set enabled = false"),
        ({"SPANHOOK_TRACING__BACKENDS": "keyed", "SPANHOOK_BACKENDS__KEYED__PRT": "1"},
         "SPANHOOK_BACKENDS__KEYED__PRT: unknown option (did you mean 'port'?)"),
        ({"SPANHOOK_BACKENDS__PLAIN": "x"},
         "SPANHOOK_BACKENDS__PLAIN: must be a table "
         "(as JSON, or with a variable SPANHOOK_BACKENDS__PLAIN__… for each value)"),
        ({"SPANHOOK_TRACING": "{sk-secret"},
         "SPANHOOK_TRACING: not valid JSON; better give each option a variable of its own"),
    ],
)  # fmt: skip
def test_a_wrong_variable(problems_of, monkeypatch, variables, problem):
    """The variable is named, as it has to be corrected there and not in a file."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = problems_of(write("[tracing]\nbackends=['plain']\n[backends.keyed]\napi_key='k'\n"))
    assert found == [problem]


def test_a_wrong_dict_is_not_blamed_on_the_environment(problems_of, monkeypatch):
    """Code is stronger than the environment, so its value is the wrong one."""
    monkeypatch.setenv("SPANHOOK_TRACING__SAMPLE_RATE", "0.5")
    monkeypatch.setenv("SPANHOOK_TRACING__BACKENDS", "plain")
    assert problems_of({"tracing": {"sample_rate": 2}}) == ["configure(): tracing.sample_rate: must be at most 1"]
    assert problems_of({"tracing": {"backends": ["plan"]}}) == [
        "configure(): tracing.backends.0: no backend named 'plan' is installed (did you mean 'plain'?)"
    ]


def test_what_is_required_and_not_there(problems_of, monkeypatch):
    """Where it can be given: no file is blamed where there is none, and an empty variable is not one that is set."""
    monkeypatch.setenv("SPANHOOK_TRACING__BACKENDS", "keyed")
    assert problems_of() == ["backends.keyed.api_key: required (in tracing.toml, or SPANHOOK_BACKENDS__KEYED__API_KEY)"]


def test_a_section_that_two_have_a_part_of_is_the_files(problems_of, monkeypatch):
    """What is wrong with it as a whole is told of the file: the variable may only have brought the key."""
    monkeypatch.setenv("SPANHOOK_BACKENDS__KEYED__API_KEY", "k")
    (problem,) = problems_of(write("[tracing]\nbackends = ['keyed']\n[backends.keyed]\nport = 13"))
    assert problem.startswith("tracing.toml: backends.keyed: backend keyed: RuntimeError")
    monkeypatch.setenv("SPANHOOK_BACKENDS__KEYED__PORT", "13")
    (problem,) = problems_of(write("[tracing]\nbackends = ['keyed']"))
    assert problem.startswith("SPANHOOK_BACKENDS__KEYED__API_KEY: backend keyed: RuntimeError")


def test_a_plugin_whose_section_has_problems_is_not_created(problems_of):
    """It would be created with something else in the place of what is missing, and complain of that too."""
    found = problems_of(write("[tracing]\nbackends=['keyed']\n[backends.keyed]\nport=13\napi_key='${NOT_SET}'\n"))
    assert len(found) == 1
    assert "the environment variable NOT_SET is not set" in found[0]
    found = problems_of(write("[tracing]\nbackends=['keyed']\n[backends.keyed]\nprt=13\napi_key='${NOT_SET}'\n"))
    assert [line.split(": ")[1] for line in found] == ["backends.keyed.api_key", "backends.keyed.prt"]


@pytest.mark.parametrize(
    ("name", "what"), [(5, "a int"), ("", "an empty one"), (" ", "an empty one"), (None, "a NoneType")]
)
def test_the_name_of_a_plugin_in_code(problems_of, name, what):
    """It has to be one that messages and counts can show."""
    assert problems_of({"tracing": {"backends": ["plain"]}}, plugins={name: Memory()}) == [
        f"configure(plugins=…): a plugin's name must be a text, not {what}"
    ]


def test_every_problem_of_a_file_at_once(problems_of, monkeypatch):
    """Shape, values, references and variables together."""
    monkeypatch.setenv("SPANHOOK_NOPE", "1")
    found = problems_of(write("zzz=1\n[tracing]\ncapture='x'\nsample_rate=2\nservice='${NOPE}'\n[backends]\nx=1\n"))
    assert [problem.partition(" ")[0] for problem in found] == [
        "tracing.toml:",
        "SPANHOOK_NOPE:",
        *["tracing.toml:"] * 4,
    ]
    assert {problem.split(": ")[1] for problem in found if problem.startswith("tracing.toml")} == {
        "tracing.service", "tracing.capture", "tracing.sample_rate", "backends.x", "zzz",
    }  # fmt: skip


def test_every_problem_of_the_plugins_at_once(problems_of):
    """Extractors, backends, options and objects from code together; what was created already is shut down."""
    given_in_code = Memory()
    config = {
        "tracing": {"extractors": ["nope"], "backends": ["plain", "keyed", "loose", "plain"]},
        "backends": {"keyed": {"port": 0, "x": 1}, "loose": {"y": 2}, "gone": {}},
    }
    found = problems_of(config, plugins={"fine": given_in_code, "odd": object()})
    assert [problem.partition(": ")[2].partition(": ")[0] for problem in found] == [
        "tracing.extractors.0", "backends.gone", "backends.keyed.api_key", "backends.keyed.port", "backends.keyed.x",
        "backends.loose.y", "tracing.backends.3", "plugin 'odd'",
    ]  # fmt: skip
    assert [type(plugin).__name__ for plugin in odd_plugins.closed] == ["Plain"]
    assert given_in_code.hooks == ["shutdown"]


@pytest.mark.parametrize("config", [{5: {}}, {"tracing": {5: 1}}, {"backends": {5: {}}}])
def test_a_key_that_is_no_string(config):
    """It is an unknown name like any other."""
    with pytest.raises(ConfigError, match=r"configure\(\): .*5: "):
        spanhook.configure(config)


def test_plugins_that_are_no_dict_are_one_problem_among_others(problems_of):
    """What was made before is let go of, and what is wrong with the rest is said too."""
    with pytest.raises(ConfigError) as caught:
        spanhook.configure({"tracing": {"backends": ["nope"]}}, plugins=[1])  # type: ignore[arg-type]
    assert len(caught.value.problems) == 2
    assert "must be a dict of plugins by name, not a list" in caught.value.problems[1]


def test_a_failed_configure_leaves_the_earlier_tracer_at_work(problems_of):
    """Nothing has changed: the tracer from before traces on."""
    memory = Memory()
    tracer = spanhook.configure({"tracing": {"backends": [], "extractors": []}}, plugins={"memory": memory})
    assert problems_of({"tracing": {"backends": ["nope"]}})
    with tracer.span("still"):
        pass
    assert tracer.flush()
    assert [span.name for span in memory.spans] == ["still"]
