"""`[tracing] keep`: what goes out of the traces that `sample_rate` leaves out, and the rate that their roots name."""

from __future__ import annotations

import logging
import os
import random
from contextlib import suppress
from typing import Any

import dspy
import pytest
from dspy.utils.dummies import DummyLM

import spanhook
from doubles import Memory, tracer_of
from remote_trace import SPAN, TRACE, TRACEPARENT
from spanhook import Span, SpanError
from spanhook.delivery.keeping import Keeping, Rule, rule_of
from spanhook.ids import is_sampled
from spanhook.span import Kind

ALL = ["error", "slow:5s", "cost:0.10"]


def configured(memory: Memory, keep: list[str], sample_rate: float = 0.0, **sections: Any) -> spanhook.Tracer:
    return tracer_of(memory, tracing={"sample_rate": sample_rate, "keep": keep}, **sections)


def fail(tracer: spanhook.Tracer, name: str) -> None:
    """A trace with an error in a span that the program gets over."""
    with tracer.span(name):
        with pytest.raises(LookupError), tracer.span("below"):
            raise LookupError
        with tracer.span("after"):
            pass


def test_an_error_keeps_the_whole_trace_and_the_rest_is_counted(memory: Memory) -> None:
    """In order, children first, with nothing missing; the other traces are counted exactly."""
    tracer = configured(memory, ["error"])
    for number in range(5):
        with tracer.interaction(), tracer.span(f"fine {number}"):
            pass
    fail(tracer, "failing")
    assert tracer.flush()
    assert [span.name for span in memory.spans] == ["below", "after", "failing"]
    assert memory.spans[-1].attributes["sample_rate"] == 1.0
    stats = tracer.stats()
    assert stats.sampled_out == 5
    assert stats.backends["a"].accepted == stats.backends["a"].delivered == 3


def test_nothing_of_a_trace_goes_out_before_its_root_has_ended(memory: Memory) -> None:
    """Until then nobody knows; a flush meanwhile is not a failed one. What ends later shares its root's fate."""
    tracer = configured(memory, ["error"])
    late = {name: tracer.span(f"late in {name}") for name in ("kept", "left out")}
    with tracer.span("kept"):
        with tracer.span("below"):
            pass
        late["kept"].__enter__()
        assert tracer.flush()
        assert memory.spans == []
        with pytest.raises(LookupError), tracer.span("failing"):
            raise LookupError
    late["kept"].__exit__(None, None, None)
    with tracer.span("left out"):
        late["left out"].__enter__()
    late["left out"].__exit__(None, None, None)
    assert tracer.flush()
    assert [span.name for span in memory.spans] == ["below", "failing", "kept", "late in kept"]
    assert tracer.stats().sampled_out == 1


def span(name: str, parent: str | None, kind: Kind = "custom", *, seconds: float = 0.0, **more: Any) -> Span:
    """An ended span of the trace whose root is "root"."""
    made = Span("a" * 32, name, parent, "e", kind, name, 0, int(seconds * 1e9), **more)
    made.local_root_id = "root"
    return made


def decide(rules: list[str], *spans: Span, sampled: bool = False, rate: float | None = 0.1) -> list[str]:
    keeping = Keeping(rules, 100, 100_000)
    keeping.begin("root", sampled=sampled, rate=rate)
    return [one.name for ended in spans for one in keeping.take(ended)]


@pytest.mark.parametrize(
    ("spans", "is_kept"),
    [
        ([span("root", None)], False),
        ([span("root", None, seconds=4.9)], False),
        ([span("root", None, seconds=5.0)], True),
        ([span("a", "root", seconds=6.0), span("root", None, seconds=1.0)], False),
        ([span("root", None, cost_usd=0.09)], False),
        ([span("root", None, cost_usd=0.10)], True),
        # not known of every call: what is known is enough, or is not
        ([span("a", "m", "lm", cost_usd=0.06), span("b", "n", "lm", cost_usd=0.06), span("root", None)], True),
        ([span("a", "m", "lm", cost_usd=0.06), span("b", "m", "lm"), span("root", None)], False),
        # an LM that calls another one covers what that cost
        ([span("a", "b", "lm", cost_usd=0.06), span("b", "root", "lm", cost_usd=0.06), span("root", None)], False),
        ([span("a", "b", "lm", cost_usd=0.12), span("b", "root", "lm"), span("root", None)], True),
        ([span("a", "root", error=SpanError("E", None, None)), span("root", None)], True),
    ],
)
def test_what_each_rule_keeps(spans: list[Span], is_kept: bool) -> None:
    """Each from its limit on; a root's duration, a trace's cost, an error anywhere."""
    assert decide(ALL, *spans) == ([one.name for one in spans] if is_kept else [])


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("error", Rule("error")),
        ("slow:5s", Rule("slow", 5.0)),
        ("slow:250ms", Rule("slow", 0.25)),
        ("slow:1.5m", Rule("slow", 90.0)),
        ("cost:0.10", Rule("cost", 0.1)),
    ],
)
def test_rules(text: str, rule: Rule) -> None:
    """As they are written."""
    assert rule_of(text) == rule


