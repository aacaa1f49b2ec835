"""Once and no more: beside others, configured twice, on instances, after fork, pickle, copy and load."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import dspy
import pytest

import spanhook
from doubles import WAIT_S, Memory
from exact import ENGINES, HAS_ENGINES, PRICED, assert_none_lost_none_wrong, lm_spans
from lm_server import LMServer
from programs import Answerer
from spanhook import Span, Tracer
from spanhook.testing import capture_spans

engines = pytest.mark.parametrize("engine", ENGINES)
PREDICT = ["adapter_format", "lm", "adapter_parse", "module", "module"]


def traced(**sections: Any) -> tuple[Tracer, Memory]:
    """A tracer with the default extractors, and what it delivers."""
    memory = Memory()
    sections["tracing"] = {"backends": [], **sections.get("tracing", {})}
    return spanhook.configure(sections, plugins={"memory": memory}), memory


def assert_once(spans: list[Span], server: LMServer, calls: int = 1) -> None:
    """One tree a call, exact, and the sum on top is that of its one LM call."""
    assert [span.kind for span in spans] == PREDICT * calls
    assert_none_lost_none_wrong(spans, server, calls)
    used = {span.trace_id: (span.usage, span.cost_usd) for span in lm_spans(spans)}
    assert len(used) == calls
    for span in spans:
        if span.kind == "module":
            assert (span.usage, span.cost_usd) == used[span.trace_id]


@engines
def test_configured_twice(server: LMServer, engine: str) -> None:
    """The second tracer takes the first one's place."""
    _, first = traced()
    tracer, second = traced()
    with dspy.context(lm=server.lm(PRICED, engine=engine)):
        Answerer()(question="Why?")
    assert tracer.flush(WAIT_S)
    assert first.spans == []
    assert_once(second.spans, server)


@engines
def test_in_the_settings_and_on_instances(server: LMServer, engine: str) -> None:
    """The same tracer is DSPy's global callback, the program's, the predictor's, the LM's, and the context's."""
    tracer, memory = traced()
    lm = server.lm(PRICED, engine=engine, callbacks=[tracer.callback])
    program = tracer.wrap(tracer.wrap(Answerer()))
    tracer.wrap(program.respond)
    with dspy.context(lm=lm, callbacks=[*dspy.settings.callbacks, tracer.callback]):
        program(question="Why?")
    assert tracer.flush(WAIT_S)
    assert_once(memory.spans, server)


@pytest.mark.parametrize("way", ["call", "stream"])
def test_beside_litellms_own_callbacks(server: LMServer, way: str) -> None:
    """Both see the call, each once; LiteLLM's object is not ours to change."""
    import litellm
    from litellm.integrations.custom_logger import CustomLogger

    seen: list[int] = []

    class Logger(CustomLogger):  # type: ignore[misc]
        def log_pre_api_call(self, model: Any, messages: Any, kwargs: Any) -> None:
            seen.append(1)

    logger = Logger()
    litellm.callbacks.append(logger)
    tracer, memory = traced()
    try:
        with dspy.context(lm=server.lm(PRICED, engine="litellm"), track_usage=True):
            if way == "call":
                Answerer()(question="Why?")
            else:
                list(dspy.streamify(Answerer(), async_streaming=False)(question="Why?"))
    finally:
        litellm.callbacks.remove(logger)
    assert tracer.flush(WAIT_S)
    assert [span.kind for span in memory.spans] == PREDICT
    assert_none_lost_none_wrong(memory.spans, server, 1, names_model=way == "call")
    assert len(seen) == 1


OTHERS = """
import os, sys
sys.path[:0] = sys.argv[1].split(os.pathsep)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

theirs = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(theirs))
package, name = sys.argv[2].split(":")
getattr(__import__(package, fromlist=[name]), name)().instrument(tracer_provider=provider)

import dspy
import spanhook
from exact import PRICED, assert_none_lost_none_wrong
from lm_server import LMServer
from programs import Answerer
from spanhook.testing import capture_spans

with LMServer() as server, capture_spans() as spans:
    more = {"engine": "litellm"} if sys.argv[3] == "litellm" else {}
    with dspy.context(lm=server.lm(PRICED, **more)):
        Answerer()(question="Why?")
        Answerer()(question="Why?")
    assert [s.kind for s in spans] == ["adapter_format", "lm", "adapter_parse", "module", "module"] * 2
    assert_none_lost_none_wrong(spans, server, 2)
print(len(theirs.get_finished_spans()), "spans of theirs")
"""

