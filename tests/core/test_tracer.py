"""The tracer's API: interactions, spans of one's own, wrap, identity, the handle of a prediction, configuring."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import re
import uuid
from typing import Any

import cloudpickle
import dspy
import pytest
from dspy.utils.callback import BaseCallback
from dspy.utils.dummies import DummyLM

import spanhook
from doubles import Memory, tracer_of
from programs import Answerer, FanOut
from spanhook import Tracer
from spanhook.dspy_compat import process_callbacks
from spanhook.testing import capture_spans

pytestmark = pytest.mark.usefixtures("dummy_lm")

# DSPy asks for it from 3.1 on.
ALLOW_PICKLE = {"allow_pickle": True} if "allow_pickle" in inspect.signature(dspy.load).parameters else {}


def configured(memory: Memory, **tracing: Any) -> Tracer:
    return tracer_of(memory, tracing=tracing)


def test_an_interaction_is_the_root_with_the_users_identity(memory: Memory) -> None:
    """One trace; user, conversation and event id on every span of it; the event is its name."""
    tracer = configured(memory)
    with tracer.interaction(user_id="u1", convo_id="c1", event="chat", properties={"plan": "pro"}) as interaction:
        Answerer()(question="Why?")
        Answerer()(question="And?")
    assert tracer.flush()
    root = memory.spans[-1]
    assert (root.kind, root.name, root.parent_id) == ("interaction", "chat", None)
    assert {(s.user_id, s.convo_id, s.event_id, s.trace_id) for s in memory.spans} == {
        ("u1", "c1", interaction.event_id, interaction.trace_id)
    }
    assert root.attributes["properties.plan"] == "pro"
    assert uuid.UUID(interaction.event_id).version == 7
    assert [s.name for s in memory.spans if s.parent_id == root.span_id] == ["Answerer", "Answerer"]


def test_an_interaction_shows_the_first_input_and_the_last_output(memory: Memory) -> None:
    """Of the calls directly inside; what the program sets itself goes before."""
    tracer = configured(memory)
    with tracer.interaction():
        Answerer()(question="first")
        last = Answerer()(question="last")
    with tracer.interaction() as interaction:
        interaction.inputs, interaction.outputs = "own input", {"own": "output"}
        Answerer()(question="first")
    tracer.flush()
    plain, own = [span for span in memory.spans if span.kind == "interaction"]
    assert (plain.inputs, plain.outputs) == ({"question": "first"}, {"answer": last.answer})
    assert (own.inputs, own.outputs) == ("own input", {"own": "output"})


def test_a_span_of_ones_own_is_shown_only_where_there_is_no_dspy_call(memory: Memory) -> None:
    """The interaction is what the user asked, not what was looked up on the way."""
    tracer = configured(memory)
    with tracer.interaction(), tracer.span("retrieve", query="documents") as own:
        own.outputs = ["a document"]
    with tracer.interaction():
        with tracer.span("retrieve", query="documents"):
            pass
        answer = Answerer()(question="Why?").answer
        with tracer.span("log") as own:
            own.outputs = "logged"
    tracer.flush()
    alone, both = [span for span in memory.spans if span.kind == "interaction"]
    assert (alone.inputs, alone.outputs) == ({"query": "documents"}, ["a document"])
    assert (both.inputs, both.outputs) == ({"question": "Why?"}, {"answer": answer})


def test_identity_reaches_the_threads_of_parallel_and_tasks(memory: Memory) -> None:
    """Also where dspy.Parallel is called with no module around it, and in asyncio tasks."""
    tracer = configured(memory)

    async def tasks() -> None:
        await asyncio.gather(*(asyncio.create_task(Answerer().acall(question="q")) for _ in range(4)))

    with tracer.interaction(user_id="u1"):
        pairs = [(Answerer(), {"question": f"q{i}"}) for i in range(8)]
        dspy.Parallel(num_threads=4, disable_progress_bar=True)(pairs)
        FanOut()(questions=["a", "b"])
        asyncio.run(tasks())
    tracer.flush()
    assert {span.user_id for span in memory.spans} == {"u1"}
    assert len({span.trace_id for span in memory.spans}) == 1
    assert [span.kind for span in memory.spans if span.parent_id is None] == ["interaction"]


def test_concurrent_interactions_stay_apart(memory: Memory) -> None:
    """In one event loop, each task's calls belong to its own user."""
    tracer = configured(memory)

    async def converse(user: str) -> None:
        with tracer.interaction(user_id=user):
            await Answerer().acall(question=user)

    async def everyone() -> None:
        await asyncio.gather(*(converse(f"u{i}") for i in range(20)))

    asyncio.run(everyone())
    tracer.flush()
    asked = [span for span in memory.spans if span.name == "Answerer"]
    assert len(asked) == 20
    assert all(span.user_id == span.inputs["question"] for span in asked)