WRONG = [
    "",
    "errors",
    "slow",
    "slow:",
    "slow:5",
    "slow:-5s",
    "slow:5 s",
    "slow:infs",
    "cost:$1",
    "cost:nan",
    "cost:1e-3",
]


def test_wrong_rules_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by its place in the list, with what is allowed; the environment has them with commas."""
    with pytest.raises(spanhook.ConfigError) as caught:
        spanhook.configure({"tracing": {"keep": ["error", *WRONG]}})
    assert list(caught.value.problems) == [
        f'configure(): tracing.keep.{place}: must be "error", "slow:5s" (a number of ms, s or m) or "cost:0.10" '
        "(in US dollars)"
        for place in range(1, len(WRONG) + 1)
    ]
    monkeypatch.setenv("SPANHOOK_TRACING__KEEP", "error, slow:1s")
    assert spanhook.configure({}).settings.tracing.keep == ["error", "slow:1s"]


@pytest.mark.parametrize("keep", [[], ["error"]])
def test_the_rate_is_on_each_root_that_was_kept_by_chance(memory: Memory, keep: list[str]) -> None:
    """So that totals can be made good again; no rate where nothing was left out."""
    tracer = configured(memory, keep, 0.5)
    for _ in range(40):
        with tracer.span("root"), tracer.span("below"):
            pass
    tracer.flush()
    roots = [span for span in memory.spans if span.is_local_root]
    assert len(roots) + tracer.stats().sampled_out == 40
    assert {span.attributes.get("sample_rate") for span in roots} == {0.5}
    tracer = configured(memory, keep, 1.0)
    with tracer.span("all"):
        pass
    tracer.flush()
    assert "sample_rate" not in memory.spans[-1].attributes


def test_what_is_always_kept_says_so_when_chance_has_kept_it_too(memory: Memory) -> None:
    """It stands for itself alone: the totals of errors would be too high otherwise."""
    tracer = configured(memory, ["error"], 0.5)
    for _ in range(40):
        fail(tracer, "failing")
    tracer.flush()
    roots = [span for span in memory.spans if span.is_local_root]
    assert [root.attributes["sample_rate"] for root in roots] == [1.0] * 40
    assert len(memory.spans) == 120
    assert tracer.stats().sampled_out == 0


def test_the_rate_travels_with_the_trace(memory: Memory) -> None:
    """The next process keeps what the first one kept, and its roots say by which rate; one that a stranger kept says
    none."""
    tracer = configured(memory, [], 0.5)
    headers: dict[str, str] = {}
    while "spanhook.sample_rate" not in headers.get("baggage", ""):
        with tracer.interaction():
            spanhook.inject(headers)
    tracer = configured(memory, [], 0.001)
    for came in (headers, {"traceparent": TRACEPARENT}):
        with spanhook.attach(came), tracer.span("work"):
            pass
    tracer.flush()
    assert [span.attributes.get("sample_rate") for span in memory.spans if span.name == "work"] == [0.5, None]


def test_what_a_caller_leaves_out_is_kept_here_if_it_matters_here(memory: Memory) -> None:
    """Each process decides for its own part; the next one hears what chance has decided."""
    tracer = configured(memory, ["error"], 1.0)
    with spanhook.attach({"traceparent": f"00-{TRACE}-{SPAN}-00"}):
        with tracer.span("fine"):
            assert spanhook.inject({})["traceparent"].endswith("-00")
        fail(tracer, "failing")
    tracer.flush()
    assert [span.name for span in memory.spans if span.is_local_root] == ["failing"]
    assert memory.spans[-1].attributes["sample_rate"] == 1.0
    assert tracer.stats().sampled_out == 1


def test_there_is_room_for_so_many_spans_only(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    """The root still decides; if it is kept, what is missing is on it, counted and said, and else nothing is lost."""
    tracer = configured(memory, ["error"], delivery={"queue_spans": 8, "interval_s": 0.01})

    def run(name: str, *, fails: bool) -> None:
        with tracer.span(name):
            for number in range(30):
                with tracer.span(f"{number}"):
                    pass
                tracer.flush()
            if fails:
                raise LookupError

    with caplog.at_level(logging.WARNING, "spanhook"):
        run("fine", fails=False)
        assert tracer.stats().backends["a"].dropped == {}
        with pytest.raises(LookupError):
            run("failing", fails=True)
        assert not tracer.flush()
    root = memory.spans[-1]
    missing = root.attributes["spans_left_out"]
    assert root.name == "failing"
    assert len(memory.spans) - 1 + missing == 30
    assert tracer.stats().backends["a"].dropped == {"keep_full": missing}
    assert any("keep full" in message for message in caplog.messages)
    assert tracer.stats().sampled_out == 1


def test_too_many_running_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is decided as it is, and what comes of it later goes the same way."""
    monkeypatch.setattr("spanhook.delivery.keeping.MAX_TRACES", 2)
    keeping = Keeping(["error"], 100, 100_000)
    error = SpanError("E", None, None)
    for number in range(4):
        keeping.begin(f"r{number}", sampled=False, rate=0.1)
        child = Span(
            "a" * 32, f"c{number}", f"r{number}", "e", "custom", "c", 0, 1, error=error if number == 1 else None
        )
        child.local_root_id = f"r{number}"
        out = keeping.take(child)
        assert [one.span_id for one in out] == (["c1"] if number == 3 else [])
    late = Span("a" * 32, "late", "r0", "e", "custom", "c", 0, 1)
    late.local_root_id = "r0"
    assert not keeping.take(late)
    assert keeping.sampled_out == 1


