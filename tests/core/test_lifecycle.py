"""The tracer at the edges of its life: shut down in the middle of a call, replaced, refused, outlived."""

from __future__ import annotations

import contextvars
import gc
import re
import threading
import weakref
from typing import Any

import dspy
import pytest
from dspy.utils.dummies import DummyLM

import spanhook
from doubles import Memory, tracer_of
from lm_server import LMServer
from programs import Answerer
from spanhook.dspy_compat import process_callbacks


def scripted() -> DummyLM:
    return DummyLM([{"answer": f"a{i}"} for i in range(50)])


def test_shutdown_in_the_middle_of_a_call_leaves_nothing_in_dspy() -> None:
    """The call goes on, on its own thread; afterwards DSPy's settings of that thread hold nothing of ours."""
    tracer = tracer_of(Memory())
    callers: list[Any] = []

    def answer(body: Any) -> None:
        tracer.shutdown()

    class Asking(dspy.Module):
        def forward(self) -> Any:
            prediction = dspy.Predict("question -> answer")(question="Why?")
            callers.extend(dspy.settings.caller_modules)
            return prediction

    with LMServer(respond=answer) as server, dspy.context(lm=server.lm()):
        program = Asking()
        assert program().answer == "answer-1"
    assert callers == [program]
    assert len(server.answered) == 1


def test_what_still_runs_at_shutdown_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Calls, interactions and spans of the program's own; not what has ended, and not what is left out by chance."""
    unsampled = tracer_of(Memory(), tracing={"sample_rate": 0.0})
    with unsampled.span("left out"):
        assert unsampled.shutdown()
        assert caplog.messages == []
    tracer = tracer_of(Memory())
    with tracer.span("ended"):
        pass
    with tracer.interaction(), tracer.span("open"):
        assert tracer.shutdown()
        assert caplog.messages == ["not delivered: 2 spans that were still running"]
    caplog.clear()
    last = tracer_of(Memory())
    with last.span("open"):
        last.shutdown()
        assert caplog.messages == ["not delivered: 1 span that was still running"]


def test_a_context_that_outlives_its_interaction_adds_nothing_to_it() -> None:
    """A thread that runs on in a copied context: its calls are traced, and the ended span stays as it was delivered."""
    memory = Memory()
    tracer = tracer_of(memory)
    with tracer.interaction() as interaction:
        context = contextvars.copy_context()
    tracer.flush()

    def later() -> None:
        with dspy.context(lm=scripted()):
            Answerer()(question="late")

    thread = threading.Thread(target=context.run, args=(later,))
    thread.start()
    thread.join()
    tracer.flush()
    root = next(span for span in memory.spans if span.kind == "interaction")
    late = next(span for span in memory.spans if span.name == "Answerer")
    assert (root.inputs, root.outputs) == (None, None)
    assert late.trace_id == interaction.trace_id
    assert late.parent_id == root.span_id


def test_blocks_that_end_in_another_order_leave_nothing() -> None:
    """The outer span ends before the inner one: what comes later belongs to neither."""
    memory = Memory()
    tracer = tracer_of(memory)
    outer, inner = tracer.interaction(), tracer.span("inner")
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    assert spanhook.current_span() is None
    with tracer.span("later"):
        pass
    tracer.flush()
    assert [(span.name, span.parent_id is None) for span in memory.spans][-1] == ("later", True)


def test_a_refused_callback_leaves_nothing_running() -> None:
    """DSPy refuses another thread: a clear error; the plugins are shut down once, and not again at exit."""
    dspy.configure(lm=scripted())
    memory = Memory()
    caught: list[BaseException] = []

    def elsewhere() -> None:
        try:
            tracer_of(memory)
        except spanhook.InstallError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "where you call dspy.configure()" in str(caught[0])
    assert 'instrument = "wrapped"' in str(caught[0])
    assert memory.hooks == ["shutdown"]


def test_a_tracer_for_wrapped_programs_lives_beside_the_one_for_all() -> None:
    """Whichever was made first: neither shuts the other down."""
    everything, wrapped = Memory(), Memory()
    first = tracer_of(everything)
    second = tracer_of(wrapped, tracing={"instrument": "wrapped"})
    third = tracer_of(everything)
    program = second.wrap(Answerer())
    with dspy.context(lm=scripted()):
        program(question="wrapped")
        Answerer()(question="not wrapped")
    assert first.shutdown()
    assert not first.track_signal("e1", "thumbs_up"), "the third has taken its place"
    assert second.flush()
    assert third.flush()
    assert [span.name for span in wrapped.spans if span.parent_id is None] == ["Answerer"]
    assert [span.name for span in everything.spans if span.parent_id is None] == ["Answerer", "Answerer"]


def test_a_tracer_that_was_shut_down_leaves_nothing_behind() -> None:
    """Programs that configure again and again, as tests and notebooks do, don't fill up."""
    tracer = tracer_of(Memory())
    with tracer.span("a"):
        pass
    tracer.shutdown()
    gone = weakref.ref(tracer)
    del tracer
    gc.collect()
    assert gone() is None


