"""What a trace is made of: `Span`, `Usage`, `SpanError`, `Signal`, and the `Call` that plugins look at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, TypedDict, get_args

Kind = Literal[
    "interaction",
    "module",
    "lm",
    "tool",
    "adapter_format",
    "adapter_parse",
    "evaluate",
    "compile",
    "interpreter",
    "custom",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
SignalType = Literal["default", "feedback", "edit"]
Sentiment = Literal["POSITIVE", "NEGATIVE"]
Trait = str | int | float | bool

_HEX = frozenset("0123456789abcdef")


@dataclass(slots=True, frozen=True)
class Usage:
    """Token counts of one or several LM calls. None means "not reported", never zero.

    As in OpenTelemetry's GenAI conventions, `input_tokens` includes cached input and `output_tokens` includes
    reasoning output.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    reasoning_output_tokens: int | None = None
    audio_input_tokens: int | None = None
    audio_output_tokens: int | None = None

    def __bool__(self) -> bool:
        """Whether any count is known."""
        for name in USAGE_FIELDS:  # noqa: SIM110 - asked at every LM call, and a generator costs more than all of this
            if getattr(self, name) is not None:
                return True
        return False

    def to_dict(self) -> dict[str, int]:
        """The known counts only."""
        return {name: value for name in USAGE_FIELDS if (value := getattr(self, name)) is not None}

    @classmethod
    def sum(cls, usages: Iterable[Usage]) -> Usage:
        """Add usages up, field by field; a field that none of them reports stays None."""
        usages = list(usages)
        if len(usages) == 1:
            return usages[0]
        totals: dict[str, int] = {}
        for usage in usages:
            for name, value in usage.to_dict().items():
                totals[name] = totals.get(name, 0) + value
        return cls(**totals)


USAGE_FIELDS: tuple[str, ...] = tuple(f.name for f in fields(Usage))


@dataclass(slots=True, frozen=True)
class SpanError:
    """What ended a call: the exception's qualified type, its message and its traceback as text.

    With `capture = "metadata"` the message is None and the traceback has frames only.
    """

    type: str
    message: str | None
    traceback: str | None


@dataclass(slots=True, frozen=True)
class RemoteParent:
    """The span of another process, or of another tracing system, under which a trace goes on here.

    Raises:
        ValueError: the ids are none of W3C Trace Context.
    """

    trace_id: str  # 32 hex digits, lower case
    span_id: str  # 16 hex digits, lower case
    sampled: bool = True  # whether the caller keeps the trace: then it is kept here too, and else not
    random: bool = False  # whether the trace id is known to be random, as `traceparent` says
    tracestate: str | None = None  # of other systems; passed on as it is
    user_id: str | None = None
    convo_id: str | None = None
    event_id: str | None = None  # of the caller's interaction
    sample_rate: float | None = None  # by which the caller has chosen the trace, where it says so

    def __post_init__(self) -> None:
        for name, value, length in (("trace_id", self.trace_id, 32), ("span_id", self.span_id, 16)):
            digits = isinstance(value, str) and len(value) == length and set(value) <= _HEX
            if not digits or set(value) == {"0"}:
                raise ValueError(f"{name} must be {length} hex digits in lower case, not all zero")


@dataclass(slots=True, eq=False)
class Span:
    """One call: of a module, an LM, a tool, an adapter, an evaluation, a compilation, an interpreter, or your own.

    A field is exact or None. Plugins read spans; what they know they return as `Facts`. Inside
    `with tracer.span(…) as span` you may set `outputs` and `attributes` of your own span yourself.
    """

    trace_id: str  # 32 hex digits, a UUIDv7 unless the trace began elsewhere
    span_id: str  # 16 hex digits
    parent_id: str | None  # None at the top; of a trace that began elsewhere, the local root's is a span there
    event_id: str  # names the interaction in every backend; the trace id as a UUID unless the caller chose one
    kind: Kind
    name: str
    start_ns: int  # Unix time
    end_ns: int | None = None  # start_ns plus a duration from a monotonic clock; None while the call runs
    inputs: Any = None
    outputs: Any = None
    model: str | None = None  # as asked for
    response_model: str | None = None  # as answered
    provider: str | None = None
    usage: Usage | None = None
    finish_reason: str | None = None
    cache_hit: bool | None = None
    cost_usd: float | None = None
    time_to_first_token_s: float | None = None
    error: SpanError | None = None
    user_id: str | None = None
    convo_id: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)  # field -> the extractor that gave it
    local_root_id: str | None = None  # span_id of the span that all this is under in this process
    event_is_remote: bool = False  # of a local root: the interaction that event_id names began in another process

    @property
    def is_local_root(self) -> bool:
        """Whether nothing is above it in this process: with it, what this process has of the trace ends."""
        return self.parent_id is None or self.span_id == self.local_root_id

    @property
    def local_trace_key(self) -> str:
        """What this process has of a trace has one key: several interactions here may share a caller's trace."""
        return self.local_root_id or self.trace_id

    @property
    def duration_s(self) -> float | None:
        """How long the call took, in seconds; None while it runs."""
        return None if self.end_ns is None else (self.end_ns - self.start_ns) / 1e9

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, `usage` and `error` as plain dicts; values are not copied."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.usage is not None:
            data["usage"] = self.usage.to_dict()
        if self.error is not None:
            data["error"] = {"type": self.error.type, "message": self.error.message, "traceback": self.error.traceback}
        return data


class SpanIds(Protocol):
    """A span's ids, written out when someone reads them: what plugins with `only_ids = True` get in a span's place."""

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        ...

    @property
    def span_id(self) -> str:
        """16 hex digits."""
        ...

    @property
    def event_id(self) -> str:
        """The interaction's name in every backend."""
        ...

    @property
    def user_id(self) -> str | None:
        """Whose call it is, where that is known."""
        ...

    @property
    def convo_id(self) -> str | None:
        """The conversation that it belongs to."""
        ...


class Facts(TypedDict, total=False):
    """What an extractor may know of a span. Leave out, or set to None, what it doesn't know."""

    model: str | None
    response_model: str | None
    provider: str | None
    usage: Usage | None
    finish_reason: str | None
    cache_hit: bool | None
    cost_usd: float | None
    time_to_first_token_s: float | None
    attributes: Mapping[str, Any] | None


@dataclass(slots=True, eq=False)
class Call:
    """The live call behind a span, for plugins that run on its thread. Read it, don't change it, don't keep it.

    `history` holds the entries that DSPy wrote to its history for this LM call and for no other, and
    `lm_usage` what DSPy's usage tracker counted for it when history is off: DSPy's usage dicts by model name.
    Both are empty for other kinds. `streamed` says whether the answer went out in chunks.
    """

    kind: Kind
    instance: Any  # the dspy.Module, dspy.LM, dspy.Tool, …; None for custom spans
    inputs: Mapping[str, Any]
    outputs: Any = None
    exception: BaseException | None = None
    history: Sequence[Mapping[str, Any]] = ()
    lm_usage: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    streamed: bool = False


@dataclass(slots=True, frozen=True)
class Signal:
    """Feedback on an interaction: a thumbs up, an edit, a score."""

    event_id: str
    name: str
    type: SignalType = "default"
    time_ns: int = 0  # Unix time
    properties: Mapping[str, Any] = field(default_factory=dict)
    attachment_id: str | None = None
    comment: str | None = None
    after: str | None = None  # the text after the user's edit
    sentiment: Sentiment | None = None
