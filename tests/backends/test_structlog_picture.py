"""The README's picture of a trace can be made again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "make_picture.py"


@pytest.mark.skipif(not SCRIPT.exists(), reason="docs/ is not here")
def test_the_picture_shows_a_real_trace(tmp_path: Path) -> None:
    """One SVG that needs nothing from elsewhere, with tokens, cost, a cache hit, an error and a cut-off answer."""
    target = tmp_path / "trace.svg"
    subprocess.run([sys.executable, str(SCRIPT), str(target)], check=True, capture_output=True, cwd=tmp_path)
    text = "".join(ElementTree.parse(target).getroot().itertext()).replace("\xa0", " ")
    for part in (
        "support_question",
        "2,962→166 tokens",
        "$0.00",
        "cache hit",
        "✗ KeyError: '23'",
        "length",
        "thumbs_up",
    ):
        assert part in text
    source = target.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "http" not in source
