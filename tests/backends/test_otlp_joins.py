"""`join`: DSPy calls under the spans that OpenTelemetry has open, and its spans under DSPy calls."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Iterator

import dspy
import pytest
from dspy.utils import DummyLM

import spanhook
from doubles import Memory
from programs import Answerer

pytest.importorskip("opentelemetry.proto")

from opentelemetry import propagate, trace
from opentelemetry.context import attach, detach, get_current
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from spanhook_backends.otlp import OTLPBackend, context
from spanhook_backends.otlp.context import MAX_LEFT_BEHIND, trace_parent


class Program:
    """A program that OpenTelemetry traces, with Spanhook beside it; both send to `exporter`."""

    def __init__(self, *, join: bool = True, sampler: object = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)  # type: ignore[arg-type]
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.otel = self.provider.get_tracer("the program's")
        self.memory = Memory()
        backend = OTLPBackend(OTLPBackend.Options(join=join), tracer_provider=self.provider)
        plugins = {"otlp": backend, "memory": self.memory}
        self.tracer = spanhook.configure({"tracing": {"backends": []}}, plugins=plugins)

    def spans(self) -> dict[str, ReadableSpan]:
        """What arrived, by name."""
        assert self.tracer.flush()
        assert self.tracer.stats().errors == {}
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture(autouse=True)
def lm(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """And nothing is left in OpenTelemetry's context, nor said by it."""
    before = get_current()
    with dspy.context(lm=DummyLM([{"answer": f"a{i}"} for i in range(100)])):
        yield
    assert get_current() == before
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


def parent(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def test_a_call_hangs_under_the_request_and_a_clients_span_under_the_call() -> None:
    """One trace: the request, the module, its tool, the query in the tool; and the query's headers say the same."""
    program = Program()
    carried: dict[str, str] = {}

    def look_up(word: str) -> str:
        propagate.inject(carried)
        with program.otel.start_as_current_span("query"):
            return word

    class Module(dspy.Module):  # type: ignore[misc]
        def forward(self, word: str) -> dspy.Prediction:
            return dspy.Prediction(found=dspy.Tool(look_up)(word=word))

    with program.otel.start_as_current_span("request"):
        Module()(word="tree")
        with program.otel.start_as_current_span("after"):
            pass
    spans = program.spans()
    request, module, tool, query, after = (spans[n] for n in ("request", "Module", "look_up", "query", "after"))
    assert [parent(span) for span in (module, tool, query, after)] == [
        ids(request)[1],
        ids(module)[1],
        ids(tool)[1],
        ids(request)[1],
    ]
    assert len({ids(span)[0] for span in spans.values()}) == 1
    assert carried["traceparent"] == f"00-{ids(tool)[0]:032x}-{ids(tool)[1]:016x}-01"
    root = program.memory.spans[-1]
    assert root.is_local_root
    assert root.event_id.replace("-", "") != root.trace_id


def test_without_join_the_two_know_nothing_of_each_other() -> None:
    """No parent, no trace id in common, and the hooks are not there to cost anything."""
    program = Program(join=False)
    with program.otel.start_as_current_span("request"):
        with program.tracer.span("work"):
            assert trace.get_current_span().get_span_context().is_valid
        with program.tracer.interaction(), program.otel.start_as_current_span("query"):
            pass
    spans = program.spans()
    assert parent(spans["work"]) is None
    assert parent(spans["query"]) == ids(spans["request"])[1]
    assert not hasattr(OTLPBackend(OTLPBackend.Options(join=False)), "span_start")


def test_a_request_that_is_not_sampled_takes_its_calls_with_it() -> None:
    """They are counted."""
    program = Program(sampler=ParentBased(ALWAYS_OFF))
    with program.otel.start_as_current_span("request"):
        Answerer()(question="Why?")
    assert program.spans() == {}
    assert program.tracer.stats().sampled_out == 1


def test_tasks_have_their_own_requests() -> None:
    """Eight requests at once, two calls in each, and a query in each call."""
    program = Program()

    async def call(number: int) -> None:
        with program.tracer.span(f"call {number}"):
            await asyncio.sleep(0)
            with program.otel.start_as_current_span(f"query {number}"):
                await asyncio.sleep(0)

    async def request(number: int) -> None:
        with program.otel.start_as_current_span(f"request {number}"):
            await asyncio.gather(call(number), call(number + 100))

    async def everyone() -> None:
        await asyncio.gather(*(request(number) for number in range(8)))

    asyncio.run(everyone())
    spans = program.spans()
    assert len(spans) == 8 * 5
    for number in range(8):
        for own in (number, number + 100):
            assert parent(spans[f"call {own}"]) == ids(spans[f"request {number}"])[1]
            assert parent(spans[f"query {own}"]) == ids(spans[f"call {own}"])[1]


def test_calls_that_end_in_another_context_leave_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    """An async generator that is closed by another task, and a generator that is closed in another context."""
    program = Program()

    async def streaming(name: str) -> AsyncIterator[int]:
        with program.tracer.span(name), program.tracer.span("below"):
            yield 1
            yield 2

    async def main() -> None:
        stream = streaming("stream")
        await asyncio.create_task(anext_of(stream))
        await stream.aclose()  # type: ignore[attr-defined]
        with program.tracer.span("after"):
            pass

    def plain() -> Iterator[int]:
        with program.tracer.span("generator"):
            yield 1

    with caplog.at_level(logging.DEBUG):
        asyncio.run(main())
        generator = plain()
        elsewhere = contextvars.copy_context()
        elsewhere.run(next, generator)
        generator.close()  # type: ignore[attr-defined]
        assert elsewhere.run(trace_parent) is None
    assert parent(program.spans()["after"]) is None


def test_calls_on_many_threads_may_end_elsewhere_at_once() -> None:
    """What is remembered of them is bounded, and no call fails for it."""
    program = Program()

    def work() -> None:
        for _ in range(MAX_LEFT_BEHIND // 2):
            elsewhere = contextvars.copy_context()
            call = program.tracer.span("work")
            elsewhere.run(call.__enter__)
            call.__exit__(None, None, None)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(context._left_behind) == MAX_LEFT_BEHIND
    assert program.tracer.stats().errors == {}


async def anext_of(stream: AsyncIterator[int]) -> int:
    return await stream.__anext__()


def one(program: Program, name: str) -> None:
    with program.tracer.span(name):
        pass


def test_a_thread_that_openTelemetry_carries_its_context_to_joins_the_call() -> None:
    """DSPy's own context is not there, and yet it is one trace and one interaction."""
    program = Program()
    with program.tracer.interaction(user_id="u1", event="chat") as interaction:
        here = get_current()

        def work() -> None:
            token = attach(here)
            one(program, "in a thread")
            detach(token)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert set(program.spans()) == {"in a thread", "chat"}
    inner, outer = program.memory.spans
    assert (inner.trace_id, inner.parent_id, inner.event_id) == (interaction.trace_id, outer.span_id, outer.event_id)
    assert inner.user_id == "u1"
