"""The example of one trace in three processes does what its README shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from lm_server import LMServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "distributed"


def run(**environment: str) -> str:
    """What the example prints; it has to end by itself, and well."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "run.py")],
        capture_output=True,
        encoding="utf-8",
        timeout=110,
        check=False,
        env={**os.environ, "PYTHONUTF8": "1", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_front_and_two_workers_make_the_trace_of_the_readme() -> None:
    """With a model over HTTP: each worker asks it once, and the tree is the README's, but for the model's class."""
    with LMServer() as server:
        printed = run(MODEL="openai/gpt-4o-mini", API_BASE=server.lm().kwargs["api_base"], OPENAI_API_KEY="test")
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"```text\n(.*?)```", readme, re.S)
    assert shown is not None
    expected = shown[1].replace("DummyLM", "LM")

    def by_worker(text: str) -> str:
        """Which worker was asked first is chance."""
        return (
            text
            if text.find("worker-1") < text.find("worker-2")
            else re.sub(r"worker-([12])", lambda found: f"worker-{3 - int(found[1])}", text)
        )

    assert by_worker(printed) == expected
