"""Spans that are running: one that is open, and which one is the innermost here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from spanhook import dspy_overrides, processes
from spanhook.blocks import Block, nothing
from spanhook.ids import SPAN_BITS, random_bits, span_id_of
from spanhook.lm_record import LMRecord
from spanhook.processes import Lock
from spanhook.rare import Rare
from spanhook.span import Call, Kind, RemoteParent, Span, SpanError
from spanhook.totals import Part
from spanhook.trace import Trace

if TYPE_CHECKING:
    from spanhook.compilations import Compilation
    from spanhook.evaluations import Examples

REMOTE = "spanhook_remote"  # the setting in which an `Attached` stands
SETTING = "spanhook_span_"  # and the tracer's number: two tracers in one process know nothing of each other's spans


Describe = Callable[["OpenSpan"], None]
"""Puts into words what a call's thread has only noted; on whichever thread someone looks at it first."""

NO_ARGUMENTS: Mapping[str, Any] = {}
_making = Lock()


class Attached:
    """Stands in DSPy's settings while a caller's trace goes on: for all tracers, and in place of spans outside of it.

    It is false where a span is asked for: what starts inside is a root here.
    """

    __slots__ = ("block", "dspy_call_id", "outside", "remote", "setting")

    def __init__(
        self, remote: RemoteParent, dspy_call_id: str | None, setting: str, outside: OpenSpan | None = None
    ) -> None:
        self.remote = remote
        self.dspy_call_id = dspy_call_id
        self.setting = setting
        self.outside = outside  # the span in whose place it stands
        self.block: Block | None = None

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> tuple[Any, ...]:
        return nothing, ()