INSTRUMENTORS = [
    ("opentelemetry.instrumentation.openai:OpenAIInstrumentor", "litellm"),
    ("openinference.instrumentation.openai:OpenAIInstrumentor", "litellm"),
    ("openinference.instrumentation.litellm:LiteLLMInstrumentor", "litellm"),
    ("openinference.instrumentation.dspy:DSPyInstrumentor", "auto"),
]


@pytest.mark.parametrize(("instrumentor", "engine"), INSTRUMENTORS, ids=lambda value: value.partition(":")[0])
def test_beside_another_instrumentation(instrumentor: str, engine: str, tmp_path: Path) -> None:
    """In a process of its own, as it patches libraries: our spans are what they are without it."""
    if engine == "litellm" and not HAS_ENGINES:
        engine = "auto"
    pytest.importorskip(instrumentor.partition(":")[0], reason="it is not installed")
    script = tmp_path / "beside.py"
    script.write_text(OTHERS)
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, tests, instrumentor, engine],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    assert "spans of theirs" in done.stdout


@engines
@pytest.mark.parametrize("way", ["deepcopy", "deepcopy()", "reset_copy", "pickle", "save and load", "whole program"])
def test_a_copy_of_a_traced_program(server: LMServer, engine: str, way: str, tmp_path: Path) -> None:
    """The copy and the original are traced once each, and nothing of the tracer is in what was saved."""
    tracer, memory = traced()
    program = tracer.wrap(Answerer())
    lm = server.lm(PRICED, engine=engine)
    with dspy.context(lm=lm):
        program(question="Why?")
        if way == "deepcopy":
            made = copy.deepcopy(program)
        elif way == "deepcopy()":
            made = program.deepcopy()
        elif way == "reset_copy":
            made = program.reset_copy()
        elif way == "pickle":
            made = cloudpickle.loads(cloudpickle.dumps(program))
        elif way == "save and load":
            program.save(tmp_path / "program.json")
            assert "spanhook" not in (tmp_path / "program.json").read_text()
            made = tracer.wrap(Answerer())
            made.load(tmp_path / "program.json")
        else:
            program.save(tmp_path / "program", save_program=True)
            made = dspy.load(str(tmp_path / "program"), **LOADING)
        made(question="Why?")
    assert tracer.flush(WAIT_S)
    assert_once(memory.spans, server, 2)


try:
    LOADING = {"allow_pickle": True} if "allow_pickle" in dspy.load.__code__.co_varnames else {}
except AttributeError:
    LOADING = {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_in_the_middle_of_a_call(server: LMServer, tmp_path: Path) -> None:
    """Spans that were open then are the parent's alone; what each process does afterwards is told by it, once."""
    out = tmp_path / "spans"

    class ToFile:
        @spanhook.hookimpl
        def emit(self, spans: Any) -> None:
            with out.open("a") as file:
                file.writelines(f"{os.getpid()} {span.kind} {span.usage is not None}\n" for span in spans)

    tracer = spanhook.configure({"tracing": {"backends": []}}, plugins={"file": ToFile()})
    parent = os.getpid()

    class Forking(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.respond = dspy.Predict("question -> answer")

        def forward(self) -> int:
            child = os.fork()
            self.respond(question="Why?")
            return child

    with dspy.context(lm=server.lm(engine="litellm") if HAS_ENGINES else server.lm()):
        child = Forking()()
    if os.getpid() != parent:
        tracer.flush(WAIT_S)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert tracer.flush(WAIT_S)
    lines = [line.split() for line in out.read_text().splitlines()]
    of_parent = sorted(kind for pid, kind, _ in lines if pid == str(parent))
    of_child = sorted(kind for pid, kind, _ in lines if pid == str(child))
    assert of_parent == sorted(["adapter_format", "lm", "adapter_parse", "module", "module"])
    assert of_child == sorted(["adapter_format", "lm", "adapter_parse", "module"])
    assert all(known == "True" for _, kind, known in lines if kind == "lm")
    assert len(server.answered) == 2


@pytest.fixture(autouse=True)
def _one_callback() -> Iterator[None]:
    """Whatever was done, our callback stands in DSPy's settings once at most."""
    yield
    names = [type(callback).__name__ for callback in dspy.settings.callbacks]
    assert names.count("DSPySource") <= 1
    with capture_spans() as spans:
        pass
    assert spans == []
