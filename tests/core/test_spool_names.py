"""Names that no directory or file can have in this process: said in plain words, and nothing is configured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import spanhook
from doubles import Memory
from spools import spooling

ASCII_ONLY = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are UTF-8 there, whatever the locale")
@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("from spanhook.cli import main; main(['check'])", b"delivery.spool: b\\xfccher can't be written: "),
        ("import spanhook; spanhook.configure('b\\xfccher.toml')", b"ConfigError: b\\xfccher.toml: "),
    ],
)
def test_a_process_with_ascii_names_only(tmp_path: Path, program: str, problem: bytes) -> None:
    """In the C locale, as cron or a bare container has it: what is wrong, and what to do."""
    (tmp_path / "tracing.toml").write_text('[delivery]\nspool = "bücher"\n', "utf-8")
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={**os.environ, **ASCII_ONLY}, capture_output=True, check=False)
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if b"this process has ascii names only" in line]
    assert problem in said
    assert b"; set PYTHONUTF8=1, or" in said


def test_a_name_that_no_directory_can_have() -> None:
    """It has a null character."""
    with pytest.raises(spanhook.ConfigError, match=r"delivery\.spool: a\\x00b can't be the name of a directory"):
        spooling(Path("a\0b"), Memory())