class OpenSpan:
    """A call, as its thread notes it down: ids, clocks, references, a copy of its content.

    `span` and `call` are made of that when someone looks at them, as a rule after the call on Spanhook's own thread.
    """

    __slots__ = (
        "_span", "arguments", "attributes", "below", "bits", "describe", "ended_ns", "error", "forks", "inputs",
        "instance", "is_complete", "kind", "live_call", "model", "name", "noted", "outputs", "parent", "part", "prompt",
        "provider", "rare", "record", "started_ns", "trace",
    )  # fmt: skip

    is_asked: Rare[bool] = Rare(False)  # whether all extractors were
    is_kept: Rare[bool] = Rare(False)  # whether it goes out though its trace, as it is below it, does not
    dspy_call_id: Rare[str | None] = Rare(None)  # DSPy's active call when this became the innermost span
    handled: Rare[int] = Rare(0)  # the id() of the exception that was being handled when the call began
    setting: Rare[str] = Rare("")  # of DSPy's, in which this span stands while it is the innermost
    block: Rare[Block | None] = Rare(None)  # in which it stands there; None when it has ended, unless it was left
    inputs_of: Rare[bool | None] = Rare(None)  # of an interaction: whether its inputs count as a DSPy call's
    inputs_from: Rare[int] = Rare(0)  # the bits of the span directly inside that has what is shown, or has it in it
    outputs_of: Rare[bool | None] = Rare(None)
    examples: Rare[Examples | None] = Rare(None)  # of an evaluation
    example_of: Rare[Examples | None] = Rare(None)  # the evaluation of which this may be an example
    compilation: Rare[Compilation | None] = Rare(None)

    def __init__(
        self,
        kind: Kind,
        name: str,
        instance: Any,
        arguments: Mapping[str, Any],
        trace: Trace,
        parent: OpenSpan | None,
        attributes: dict[str, Any] | None = None,
        describe: Describe | None = None,
        noted: Any = None,
    ) -> None:
        self.kind: Kind = kind
        self.name = name  # empty where `describe` gives it
        self.instance = instance  # None for spans of the program's own
        self.arguments = arguments  # live
        self.trace = trace
        self.parent = parent
        self.attributes = attributes
        self.describe = describe
        self.noted: Any = noted  # for it
        self.forks = processes.forks  # of the process in which it began
        self.bits = random_bits(SPAN_BITS)  # of its id
        self.below: list[Part] | None = None  # sums of the spans directly under this one
        self.inputs: Any = None  # copies
        self.outputs: Any = None
        self.error: SpanError | None = None
        self.model: str | None = None
        self.provider: str | None = None
        self.record: LMRecord | None = None
        self.prompt: tuple[Any, Any] | None = None  # what an adapter wrote last in it, and the copy
        self.part: Part | None = None  # what the parent counts of this one
        self.is_complete = False  # whether `span` has all that will be known
        self.rare: dict[str, Any] | None = None
        self.live_call: Call | None = None
        self._span: Span | None = None
        self.ended_ns: int | None = None  # monotonic; None while it runs
        self.started_ns = time.perf_counter_ns()  # monotonic

    @property
    def span_id(self) -> str:
        """16 hex digits."""
        return span_id_of(self.bits)

    # With `span_id` these make it a `spanhook.SpanIds`.

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        return self.trace.trace_id

    @property
    def event_id(self) -> str:
        """The interaction's."""
        return self.trace.event_id

    @property
    def user_id(self) -> str | None:
        """Whose call it is."""
        return self.trace.user_id

    @property
    def convo_id(self) -> str | None:
        """The conversation that it belongs to."""
        return self.trace.convo_id

    @property
    def span(self) -> Span:
        """Its span: one object, on whichever thread it is asked for first."""
        if self._span is None:
            with _making.here:  # two threads may be here
                if self._span is None:
                    self._span = self._make()
        return self._span

    def _make(self) -> Span:
        self.put_into_words()
        trace, parent = self.trace, self.parent
        trace_id, root_id = trace.trace_id, trace.local_root_id
        span_id = root_id if self.bits == trace.local_root_bits and root_id is not None else self.span_id
        parent_id = None
        if parent is not None:
            parent_id = root_id if parent.bits == trace.local_root_bits else parent.span_id
        start_ns = trace.unix_ns + self.started_ns - trace.monotonic_ns
        span = Span(trace_id, span_id, parent_id, trace.event_id, self.kind, self.name, start_ns)
        span.inputs, span.model, span.provider = self.inputs, self.model, self.provider
        span.user_id, span.convo_id, span.local_root_id = trace.user_id, trace.convo_id, root_id
        if self.attributes is not None:
            span.attributes = self.attributes
        if parent is None and trace.remote is not None:
            span.parent_id = trace.remote.span_id
            span.event_is_remote = trace.event_id == trace.remote.event_id
        return span

    def put_into_words(self) -> None:
        """Have `name`, `inputs` and all else as the span shows it."""
        describe, self.describe = self.describe, None
        if describe is not None:
            describe(self)

    @property
    def call(self) -> Call:
        """The live call, for plugins on its thread."""
        if self.live_call is None:
            if self.describe is not None:
                self.put_into_words()
            self.live_call = Call(self.kind, self.instance, self.arguments)
        return self.live_call

    def mirror_start(self, child: OpenSpan) -> None:
        """An interaction shows what its first DSPy call was given, or where it makes none, its first own span.

        An interaction directly inside counts as a DSPy call if it shows one's, or what the program has set. What these
        show also passes through spans of the program's own that show nothing; it then counts as theirs.
        """
        child.put_into_words()
        self._show_inputs(child, is_call=child.instance is not None)

    def mirror_end(self, child: OpenSpan) -> None:
        """And what its last DSPy call returned, or its last own span."""
        if child.instance is None:  # meanwhile the program may have set them
            self._show_inputs(child, is_call=bool(child.inputs_of))
        self._show_outputs(child.outputs, is_call=child.instance is not None or bool(child.outputs_of))

    # Both go up in a loop: a program that has come near the limit of recursion has no room for one more.

    def _show_inputs(self, child: OpenSpan, *, is_call: bool) -> None:
        """Show what a span inside was given, here and above, as far up as nothing that goes before is shown.

        `is_call`: whether it counts as a DSPy call's.
        """
        inputs = child.inputs
        place: OpenSpan | None = self
        while place is not None and place.instance is None and place.ended_ns is None:
            is_shown = place.inputs_from == child.bits
            if place.kind == "interaction":
                is_first = place.inputs_of is None or (is_call and not place.inputs_of) or is_shown
                if not is_first or not (is_call or inputs):
                    return
                place.inputs, place.inputs_of = inputs, is_call
            elif place.inputs or not inputs or (place.inputs_from and not is_shown):
                return
            else:
                is_call = False
            place.inputs_from = child.bits
            child, place = place, place.parent

    def _show_outputs(self, outputs: Any, *, is_call: bool) -> None:
        """The same for what a span inside returned."""
        place: OpenSpan | None = self
        while place is not None and place.instance is None and place.ended_ns is None:
            if place.kind == "interaction":
                if not is_call and (outputs is None or place.outputs_of):
                    return
                place.outputs, place.outputs_of = outputs, is_call
            elif outputs is None:
                return
            else:
                is_call = False
            place = place.parent

    def forget(self) -> None:
        """Let go of the program's objects, and of what the span has."""
        if self.record is not None:
            self.record.forget()
        self.arguments, self.live_call = NO_ARGUMENTS, None
        self.parent = self.instance = self.record = self.prompt = self.noted = None
        self.inputs = self.outputs = self.attributes = self.error = None
        self.below = None

    def __reduce__(self) -> tuple[Any, ...]:
        # It stands in DSPy's settings, which a program may pickle or copy; an open span means nothing elsewhere.
        return nothing, ()

    def activate(self, setting: str, dspy_call_id: str | None, **settings: Any) -> None:
        """Make this the innermost span of the current context, and of the threads that DSPy starts from it."""
        self.setting, self.dspy_call_id = setting, dspy_call_id
        self.block = Block(**{setting: self}, **settings)

    def deactivate(self) -> None:
        """Take that back, or where that can't be done have the span left out of account."""
        if self.block is not None:
            self.block.end()
            if not self.block.is_left:
                self.block = None


def still_around(standing: Any) -> Any:
    """What stands in a setting of ours and counts: this, or where its block was left, what is around it there."""
    while standing is not None and standing.block is not None and standing.block.is_left:
        standing = standing.block.around(standing.setting)
    return standing


def is_within(opened: OpenSpan | None, other: OpenSpan) -> bool:
    """Whether a span is another one, or under it."""
    while opened is not None and opened is not other:
        opened = opened.parent
    return opened is not None


def is_attached_within(setting: str, opened: OpenSpan) -> bool:
    """Whether the caller that is attached here was under this span: what is inside has no parent that says so."""
    standing = still_around(dspy_overrides.override(setting))
    while standing is not None:
        if isinstance(standing, Attached) and is_within(standing.outside, opened):
            return True
        standing = still_around(standing.block.around(setting)) if standing.block is not None else None
    return False


def inner(own: OpenSpan | Attached, called: OpenSpan | None, call_id: str | None) -> OpenSpan | None:
    """Which of these is inside of the other: a span of the program's own, by the override that it left, or a DSPy call.

    The override is the inner one exactly if the same DSPy call is still active as when it was made.

    Args:
        own: what stands in the override; an `Attached` is no span.
        called: the active DSPy call, if it is traced.
        call_id: its id.
    """
    counts = still_around(own)
    if counts is None or (called is not None and counts.dspy_call_id != call_id):
        return called
    return counts if isinstance(counts, OpenSpan) else None