def test_a_shutdown_decides_by_what_is_known(memory: Memory) -> None:
    """A trace that runs and has failed already goes out without its root; the others are counted."""
    tracer = configured(memory, ["error"])
    with tracer.span("running"), pytest.raises(LookupError), tracer.span("below"):
        raise LookupError
    scope = tracer.span("fine")
    scope.__enter__()
    with tracer.span("below fine"):
        pass
    with spanhook.attach({"traceparent": f"00-{TRACE}-{SPAN}-00"}), tracer.span("failing"):
        with pytest.raises(LookupError), tracer.span("below failing"):
            raise LookupError
        tracer.shutdown()
    scope.__exit__(None, None, None)
    assert [span.name for span in memory.spans] == ["below", "running", "below failing"]
    assert tracer.stats().sampled_out == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_decides_for_its_own(memory: Memory) -> None:
    """What the parent holds is the parent's."""
    tracer = configured(memory, ["error"])
    with tracer.span("the parent's"):
        with tracer.span("below"):
            pass
        tracer.flush()
        pid = os.fork()
        if pid == 0:
            with tracer.span("no trace of its own"):
                pass
            fine = tracer.flush() and memory.spans == []
            os._exit(0 if fine else 1)
        assert os.waitpid(pid, 0)[1] == 0
    tracer.flush()
    assert memory.spans == []
    assert tracer.stats().sampled_out == 1


def test_a_signature_among_the_inputs_can_be_held(memory: Memory) -> None:
    """What a program is called with is no plain data until it goes out."""
    tracer = tracer_of(memory, tracing={"sample_rate": 0.0, "keep": ["error"]})

    class Other(dspy.Signature):
        question: str = dspy.InputField()
        answer: str = dspy.OutputField()

    with suppress(KeyError), tracer.interaction(), dspy.context(lm=DummyLM([{"answer": "a"}])):
        dspy.Predict("question -> answer")(question="?", signature=Other)
        raise KeyError
    assert tracer.flush()
    assert {"interaction", "Predict"} <= {span.name for span in memory.spans}


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_random_trace_ids_give_the_right_share(rate: float) -> None:
    """OpenTelemetry's ids are random in all digits, ours begin with the time: both give the share, within 5 sigma."""
    numbers = random.Random(7)
    count = 20_000
    kept = sum(is_sampled(f"{numbers.getrandbits(128):032x}", rate) for _ in range(count))
    own = sum(is_sampled(spanhook.ids.new_trace_id(), rate) for _ in range(count))
    allowed = 5 * (count * rate * (1 - rate)) ** 0.5
    assert abs(kept - count * rate) < allowed
    assert abs(own - count * rate) < allowed


def test_what_waits_is_bounded_by_bytes_too() -> None:
    """A few spans with much in them leave no room for more; the latest stay."""
    keeping = Keeping(["error"], 100, 10_000)
    keeping.begin("root", sampled=False, rate=0.1)
    for number in range(5):
        assert not keeping.take(span(f"{number}", "root", outputs="x" * 6_000))
    kept = keeping.take(span("root", None, error=SpanError("E", None, None)))
    assert kept[-1].attributes["spans_left_out"] == keeping.take_lost() >= 4
    assert len(kept) == 1 + 5 - kept[-1].attributes["spans_left_out"]
