"""What several tests of the core need."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.dummies import DummyLM

import odd_plugins
import spanhook
from doubles import Memory, install, tracer_of
from lm_server import LMServer
from processes import Program, Receiver
from spanhook import Span, Tracer
from spanhook.delivery import outage, spool
from spanhook.testing import capture_spans


@pytest.fixture
def memory() -> Memory:
    """A backend that keeps what it gets."""
    return Memory()


@pytest.fixture
def server() -> Iterator[LMServer]:
    """A language model over HTTP."""
    with LMServer() as running:
        yield running


@pytest.fixture
def tracer(memory: Memory, server: LMServer) -> Iterator[Tracer]:
    """A tracer to `memory`, of programs that ask `server` and have its counts of tokens."""
    with dspy.context(lm=server.lm()):
        yield tracer_of(memory, tracing={"extractors": ["history"]})


@pytest.fixture
def spans(server: LMServer) -> Iterator[list[Span]]:
    """The finished spans of the test's programs, which ask `server`."""
    with dspy.context(lm=server.lm()), capture_spans() as captured:
        yield captured


@pytest.fixture
def dummy_lm() -> Iterator[None]:
    """DSPy's model is its own dummy, which answers a0, a1, a2 and so on."""
    with dspy.context(lm=DummyLM([{"answer": f"a{i}"} for i in range(100)])):
        yield


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Takes spans from any number of processes."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def program(tmp_path: Path, receiver: Receiver) -> Program:
    """A program whose spans go to `receiver`, from whatever processes it starts."""
    return Program(tmp_path, receiver)


@pytest.fixture
def spool_folder(tmp_path: Path) -> Path:
    """Where a spool may be."""
    return tmp_path / "spool"


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses of an outage are those of a test."""
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(outage, "LONGEST_PAUSE_S", 0.01)


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spool looks for files of dead processes, and for what is wrong with its own, all the time."""
    monkeypatch.setattr(spool, "LOOK_EVERY_S", 0.02)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on `sys.path` to install distributions into; what was imported from it is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture
def odd(site: Path) -> None:
    """Installs `odd_plugins`: the backends plain, keyed, telling, loose and greedy, and the extractor reader."""
    odd_plugins.closed.clear()
    names = ("Plain", "Keyed", "Telling", "Loose", "Greedy")
    backends = "\n".join(f"{name.lower()} = odd_plugins:{name}" for name in names)
    install(site, "odd-plugins", backends=backends, extractors="reader = odd_plugins:Reader")


@pytest.fixture
def problems_of(odd: None) -> Callable[..., list[str]]:
    """A function: what `configure` says of a wrong configuration. It checks that nothing else was done."""

    def configure(config: Any = None, plugins: dict[str, Any] | None = None) -> list[str]:
        callbacks, threads = dspy.settings.callbacks, set(threading.enumerate())
        with pytest.raises(spanhook.ConfigError) as caught:
            spanhook.configure(config, plugins=plugins)
        assert dspy.settings.callbacks == callbacks
        assert set(threading.enumerate()) <= threads
        assert str(caught.value) == "\n".join(caught.value.problems)
        return list(caught.value.problems)

    return configure