def test_a_shutdown_on_another_thread_has_nothing_to_complain_of(caplog: pytest.LogCaptureFixture) -> None:
    """DSPy keeps the callback there, and it does nothing any more: nothing was lost, so nothing is said."""
    dspy.configure(lm=scripted())
    memory = Memory()
    tracer = tracer_of(memory)
    ended: list[bool] = []
    thread = threading.Thread(target=lambda: ended.append(tracer.shutdown()))
    thread.start()
    thread.join()
    Answerer()(question="Why?")
    assert ended == [True]
    assert memory.spans == []
    assert tracer.stats().errors == {}
    assert caplog.messages == []


def test_disabling_replaces_the_tracer_that_was_there() -> None:
    """enabled = false after another configuration: nothing is traced any more."""
    memory = Memory()
    first = tracer_of(memory)
    spanhook.configure({"tracing": {"enabled": False}})
    with dspy.context(lm=scripted()):
        Answerer()(question="Why?")
    assert memory.spans == []
    assert first.callback not in process_callbacks()


def test_wrong_properties_and_kinds_are_rejected_and_the_rest_stays(caplog: pytest.LogCaptureFixture) -> None:
    """The interaction keeps its user, the span its place; both are logged with what is allowed, and counted."""
    memory = Memory()
    tracer = tracer_of(memory)
    wrong: Any = ["x"]
    with tracer.interaction(user_id="u1", properties=wrong), tracer.span("work", kind="nonsense", self=1):  # type: ignore[arg-type]
        pass
    tracer.flush()
    work, root = memory.spans
    assert (root.user_id, root.attributes) == ("u1", {})
    assert (work.kind, work.inputs) == ("custom", {"self": 1})
    assert tracer.stats().rejected == {"interaction": 1, "span": 1}
    assert "properties must be a dict" in caplog.text
    assert "kind must be one of interaction, module, lm" in caplog.text
    strict = tracer_of(Memory(), tracing={"strict": True})
    with pytest.raises(ValueError, match="kind must be one of"):
        strict.span("work", kind="nonsense")  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "shown"), [(None, "None"), (5, "5"), ("", "''"), (" ", "' '"), (b"x", "bytes")])
def test_a_wrong_name_of_a_span(name: Any, shown: str, caplog: pytest.LogCaptureFixture) -> None:
    """The span is there under another name; logged and counted, and with `strict` a ValueError."""
    memory = Memory()
    tracer = tracer_of(memory)
    with tracer.span(name):
        pass
    assert tracer.flush()
    assert [span.name for span in memory.spans] == ["span"]
    assert caplog.messages == [f"span: rejected: name must be a string that is not blank, not {shown}"]
    assert tracer.stats().rejected == {"span": 1}
    strict = tracer_of(Memory(), tracing={"strict": True})
    with pytest.raises(ValueError, match="name must be a string that is not blank"):
        strict.span(name)


def test_a_decorator_without_a_name() -> None:
    """It fails where it is written, and says how to write it; not at the first call of the function."""
    tracer = tracer_of(Memory())
    with pytest.raises(TypeError, match=re.escape('as a decorator: @tracer.span("NAME")')):

        @tracer.span  # type: ignore[arg-type]
        def work() -> None: ...


def test_a_result_that_denies_its_class_is_no_loss() -> None:
    """An output whose `__class__` raises: the span is there all the same."""

    class Denying:
        @property  # type: ignore[misc]
        def __class__(self) -> type:
            raise RuntimeError("unbound")

    memory = Memory()
    tracer = tracer_of(memory)

    class Returning(dspy.Module):
        def forward(self) -> Any:
            return Denying()

    Returning()()
    tracer.flush()
    assert [span.name for span in memory.spans] == ["Returning"]


def test_a_tracer_that_is_replaced_inside_of_its_own_interaction() -> None:
    """In a block of `dspy.context`, too, where the end of the interaction must not bring the old callback back."""
    memory = Memory()
    with dspy.context(lm=scripted()):
        with tracer_of(Memory()).interaction():
            tracer = tracer_of(memory)
            dspy.Predict("question -> answer")(question="inside")
        dspy.Predict("question -> answer")(question="after")
    assert tracer.flush()
    assert [span.inputs["question"] for span in memory.spans if span.kind == "module"] == ["inside", "after"]
    assert spanhook.current_span() is None


def test_a_tracer_that_another_configure_replaced_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """Two modules of a program call configure: what the first one's tracer is given would be lost in silence."""
    memory = Memory()
    first = tracer_of(Memory())
    second = tracer_of(memory)
    with first.interaction(user_id="u1"), first.span("mine"), dspy.context(lm=scripted()):
        Answerer()(question="Why?")
    with first.interaction(user_id="u2"):
        pass
    assert second.flush()
    assert {span.user_id for span in memory.spans} == {None}
    assert [message.partition(": ")[0] for message in caplog.messages] == ["tracer.interaction", "tracer.span"]
    assert all("a later spanhook.configure()" in message for message in caplog.messages)
    assert sorted(first.stats().errors.values()) == [1, 2]


def test_a_tracer_that_is_switched_off_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """With `enabled = false` it is meant to do nothing."""
    off = tracer_of(Memory(), tracing={"enabled": False})
    with off.interaction(user_id="u1"), off.span("mine"):
        pass
    assert caplog.messages == []
    assert off.stats().errors == {}