def test_own_event_ids(memory: Memory) -> None:
    """A string, or a function that makes one; a UUIDv7 is the trace's id too; a function that fails is survived."""
    tracer = configured(memory)
    given = str(uuid.UUID("01890000-0000-7000-8000-000000000001"))
    with tracer.interaction(event_id="order-17") as own, tracer.span("work"):
        pass
    with tracer.interaction(event_id=lambda: given) as made:
        pass
    with tracer.interaction(event_id=lambda: 1 / 0) as failed:  # type: ignore[arg-type,return-value]
        pass
    tracer.flush()
    assert {span.event_id for span in memory.spans[:2]} == {own.event_id} == {"order-17"}
    assert made.event_id == given
    assert made.trace_id == given.replace("-", "")
    assert uuid.UUID(failed.event_id).version == 7
    assert tracer.stats().errors == {"interaction: event_id(): ZeroDivisionError": 1}


def test_a_nested_interaction_joins_the_trace(memory: Memory) -> None:
    """It keeps what it does not say itself."""
    tracer = configured(memory)
    with tracer.interaction(user_id="u1", convo_id="c1") as outer, tracer.interaction(convo_id="c2") as inner:
        Answerer()(question="Why?")
    tracer.flush()
    assert inner.event_id == outer.event_id
    assert inner.trace_id == outer.trace_id
    answerer = next(span for span in memory.spans if span.name == "Answerer")
    assert (answerer.user_id, answerer.convo_id) == ("u1", "c2")


def test_an_exception_leaves_the_interaction_unchanged(memory: Memory) -> None:
    """The very same object comes out, and the span has its type, message and traceback."""
    tracer = configured(memory)
    problem = KeyError("order")
    with pytest.raises(KeyError) as caught, tracer.interaction():
        raise problem
    tracer.flush()
    assert caught.value is problem
    error = memory.spans[-1].error
    assert error is not None
    assert (error.type, error.message) == ("KeyError", "'order'")
    assert "raise problem" in (error.traceback or "")


def test_the_handle_of_a_prediction(memory: Memory) -> None:
    """`event_id_of` works from the prediction alone, for as long as that lives; None for others."""
    tracer = configured(memory)
    with tracer.interaction() as interaction:
        prediction = Answerer()(question="Why?")
    alone = Answerer()(question="Why?")
    assert spanhook.event_id_of(prediction) == interaction.event_id
    assert spanhook.event_id_of(alone) not in (None, interaction.event_id)
    assert spanhook.event_id_of(copy.deepcopy(prediction)) is None
    assert spanhook.event_id_of(dspy.Prediction(answer="x")) is None
    assert spanhook.event_id_of("text") is None
    assert vars(prediction).keys() == vars(dspy.Prediction(answer="x")).keys()
    tracer.shutdown()
    assert spanhook.event_id_of(Answerer()(question="Why?")) is None


def test_a_span_of_ones_own(memory: Memory) -> None:
    """As a block: under the module that runs, with DSPy's calls inside it under itself, in Parallel's threads too."""
    tracer = configured(memory)

    class Retrieving(dspy.Module):
        def forward(self, question: str) -> Any:
            with tracer.span("retrieve", query=question) as span:
                Answerer()(question=question)
                dspy.Parallel(num_threads=2, disable_progress_bar=True)([(Answerer(), {"question": "p"})])
                span.outputs = {"documents": 2}
                span.attributes["index"] = "docs"
            return Answerer()(question=question)

    Retrieving()(question="Why?")
    tracer.flush()
    by_id = {span.span_id: span for span in memory.spans}
    own = next(span for span in memory.spans if span.name == "retrieve")
    assert (own.kind, own.inputs, own.outputs) == ("custom", {"query": "Why?"}, {"documents": 2})
    assert own.attributes["index"] == "docs"
    assert by_id[own.parent_id or ""].name == "Retrieving"
    answerers = [by_id[s.parent_id or ""].name for s in memory.spans if s.name == "Answerer"]
    assert sorted(answerers) == ["Retrieving", "retrieve", "retrieve"]


def test_a_decorated_function(memory: Memory) -> None:
    """Plain and async: arguments in, result out, errors on; name and docstring stay; each call is a span."""
    tracer = configured(memory)

    @tracer.span("add")
    def add(left: int, right: int = 1) -> int:
        """Adds."""
        return left + right

    @tracer.span("double")
    async def double(value: int) -> int:
        return add(value, right=value)

    @tracer.span("fail", kind="tool")
    def fail() -> None:
        raise LookupError("nothing")

    assert add(1) == 2
    assert asyncio.run(double(3)) == 6
    with pytest.raises(LookupError):
        fail()
    assert (add.__name__, add.__doc__) == ("add", "Adds.")
    tracer.flush()
    first, inner, outer, failed = memory.spans
    assert (first.inputs, first.outputs) == ({"left": 1}, 2)
    assert (inner.inputs, inner.outputs, inner.parent_id) == ({"left": 3, "right": 3}, 6, outer.span_id)
    assert (outer.name, outer.outputs) == ("double", 6)
    assert failed.kind == "tool"
    assert failed.error is not None
    with pytest.raises(TypeError, match="generator"):
        tracer.span("each")(lambda: (yield))


