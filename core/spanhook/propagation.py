"""One trace in several processes: `spanhook.inject` on the caller's side, `spanhook.attach` on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from types import TracebackType
from typing import Any, TypeVar, overload

from spanhook import dspy_compat, dspy_overrides, w3c
from spanhook.active import REMOTE, Attached, still_around
from spanhook.blocks import BLOCK, Block
from spanhook.current import current_open
from spanhook.dspy_source import live_sources
from spanhook.guard import Guard
from spanhook.span import RemoteParent, Span

H = TypeVar("H", bound=MutableMapping[str, str])

PREFIX = "spanhook."  # of our keys in `baggage`
_IDS = ("user_id", "convo_id", "event_id")
_RATE = "sample_rate"
_KEYS = tuple(f"{PREFIX}{name}" for name in (*_IDS, _RATE))

_guard = Guard()  # where no tracer is at work


@overload
def inject() -> dict[str, str]: ...
@overload
def inject(headers: H) -> H: ...
def inject(headers: Any = None) -> Any:
    """Put what runs here into the headers of a request, message or task, for `attach` on the other side. Returns them.

    Sets `traceparent`, and in `baggage` the ids of the user, the conversation and the event; what others have in
    `baggage` stays. Where nothing runs it changes nothing. Without an argument, in a new dict. On the thread or task of
    the call. Never raises.
    """
    if headers is None:
        headers = {}
    for guard in _guards()[:1]:
        guard.call("inject", _inject, headers, guard)
    return headers


def _inject(headers: MutableMapping[str, str], guard: Guard) -> None:
    opened, attached = current_open(), still_around(dspy_overrides.override(REMOTE))
    if opened is not None:
        remote: RemoteParent | None = opened.trace.remote
        span: Span | RemoteParent = opened.span
        sampled = opened.trace.sampled
    elif attached is not None:  # nothing runs here yet: what the caller said is passed on
        span = remote = caller = attached.remote
        sampled = caller.sampled
    else:
        return
    ids = [(name, getattr(span, name)) for name in _IDS]
    rate = opened.trace.sample_rate if opened is not None else remote.sample_rate if remote is not None else None
    if sampled and rate is not None and rate < 1.0:
        ids.append((_RATE, repr(rate)))
    random = remote is not None and remote.random
    _put(headers, "traceparent", w3c.traceparent_of(span.trace_id, span.span_id, sampled=sampled, random=random))
    if remote is not None and remote.tracestate is not None:
        _put(headers, "tracestate", remote.tracestate)
    known = {f"{PREFIX}{name}": value for name, value in ids if value is not None}
    values = {key: value for key, value in known.items() if w3c.fits(value)}
    if len(values) < len(known):
        guard.refuse(
            "inject", f"{', '.join(sorted(known.keys() - values.keys()))}: too long, or with control characters"
        )
    theirs = ",".join(w3c.header_values(headers, ("baggage",))["baggage"])
    try:
        if values or theirs:
            _put(headers, "baggage", w3c.add_baggage(theirs, values, PREFIX))
    except ValueError as problem:
        guard.refuse("inject", f"baggage: {problem}")


def _put(headers: MutableMapping[str, str], name: str, value: str) -> None:
    """Set a header, once, however it was spelled."""
    spelled = [key for key in headers if w3c.header_name(key) == name]
    for key in spelled:
        del headers[key]  # some mappings add a second header instead of replacing the first
    headers[spelled[0] if spelled else name] = value


class attach:  # noqa: N801 - it reads as a function
    """Continue the trace of a caller: `with spanhook.attach(request.headers):`.

    DSPy calls, interactions and spans inside, in threads of `dspy.Parallel` and in tasks too, belong to the caller's
    trace and have its user, conversation and event. Headers without a `traceparent` change nothing; one that is
    nonsense is logged once and counted, and a new trace begins. Never raises. Safe on any thread and in any task.

    Args:
        headers: what came with the request: a mapping or pairs; names in any case or as in WSGI's environ, values as
            text, bytes or lists of them. None: nothing came.
    """

    __slots__ = ("_blocks", "_headers")

    def __init__(self, headers: Mapping[Any, Any] | Iterable[tuple[Any, Any]] | None) -> None:
        self._headers = headers
        self._blocks: list[Block] = []

    def __enter__(self) -> None:
        if self._headers is None:
            return
        remote = _guards()[0].call("attach", _remote_parent, self._headers, _refuse)
        block = None if remote is None else _guards()[0].call("attach", _open_block, remote)
        if block is not None:
            self._blocks.append(block)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._blocks:
            here = dspy_overrides.override(BLOCK)  # another task's may be the last
            block = here if here in self._blocks else self._blocks[-1]
            self._blocks.remove(block)
            _guards()[0].call("attach", block.end)


def _open_block(remote: RemoteParent) -> Block:
    """Have what starts here from now on belong to a caller's trace."""
    call_id = dspy_compat.active_call_id()
    standing = {REMOTE: Attached(remote, call_id, REMOTE)}
    for source in live_sources():
        outside = source.innermost()
        if outside is None:
            is_needed = source.setting in dspy_overrides.overrides()  # an outer one's, which may end before this one
        else:
            is_needed = outside.trace.trace_id != remote.trace_id
        if is_needed:
            standing[source.setting] = Attached(remote, call_id, source.setting, outside)
    block = Block(**standing)
    for attached in standing.values():
        attached.block = block
    return block


def _remote_parent(headers: Any, refuse: Callable[[str], None]) -> RemoteParent | None:
    """What headers say of the caller; None if they say nothing that can be used."""
    values = w3c.header_values(headers, ("traceparent", "tracestate", "baggage"))
    if not values["traceparent"]:
        return None
    if len(values["traceparent"]) > 1:
        refuse("more than one traceparent: a new trace begins")
        return None
    try:
        trace_id, span_id, sampled, random = w3c.read_traceparent(values["traceparent"][0])
    except ValueError as problem:
        refuse(f"traceparent: {problem}: a new trace begins")
        return None
    known: dict[str, str] = {}
    try:
        known = w3c.read_baggage(",".join(values["baggage"]), _KEYS)
    except ValueError as problem:
        refuse(f"baggage: {problem}: the ids in it are left out")
    state = ",".join(values["tracestate"])
    ids = {name: known.get(f"{PREFIX}{name}") for name in _IDS}
    return RemoteParent(
        trace_id,
        span_id,
        sampled,
        random,
        state if w3c.is_tracestate(state) else None,
        sample_rate=w3c.read_share(known.get(f"{PREFIX}{_RATE}")),
        **ids,
    )


def _guards() -> list[Guard]:
    return [source.guard for source in live_sources()] or [_guard]


def _refuse(reason: str) -> None:
    for guard in _guards():
        guard.refuse("attach", reason)
