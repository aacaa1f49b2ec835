"""Every example in the README and the docs is run, or checked against what it is an example of.

What the info string of a block's fence says decides what happens to it:

- `python`: run. The blocks of a page run in order in one namespace, in a process and a folder of their own. A real
  model's name in them reaches the language model of these tests. Outside of the pages that a newcomer starts with,
  `program` is there already: the reader's own.
- `python title="test_x.py"`: written to that folder and run by pytest.
- `toml`: a tracing.toml, checked with the options of its plugins. With `title="tracing.toml"` the blocks below find it.
- `text title="Output"`: lines that the block above prints, in this order.
- `text title="Terminal"`: a trace as the terminal shows it; times and ids may differ.
- `python title="hookspecs.py"`: a hook's signature; `test_reference.py` checks it.
- `bash`: commands; those of Spanhook and make must exist.
- any title with a slash: a file of `tests/plugin_dists/spanhook-jsonfile`, which must be the same to the letter.
"""

import itertools
import json
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points, metadata, version
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from lm_server import LMServer, Reply, Tokens
from spanhook import PluginOptions
from spanhook.cli import main
from spanhook.config import files

ROOT = Path(__file__).parents[2]
JSONFILE = ROOT / "tests" / "plugin_dists" / "spanhook-jsonfile"
PLUGIN_PAGE = ROOT / "docs" / "how-to" / "write-a-plugin.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
DSPY = tuple(map(int, version("dspy").split(".")[:2]))
FIRST_PAGES = {"README.md", "docs/index.md", "docs/tutorial.md"}  # these assume nothing

CAPITALS = {"Italy": "Rome", "Spain": "Madrid", "Norway": "Oslo", "Greece": "Athens"}
PRELUDE = """
import dspy
from dspy.utils import DummyLM
dspy.configure(lm=DummyLM([{"reasoning": "I know it.", "answer": "Paris"}] * 100))
program = dspy.ChainOfThought("question -> answer")
"""
RUN = """
import contextlib, functools, io, json, os, sys
from pathlib import Path
import dspy

@functools.wraps(dspy.LM.__init__)
def init(self, *args, **kwargs):  # not by OPENAI_BASE_URL: with that DSPy takes another engine
    init.__wrapped__(self, *args, **{"api_base": os.environ["URL_OF_THE_TEST"], **kwargs})

dspy.LM.__init__ = init
namespace = {"__name__": "__main__"}
for step in json.load(sys.stdin):
    if step["file"]:
        Path(step["file"]).write_text(step["text"], encoding="utf-8")
        continue
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(step["text"], step["page"], "exec"), namespace)
    lines = iter(printed.getvalue().splitlines())
    for line in step["output"]:
        assert line in lines, f"{step['page']}: should have printed {line!r}, printed:\\n{printed.getvalue()}"
"""
FENCE = re.compile(
    r'^(?P<indent> *)```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?[^\n]*\n(?P<text>.*?)^(?P=indent)```$',
    re.M | re.S,
)


class Block(NamedTuple):
    """A fenced block: in which line of its page it starts, and what is in it."""

    line: int
    language: str
    title: str | None
    text: str

    @property
    def is_file_of_the_plugin(self) -> bool:
        return self.title is not None and "/" in self.title


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _blocks(page: Path, *languages: str) -> list[Block]:
    source = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(source):
        line = source.count("\n", 0, match.start("text"))
        text = re.sub(f"^{match['indent']}", "", match["text"], flags=re.M)
        found.append(Block(line, match["language"], match["title"], text))
    return [block for block in found if not languages or block.language in languages]


def _pages(language: str, title: str | None = "") -> list[object]:
    """The pages that have a block of this language; with None one without a title, else one with this in its title."""

    def is_wanted(block: Block) -> bool:
        return block.title is None if title is None else title in (block.title or "")

    wanted = [page for page in PAGES if any(map(is_wanted, _blocks(page, language)))]
    return [pytest.param(page, id=_name(page)) for page in wanted]


@pytest.fixture(scope="module")
def language_model():
    serials = itertools.count()

    def geographer(body):
        """Knows capitals; no two of its answers have the same tokens."""
        question = str(body["messages"][-1]["content"])
        answer = next((capital for country, capital in CAPITALS.items() if country in question), "Paris")
        serial = next(serials)
        tokens = Tokens(prompt=150 + serial, completion=30 + serial)
        return Reply(fields={"reasoning": "I know it.", "answer": answer}, tokens=tokens, model=body["model"])

    with LMServer(geographer) as server:
        yield server