def test_wrapped_programs_alone(memory: Memory) -> None:
    """instrument = "wrapped": a wrapped program is traced with all that it calls, and nothing else is."""
    tracer = configured(memory, instrument="wrapped")
    program = tracer.wrap(Answerer())
    assert tracer.wrap(program) is program
    assert len(program.callbacks) == 1
    program(question="traced")
    asyncio.run(program.acall(question="traced"))
    Answerer()(question="not traced")
    tracer.wrap(FanOut())(questions=["a", "b"])
    tracer.flush()
    assert sum(span.kind == "lm" for span in memory.spans) == 4
    assert len({span.trace_id for span in memory.spans}) == 3


def test_what_is_no_module_is_not_wrapped(memory: Memory) -> None:
    """Other things of DSPy's have callbacks too; of a class it says that an instance is wanted."""
    tracer = configured(memory, instrument="wrapped")
    lm = DummyLM([{"answer": "a"}])
    for wrong in (len, lm, dspy.ChatAdapter()):
        with pytest.raises(TypeError, match=rf"wrap takes a dspy\.Module, not {type(wrong).__name__}"):
            tracer.wrap(wrong)
    with pytest.raises(TypeError, match=r"wrap takes a dspy\.Module; Predict is a class: give an instance"):
        tracer.wrap(dspy.Predict)
    assert tracer.callback not in lm.callbacks


def test_wrapping_one_of_two_programs_that_share_their_callbacks(memory: Memory) -> None:
    """The list that the program gave to both stays as it is; the other one is not traced."""
    tracer = configured(memory, instrument="wrapped")
    shared: list[Any] = [BaseCallback()]
    one, other = (dspy.Predict("question -> answer", callbacks=shared) for _ in range(2))
    tracer.wrap(one)(question="traced")
    other(question="not traced")
    tracer.flush()
    assert len(shared) == 1
    assert [span.inputs["question"] for span in memory.spans if span.kind == "module"] == ["traced"]


def test_wrapping_where_all_is_traced_counts_nothing_twice(memory: Memory) -> None:
    """The callback of the module and that of DSPy's settings are one."""
    tracer = configured(memory)
    tracer.wrap(Answerer())(question="Why?")
    tracer.flush()
    assert [span.name for span in memory.spans].count("Answerer") == 1


def test_a_wrapped_program_can_be_copied_saved_and_compiled(memory: Memory, tmp_path: Any) -> None:
    """deepcopy, pickle, save and an optimizer do what they do without the tracer; what comes out can be wrapped."""
    tracer = configured(memory, instrument="wrapped")
    program = tracer.wrap(Answerer())
    assert isinstance(copy.deepcopy(program), Answerer)
    assert isinstance(pickle.loads(cloudpickle.dumps(program)), Answerer)
    program.save(str(tmp_path / "program"), save_program=True)
    assert isinstance(dspy.load(str(tmp_path / "program"), **ALLOW_PICKLE), Answerer)
    trainset = [dspy.Example(question=f"q{i}", answer="?").with_inputs("question") for i in range(2)]
    compiled = dspy.LabeledFewShot(k=2).compile(program, trainset=trainset)
    assert len(compiled.respond.demos) == 2
    assert tracer.wrap(compiled).callbacks == [tracer.callback]


def test_configuring_again_replaces(memory: Memory) -> None:
    """One callback of ours at any time; that of someone else stays; the first tracer has delivered what it had."""

    class Foreign(BaseCallback):  # type: ignore[misc]
        pass

    foreign = Foreign()
    before = process_callbacks()
    second = Memory()
    dspy.configure(callbacks=[foreign])
    try:
        first_tracer = configured(memory)
        Answerer()(question="first")
        second_tracer = configured(second)
        Answerer()(question="second")
        assert process_callbacks() == [foreign, second_tracer.callback]
        second_tracer.shutdown()
        assert process_callbacks() == [foreign]
    finally:
        dspy.configure(callbacks=before)
    assert [s.inputs["question"] for s in memory.spans if s.name == "Answerer"] == ["first"]
    assert [s.inputs["question"] for s in second.spans if s.name == "Answerer"] == ["second"]
    assert first_tracer.shutdown()


