"""`spanhook.add_trace_ids`: the program's own log lines say during which call they were written."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from typing import Any

import dspy
import pytest
import structlog

import spanhook
from spanhook.testing import capture_spans

Lines = list[MutableMapping[str, Any]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What the program logs, after `add_trace_ids`."""
    written: Lines = []

    def keep(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        written.append(event)
        raise structlog.DropEvent

    structlog.reset_defaults()
    structlog.configure(processors=[spanhook.add_trace_ids, keep])
    yield written
    structlog.reset_defaults()


class Worker(dspy.Module):
    """Logs from inside its call."""

    def forward(self, number: int) -> dspy.Prediction:
        structlog.get_logger().info("working", number=number)
        return dspy.Prediction(number=number)

    async def aforward(self, number: int) -> dspy.Prediction:
        await asyncio.sleep(0)
        return self.forward(number)


class Team(dspy.Module):
    """Has several workers at once, each in a thread."""

    def forward(self, count: int) -> dspy.Prediction:
        structlog.get_logger().info("team")
        parallel = dspy.Parallel(num_threads=4, disable_progress_bar=True)
        worker = Worker()
        parallel([(worker, {"number": number}) for number in range(count)])
        structlog.get_logger().info("done")
        return dspy.Prediction(count=count)


class LogsItsOwn(dspy.Module):
    """Logs with a trace id of the program's own."""

    def forward(self) -> dspy.Prediction:
        structlog.get_logger().info("working", trace_id="mine")
        return dspy.Prediction()


def ids(line: MutableMapping[str, Any] | spanhook.Span) -> tuple[Any, ...]:
    names = ("trace_id", "span_id", "event_id")
    return tuple(getattr(line, name) if isinstance(line, spanhook.Span) else line.get(name) for name in names)


def test_a_line_inside_a_call_has_the_calls_ids(lines: Lines) -> None:
    """The ids that the call's span has in every backend."""
    with capture_spans() as spans:
        Worker()(number=1)
    assert [ids(line) for line in lines] == [ids(span) for span in spans]


def test_a_line_outside_of_any_call_has_none(lines: Lines) -> None:
    """Before and after a call, and where nothing is traced."""
    log = structlog.get_logger()
    log.info("untraced")
    with capture_spans():
        log.info("before")
        Worker()(number=1)
        log.info("after")
    outside = [line for line in lines if line["event"] != "working"]
    assert [sorted(line) for line in outside] == [["event"]] * 3


def test_lines_from_the_threads_of_parallel_have_those_of_their_own_call(lines: Lines) -> None:
    """32 calls over 4 threads: each line has the span of the call that wrote it, all of one trace."""
    with capture_spans() as spans:
        Team()(count=32)
    by_number = {span.inputs["number"]: span for span in spans if span.name == "Worker"}
    written = {line["number"]: ids(line) for line in lines if line["event"] == "working"}
    assert written == {number: ids(span) for number, span in by_number.items()}
    assert len(written) == 32
    assert len({line["trace_id"] for line in lines}) == 1
    (team,) = [span for span in spans if span.name == "Team"]
    around = [line for line in lines if line["event"] in ("team", "done")]
    assert [ids(line) for line in around] == [ids(team)] * 2


def test_lines_from_tasks_have_those_of_their_own_call(lines: Lines) -> None:
    """The same for `asyncio.gather`."""

    async def work() -> None:
        await asyncio.gather(*(Worker().acall(number=number) for number in range(8)))

    with capture_spans() as spans:
        asyncio.run(work())
    written = {line["number"]: ids(line) for line in lines}
    assert written == {span.inputs["number"]: ids(span) for span in spans}
    assert len(set(written.values())) == 8


def test_a_span_of_the_programs_own_is_the_innermost(lines: Lines) -> None:
    """Inside `tracer.span`, and inside an interaction whose event id is the caller's own."""
    tracer = spanhook.configure({"backends": {"structlog": {"format": "events"}}})
    try:
        with capture_spans(tracer) as spans, tracer.interaction(event_id="order-17"):
            structlog.get_logger().info("outer")
            with tracer.span("step"):
                structlog.get_logger().info("inner")
    finally:
        tracer.shutdown()
    step, interaction = spans
    own = {line["event"]: line for line in lines}
    assert (ids(own["outer"]), ids(own["inner"])) == (ids(interaction), ids(step))
    assert own["inner"]["event_id"] == "order-17"


def test_keys_that_are_there_stay(lines: Lines) -> None:
    """A program's own `trace_id` is not overwritten."""
    with capture_spans() as spans:
        LogsItsOwn()()
    (line,) = lines
    assert line["trace_id"] == "mine"
    assert line["span_id"] == spans[0].span_id


def test_the_backends_own_events_keep_the_ids_of_their_spans(lines: Lines) -> None:
    """The processor is in the chain that the backend's events go through; they are of spans that have ended."""
    tracer = spanhook.configure({})
    try:
        with capture_spans(tracer) as spans:
            Worker()(number=1)
            tracer.flush()
    finally:
        tracer.shutdown()
    events = [line for line in lines if line["event"] == "spanhook.span"]
    assert [ids(line) for line in events] == [ids(span) for span in spans]
