"""Someone else's plugins: distributions of their own, really built and installed, found through their entry points."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

DISTRIBUTIONS = Path(__file__).parents[1] / "plugin_dists"
JSONFILE = DISTRIBUTIONS / "spanhook-jsonfile"
EXAMPLE = Path(JSONFILE.name, "example")

# Each configuration that a broken distribution spoils; the keys name the tests' cases.
BROKEN = {
    "two distributions": {"backends": ["twin"]},
    "missing extra": {"backends": ["acme_cloud"]},
    "extractor among backends": {"backends": ["lost_extractor"]},
    "unknown group": {"backends": ["lost_backend"]},
    "no hooks": {"backends": ["unmarked"]},
    "misspelt hook": {"extractors": ["misspelt"]},
    "backend under extractors": {"extractors": ["jsonfile"]},
    "several": {"extractors": ["misspelt"], "backends": ["twin", "acme_cloud", "jsonfile"]},
}
TRY_BROKEN = """
import json, sys, spanhook
problems = {}
for case, tracing in json.load(sys.stdin).items():
    try:
        spanhook.configure({"tracing": tracing})
    except spanhook.ConfigError as error:
        problems[case] = error.problems
print(json.dumps(problems))
"""


class Environment:
    """A fresh virtual environment that has all the distributions, on top of the packages that run this test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        lines = {f"import site; site.addsitedir({sysconfig.get_path(kind)!r})" for kind in ("purelib", "platlib")}
        packages = self.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
        (Path(packages) / "packages_of_the_test.pth").write_text("\n".join(sorted(lines)) + "\n", encoding="utf-8")
        sources = [path.parent for path in sorted(DISTRIBUTIONS.rglob("pyproject.toml"))]
        copies = [shutil.copytree(source, folder / "sources" / source.name) for source in sources]
        offline = ("--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation")
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet", *offline]
        done = subprocess.run([*pip, *map(str, copies)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"this needs pip and hatchling, from the extra `test`:\n{done.stderr}"

    def run(self, *arguments: object, cwd: Path, **options: object) -> str:
        """What `python ARGUMENTS` prints there; it must succeed."""
        done = subprocess.run(
            [self.python, *map(str, arguments)],
            cwd=cwd,
            env=_variables(self.folder),
            capture_output=True,
            text=True,
            check=False,
            **options,
        )
        assert done.returncode == 0, done.stderr or done.stdout
        return done.stdout


def _variables(folder: Path) -> dict[str, str]:
    """The environment of a program that knows nothing of this test run, and leaves nothing in the home directory."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPANHOOK_", "PYTEST_", "COV_"))}
    return kept | {
        "DSPY_CACHEDIR": str(folder / "dspy_cache"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("someone_else"))


@pytest.fixture(scope="module")
def problems(environment):
    return json.loads(environment.run("-c", TRY_BROKEN, cwd=environment.folder, input=json.dumps(BROKEN)))


@pytest.fixture(scope="module")
def records(environment, tmp_path_factory):
    """What the page's example wrote, run as its reader runs it: `python ask.py` beside its `tracing.toml`."""
    folder = shutil.copytree(JSONFILE / "example", tmp_path_factory.mktemp("reader") / "example")
    assert "It is Paris" in environment.run("ask.py", cwd=folder)
    lines = (folder / "spans.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_installed_backend_receives_the_whole_trace(records):
    """Every span of the program reaches a backend that an installed distribution brought, as one tree."""
    spans = [record for record in records if record["record"] == "span"]
    assert [span["kind"] for span in spans] == ["adapter_format", "lm", "adapter_parse", "module", "interaction"]
    assert len({span["trace_id"] for span in spans}) == 1
    by_id = {span["span_id"]: span for span in spans}
    assert [by_id[span["parent_id"]]["kind"] for span in spans[:-1]] == ["module", "module", "module", "interaction"]
    assert spans[-1]["parent_id"] is None
    assert spans[-1]["user_id"] == "u1"


def test_the_installed_extractor_adds_its_fact(records):
    """The extractor of the same distribution is asked, and named as the source of what it knew."""
    (module,) = [record for record in records if record.get("kind") == "module"]
    assert module["attributes"]["answer_words"] == 3
    assert module["sources"]["attributes.answer_words"] == "answer_length"


def test_the_installed_backend_receives_identities_and_signals_in_order(records):
    """What the program says of its user comes after the spans of the interaction, and names the same event."""
    identity, signal = records[-2:]
    assert identity == {"record": "identity", "user_id": "u1", "traits": {"plan": "pro"}}
    assert (signal["record"], signal["name"], signal["comment"]) == ("signal", "thumbs_up", "Right!")
    assert signal["event_id"] == records[0]["event_id"]


def test_the_distributions_own_tests_pass(environment):
    """The tests that the page tells its reader to write are run as the reader runs them."""
    quiet = ("-q", "-p", "no:cacheprovider")
    assert "3 passed" in environment.run(
        "-m", "pytest", *quiet, "tests", cwd=environment.folder / "sources" / JSONFILE.name
    )


@pytest.mark.parametrize(
    ("case", "parts"),
    [
        ("two distributions", ("tracing.backends.0", "'twin'", "broken-twin-one and broken-twin-two", "uninstall one")),
        (
            "missing extra",
            (
                "tracing.backends.0",
                "acme_cloud = broken_missing_extra:AcmeBackend",
                "broken-missing-extra 2.0",
                "No module named 'acme_cloud_sdk'",
                'pip install "broken-missing-extra[acme_cloud]"',
            ),
        ),
        ("extractor among backends", ("'lost_extractor'", "implements no emit", "it would be an extractor")),
        ("unknown group", ("no backend named 'lost_backend' is installed", "jsonfile", "structlog")),
        ("no hooks", ("'unmarked'", "implements no hook", "@spanhook.hookimpl")),
        ("misspelt hook", ("'misspelt'", "'span_ends' is no hook", "did you mean 'span_end'?")),
        ("backend under extractors", ("'jsonfile' is the name of a backend", "list it under backends")),
    ],
)
def test_a_distribution_that_cant_be_used_is_a_clear_error(problems, case, parts):
    """The message says what is wrong, in which distribution, and what to do."""
    (problem,) = problems[case]
    assert problem.startswith("configure(): ")
    assert [part for part in parts if part not in problem] == [], problem


def test_the_command_line_knows_them(environment):
    """`spanhook plugins` names the distribution of each, and says of the one that can't be loaded what to install."""
    command = "import sys; from spanhook.cli import main; main(sys.argv[1:])"
    rows = json.loads(environment.run("-c", command, "plugins", "--json", cwd=environment.folder))
    found = {(row["name"], row["distribution"]): row["error"] for row in rows}
    assert found["jsonfile", "spanhook-jsonfile"] is None
    assert found["answer_length", "spanhook-jsonfile"] is None
    assert 'pip install "broken-missing-extra[acme_cloud]"' in found["acme_cloud", "broken-missing-extra"]
    for distribution in ("broken-twin-one", "broken-twin-two"):
        assert found["twin", distribution] == "another distribution has this name, too; uninstall one of them"
    checked = environment.run("-c", command, "check", "tracing.toml", cwd=environment.folder / "sources" / EXAMPLE)
    assert "jsonfile" in checked
    assert "answer_length" in checked


def test_every_problem_is_reported_at_once(problems):
    """Four plugins that can't be used are four lines, in one error."""
    assert [problem.split(": ")[1] for problem in problems["several"]] == [
        "tracing.extractors.0",
        "tracing.backends.0",
        "tracing.backends.1",
        "backends.jsonfile.path",
    ]
