"""What every test starts from and has to leave behind: no configuration around it, no tracer, no thread."""

from __future__ import annotations

import functools
import getpass
import os
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

_dspy_cache = tempfile.TemporaryDirectory(
    prefix="spanhook-dspy-cache-"
)  # else earlier runs answer for the tests' models
os.environ["DSPY_CACHEDIR"] = _dspy_cache.name
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network when it is imported

import dspy  # noqa: E402 - it opens its cache when it is imported

from spanhook import Tracer, dspy_overrides  # noqa: E402 - they import it
from spanhook.active import SETTING  # noqa: E402

set_hypothesis_home_dir(Path(tempfile.gettempdir()) / f"spanhook-hypothesis-{getpass.getuser()}")
hypothesis.settings.register_profile(
    "spanhook",
    database=None,
    deadline=None,
    derandomize=True,  # what fails here fails for a change that was made, not by chance; `make fuzz` looks further
    max_examples=100,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("spanhook")
hypothesis.settings.register_profile("fuzz", derandomize=False, max_examples=5_000)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Iterator[None]:
    """A failure with half a character in it ends no worker: pytest-xdist sends UTF-8 alone."""
    report: dict[str, Any] = yield
    return _as_utf8(report)


def _as_utf8(part: Any) -> Any:
    if isinstance(part, str):
        return part.encode(errors="backslashreplace").decode()
    if isinstance(part, dict):
        return {_as_utf8(key): _as_utf8(value) for key, value in part.items()}
    return type(part)(map(_as_utf8, part)) if isinstance(part, list | tuple) else part


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of Spanhook's is set, and the working directory is empty."""
    for name in list(os.environ):
        if name.upper().startswith("SPANHOOK_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every tracer that the test made is shut down, DSPy has its callbacks back, and no thread is left."""
    made: weakref.WeakSet[Tracer] = weakref.WeakSet()
    make = Tracer.__init__

    @functools.wraps(make)
    def remember(self: Tracer, *arguments: Any, **more: Any) -> None:
        make(self, *arguments, **more)
        made.add(self)

    monkeypatch.setattr(Tracer, "__init__", remember)
    callbacks = list(dspy.settings.get("callbacks") or ())
    threads = set(threading.enumerate())
    yield
    for tracer in list(made):
        tracer.shutdown(timeout=2.0)
    if dspy.settings.get("callbacks") != callbacks:
        dspy.configure(callbacks=callbacks)
    still = [opened.span.name for opened in dspy_overrides.overrides_named(SETTING)]
    assert not still, f"the test left spans in DSPy's settings: {', '.join(still)}"
    left = [thread.name for thread in set(threading.enumerate()) - threads if thread.name.startswith("spanhook-")]
    assert not left, f"the test left threads behind: {', '.join(left)}"