@pytest.fixture
def variables(language_model, tmp_path):
    """The environment of a reader whose OpenAI key is set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPANHOOK_", "PYTEST_"))}
    return kept | {
        "OPENAI_API_KEY": "sk-of-the-reader",
        "URL_OF_THE_TEST": language_model.url,
        "SPANHOOK_BACKENDS__STRUCTLOG__FORMAT": "tree",  # as on a terminal
        "COLUMNS": "80",
        "DSPY_CACHEDIR": str(tmp_path / "dspy_cache"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _same_for_every_run(trace: str) -> str:
    """A trace on the terminal, without what differs from run to run."""
    for pattern, name in (
        (r"^ *\d[\d.,]* (µs|ms|s) ", "TIME "),
        (r"\d[\d,]*→\d[\d,]*", "TOKENS"),
        (r"\$[\d.]+", "COST"),
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}", "EVENT"),
    ):
        trace = re.sub(pattern, name, trace, flags=re.M)
    return trace


def _steps(page: Path) -> list[dict[str, object]]:
    """The page as what its reader does: a file to write, or code to run with what it prints."""
    steps: list[dict[str, object]] = []
    if _name(page) not in FIRST_PAGES:
        steps.append({"file": None, "page": "what every page has", "text": PRELUDE, "output": []})
    for block in _blocks(page, "python", "toml", "text"):
        if block.title == "tracing.toml":
            steps.append({"file": "tracing.toml", "text": block.text})
        elif block.title == "Output":
            steps[-1]["output"] = block.text.splitlines()
        elif block.language == "python" and block.title is None:
            # In its place among empty lines, so that a traceback names the line of the page.
            steps.append({"file": None, "page": _name(page), "text": "\n" * block.line + block.text, "output": []})
    return steps


@pytest.mark.parametrize("page", _pages("python", title=None))
def test_the_examples_of_a_page_run(page, variables, tmp_path):
    """Copied one after the other into one program, they work and print what the page says."""
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(_steps(page)),
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "(logged once)" not in done.stderr
    for block in _blocks(page, "text"):
        if block.title == "Terminal" and DSPY >= (3, 2):  # older DummyLMs give no reason to stop
            assert _same_for_every_run(block.text) in _same_for_every_run(done.stderr)


@pytest.mark.parametrize("page", _pages("python", title="test_"))
def test_the_tests_of_a_page_pass(page, variables, tmp_path):
    """A page that shows tests shows tests that pass."""
    for block in _blocks(page, "python"):
        if block.title is not None and not block.is_file_of_the_plugin:
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
    if not list(tmp_path.glob("test_*.py")):
        return  # the plugin's tests: tests/core/test_plugin_distribution.py runs them
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", _pages("toml"))
def test_the_configurations_of_a_page_are_valid(page, monkeypatch, tmp_path):
    """A tracing.toml that is shown can be loaded, and every plugin that is installed takes its options."""
    for block in _blocks(page, "toml"):
        if block.is_file_of_the_plugin:
            continue
        for variable in re.findall(r"\$\{(\w+)\}", block.text):
            monkeypatch.setenv(variable, "x")
        file = tmp_path / (block.title or "tracing.toml")
        file.write_text(block.text, encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        loaded = files.read(None if block.title == "pyproject.toml" else file)
        file.unlink()
        assert not loaded.problems
        assert loaded.places.origin != "defaults"
        for kind in ("backends", "extractors"):
            for name, options in getattr(loaded.settings, kind).items():
                if (model := _options_of(kind, name)) is not None:
                    model.model_validate(options)


def _options_of(kind: str, name: str) -> type[PluginOptions] | None:
    """None where the extra that it needs is not installed."""
    (point,) = entry_points(group=f"spanhook.{kind}", name=name)
    try:
        return point.load().Options
    except ImportError:
        return None


@pytest.mark.parametrize("page", _pages("bash"))
def test_the_commands_of_a_page_exist(page):
    """A command of ours that is shown is one, with these options; so is a target of make."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for block in _blocks(page, "bash"):
        for command in block.text.splitlines():
            program, *arguments = command.split("#")[0].split() or [""]
            if program == "spanhook":
                result = CliRunner().invoke(main, [*arguments, "--help"])
                assert result.exit_code == 0, f"{_name(page)}: {command}: {result.output}"
            elif program == "make":
                assert re.search(rf"^{arguments[0]}:", makefile, re.M), f"{_name(page)}: {command}"


@pytest.mark.parametrize("page", [pytest.param(page, id=_name(page)) for page in PAGES])
def test_what_a_page_says_to_install_exists(page):
    """Each extra in a `pip install "spanhook[…]"` is one."""
    named = re.findall(r"spanhook\[([\w,-]+)\]", page.read_text(encoding="utf-8"))
    extras = set(metadata("spanhook").get_all("Provides-Extra"))
    assert {extra for names in named for extra in names.split(",")} <= extras


def test_the_plugin_page_holds_the_whole_distribution():
    """A reader who copies the page has the distribution that the tests install and run."""
    shown = {block.title: block.text for block in _blocks(PLUGIN_PAGE) if block.is_file_of_the_plugin}
    files = [path for path in JSONFILE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    there = {
        f"{JSONFILE.name}/{path.relative_to(JSONFILE).as_posix()}": path.read_text(encoding="utf-8") for path in files
    }
    assert shown == there


def test_every_block_is_of_a_kind_that_is_checked():
    """No example goes unchecked by way of a misspelt fence."""
    for page in PAGES:
        fences = [
            line.strip() for line in page.read_text(encoding="utf-8").splitlines() if line.strip().startswith("```")
        ]
        assert len(fences) == 2 * len(_blocks(page)), f"{_name(page)}: a fence without a language, or left open"
        assert {b.language for b in _blocks(page)} <= {"python", "toml", "text", "bash", "json"}, _name(page)


def test_make_says_what_it_can_make():
    """`make help`, and `make` alone, have a line for every target."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.M)
    assert targets
    assert set(re.findall(r'@echo "make (\w+) ', makefile)) == {*targets[1].split()} - {"help"}
