"""The how-to for moving over, as its reader does it: every program in it runs and reaches Opik."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from opik_case import options
from opik_server import OpikServer

from lm_server import LMServer

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "move-from-opik.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r'^```python title="app.py"\n(.*?)^```', PAGE, re.M | re.S)
TOML = re.findall(r'^```toml title="tracing.toml"\n(.*?)^```', PAGE, re.M | re.S)
PRELUDE = """
import os, functools, dspy

@functools.wraps(dspy.LM.__init__)
def init(self, *args, **kwargs):
    init.__wrapped__(self, *args, **{"api_base": os.environ["URL_OF_THE_TEST"], **kwargs})

dspy.LM.__init__ = init
"""


@pytest.mark.parametrize(
    ("program", "names"),
    [(PROGRAMS[0] + PROGRAMS[1], ["ChainOfThought", "chat"]), (PROGRAMS[2], ["chat"])],
    ids=["the import", "the configuration"],
)
def test_the_programs_of_the_page_reach_opik(program: str, names: list[str], tmp_path: Path) -> None:
    """With Opik's own variables set, as the reader has them already."""
    (tmp_path / "tracing.toml").write_text(TOML[0], encoding="utf-8")
    with OpikServer() as server, LMServer() as lm_server:
        settings = {"OPIK_URL_OVERRIDE" if k == "host" else f"OPIK_{k.upper()}": v for k, v in options(server).items()}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "OPIK_"))}
        own = {"OPENAI_API_KEY": "sk-x", "URL_OF_THE_TEST": lm_server.url, "DSPY_CACHEDIR": str(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + program],
            cwd=tmp_path,
            env={**kept, **settings, **own},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "False" not in done.stdout
        assert "WARNING" not in done.stderr.replace("WARNING dspy", "")
        assert [trace.fields["name"] for trace in server.traces] == names
        chat = server.trace("chat")
        assert chat.fields["project_name"] == "support-bot"
        assert (chat.fields["thread_id"], chat.fields["metadata"]["user_id"]) == ("c1", "u1")
        assert chat.scores["thumbs_up"]["value"] == 1.0
        assert "_opik_graph_definition" in chat.fields["metadata"]
        assert not server.refused
