"""The page about OpenTelemetry names what is sent, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.proto")

from spanhook_backends.otlp.conventions import FACTS, GENAI_VERSION, OPENINFERENCE_VERSION

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference" / "otlp.md").read_text(encoding="utf-8")


def test_the_table_of_names_is_that_of_the_code() -> None:
    """Row by row, in the same order."""
    table = PAGE.split("| what | GenAI | OpenInference |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| [^|-][^|]*\| (?:`([^`]+)`)? ?\| (?:`([^`]+)`)? ?\|$", table, re.M)
    assert rows == [(fact.genai or "", fact.openinference or "") for fact in FACTS]


def test_the_versions_are_those_of_the_code() -> None:
    """A reader can look the names up where we did."""
    assert f"semantic_conventions.md) {OPENINFERENCE_VERSION}. " in PAGE
    assert re.search(r"pull request \d+", GENAI_VERSION)[0] in PAGE  # type: ignore[index]


def test_every_receiver_says_whether_it_was_run() -> None:
    """What `make e2e` runs is marked so, and nothing else is."""
    page = (DOCS / "how-to" / "opentelemetry-receivers.md").read_text(encoding="utf-8")
    said = dict(re.findall(r"^## (.+)\n\n(Run|Not run)\b", page, re.M))
    headings = re.findall(r"^## (.+)$", page, re.M)
    assert list(said) == [heading for heading in headings if heading != "When nothing arrives"]
    assert {name for name, run in said.items() if run == "Run"} == {"Phoenix", "MLflow", "A collector"}
    e2e = Path(__file__).parents[1] / "e2e"
    assert all((e2e / f"test_{name}.py").exists() for name in ("phoenix", "mlflow", "rotel"))