def test_disabled_means_nothing_happens(memory: Memory) -> None:
    """enabled = false: no callback, no plugin, and the API still works."""
    tracer = configured(memory, enabled=False)
    with tracer.interaction(user_id="u1") as interaction, tracer.span("work") as span:
        span.outputs = 1
        Answerer()(question="Why?")
    assert uuid.UUID(interaction.event_id)
    assert tracer.callback not in dspy.settings.callbacks
    assert tracer.identify("u1") is False
    assert tracer.flush()
    assert memory.spans == []


def test_a_sample_keeps_whole_traces(memory: Memory) -> None:
    """sample_rate: a trace is there with all its spans or not at all, and what was left out is counted."""
    tracer = configured(memory, sample_rate=0.5)
    for _ in range(40):
        with tracer.interaction():
            Answerer()(question="Why?")
    tracer.flush()
    traces: dict[str, int] = {}
    for span in memory.spans:
        traces[span.trace_id] = traces.get(span.trace_id, 0) + 1
    assert set(traces.values()) <= {6}
    assert tracer.stats().sampled_out == 40 - len(traces)
    assert 0 < len(traces) < 40


def test_the_callback_was_replaced_by_the_program(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    """dspy.configure(callbacks=…) after spanhook.configure() ends the tracing: shutdown says so."""
    before = process_callbacks()
    tracer = configured(memory)
    try:
        dspy.configure(callbacks=[])
        tracer.shutdown()
    finally:
        dspy.configure(callbacks=before)
    assert "DSPy's callbacks were replaced" in caplog.text


def test_callbacks_replaced_in_a_block_are_told_of_at_once(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    """dspy.context(callbacks=…) without ours: the next interaction says so, once; elsewhere all is well.

    When they are replaced in the whole process after that, it is said too.
    """
    before = process_callbacks()
    tracer = configured(memory)
    with tracer.interaction():
        pass
    assert not caplog.messages
    for _ in range(2):
        with dspy.context(callbacks=[BaseCallback()]), tracer.interaction():
            Answerer()(question="Why?")
    (told,) = caplog.messages
    assert "dspy.context(callbacks=…) without tracer.callback: what it calls is not traced" in told
    Answerer()(question="Why?")
    assert tracer.flush()
    assert [span.kind for span in memory.spans].count("module") == 2
    try:
        dspy.configure(callbacks=[])
        tracer.shutdown()
    finally:
        dspy.configure(callbacks=before)
    assert "DSPy's callbacks were replaced" in caplog.messages[1]


def test_capture_spans_needs_no_tracer(caplog: pytest.LogCaptureFixture) -> None:
    """In a test: the finished spans of a block, each as soon as its call ends; nothing is said on the way."""
    with capture_spans() as spans:
        Answerer()(question="Why?")
        assert [span.name for span in spans][-1] == "Answerer"
        assert re.fullmatch(r"[0-9a-f]{32}", spans[-1].trace_id)
    Answerer()(question="later")
    assert len({span.trace_id for span in spans}) == 1
    assert not caplog.messages


def test_capture_spans_hears_the_tracer_that_is_there(memory: Memory) -> None:
    """Interactions of the program's own tracer are in it, and its backends still get them."""
    tracer = configured(memory)
    with capture_spans() as spans, tracer.interaction(user_id="u1"):
        Answerer()(question="Why?")
    tracer.flush()
    assert [span.span_id for span in spans] == [span.span_id for span in memory.spans]
    assert spans[-1].user_id == "u1"


def test_the_current_span_is_known(memory: Memory) -> None:
    """`current_span()` inside a module, a block of one's own, and nowhere."""
    tracer = configured(memory)
    seen = []

    class Looking(dspy.Module):
        def forward(self) -> None:
            seen.append(spanhook.current_span())
            with tracer.span("inner"):
                seen.append(spanhook.current_span())

    Looking()()
    assert [span.name for span in seen if span is not None] == ["Looking", "inner"]
    assert spanhook.current_span() is None


def test_an_lm_whose_attributes_raise_does_not_raise_through_current_span(memory: Memory) -> None:
    """To put a call into words may run code of its LM's class: the program gets no span, and no exception."""

    class Unconnected(DummyLM):
        @property
        def engine(self) -> Any:
            raise RuntimeError("not connected")

        @engine.setter
        def engine(self, value: Any) -> None:
            pass

        def forward(self, *arguments: Any, **more: Any) -> Any:
            seen.append(spanhook.current_span())
            seen.append(spanhook.add_trace_ids(None, "info", {"event": "x"}))
            return super().forward(*arguments, **more)

    seen: list[Any] = []
    configured(memory)
    with dspy.context(lm=Unconnected([{"answer": "a"}])):
        assert dspy.Predict("question -> answer")(question="?").answer == "a"
    if not seen:
        pytest.skip("the DummyLM of this release of DSPy has no forward")
    assert seen[-1]["event"] == "x"
