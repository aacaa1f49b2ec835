"""Every hook that a plugin can implement, and what else a plugin can have: read it first.

A plugin is an object whose methods are marked with `@spanhook.hookimpl`; it implements the hooks it needs and may
leave out any argument. Each plugin is called on its own: what it raises is logged once, counted, and changes nothing
for the program, for the other plugins or for the rest of the span. The order is that of the list in `tracing.toml`.

Beside hooks, all optional:

- `span_kinds`, a tuple: the kinds of span for which `span_start` and `span_end` are called; without it, all.
- `deferred_kinds`, a tuple: of those, the kinds whose `span_end` may come a little later, on Spanhook's own thread.
- `only_ids = True`: `span_start` and `span_end` look at ids alone; they get `SpanIds`, no call, and give no facts.
- A class is made with those of `options` and `tracing` that its signature asks for: its section of `tracing.toml`, as
  an instance of its nested class `Options` (best a `spanhook.PluginOptions`), and the `TracingSettings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pluggy

from spanhook.span import Call, Facts, RemoteParent, Signal, Span, Trait

PROJECT = "spanhook"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class HookSpecs:
    """The hooks, with the moment and the thread of each."""

    @hookspec
    def span_start(self, span: Span, call: Call) -> None:
        """Called before the DSPy call runs, on its own thread: be quick, touch no network.

        Any plugin may implement it. `call.inputs` is live; `call.outputs` and `call.history` are still empty.
        """

    @hookspec
    def span_end(self, span: Span, call: Call) -> Facts | None:
        """Called right after the call, whether it returned or raised: be quick, touch no network.

        On the call's own thread, except for `deferred_kinds`. Any plugin may implement it: extractors are asked first,
        in their order, then backends. Return the facts that you know; don't write to the span. For each field the
        first that knows it wins, and `span.sources` says which one that was. A backend gets the same span again in
        `emit`.
        """

    @hookspec
    def trace_parent(self) -> RemoteParent | None:
        """Called when a trace is about to begin, on the thread of its first call: be quick, touch no network.

        Any plugin may implement it. Return the span of another tracing system that is open on this thread or task, for
        the trace to go on under it, or None. The first plugin in the lists, extractors before backends, that knows
        one wins. Where `spanhook.attach` names a caller in another trace, that counts.
        """

    @hookspec
    def redact(self, span: Span) -> None:
        """Called once for each finished span, on the intake thread, before any backend sees it.

        Any plugin may implement it. It is the one hook that may change a span: take out of it what must not leave the
        process. All backends wait for it. If it raises, the span goes out without its content. Spanhook's own redaction
        follows.
        """

    @hookspec
    def emit(self, spans: Sequence[Span]) -> None:
        """Called with a batch of finished spans, on the backend's own thread. Several traces may be mixed in it.

        A span comes after the spans under it; a root span ends its trace. All backends share the objects: don't
        change them. Raise if the batch could not be taken: it is then counted as failed. Raise `RetryLater` to get the
        same batch again, and `PartlyFailed` if some of its spans were refused.
        """

    @hookspec
    def identify(self, user_id: str, traits: Mapping[str, Trait]) -> None:
        """Called when the program says who a user is: on the backend's own thread, in order with the spans.

        What was said of the user before still holds, but for traits of the same name.
        """

    @hookspec
    def track_signal(self, signal: Signal) -> None:
        """Called with a user's feedback: on the backend's own thread, in order with the spans."""

    @hookspec
    def flush(self, timeout: float) -> bool | None:
        """Send what you still hold, within `timeout` seconds, on the backend's own thread.

        Return False if something that you had taken could not be delivered. Where the interpreter exits before you
        got anything, and no thread can start any more, this and `shutdown` run on the thread that exits.
        """

    @hookspec
    def shutdown(self, timeout: float) -> bool | None:
        """Send what you still hold and let go of files, sockets and threads; the last call that you get.

        Within `timeout` seconds, on the same thread as `flush`; where another plugin can't be loaded, on that of
        `configure`, with a timeout of 0. Return False if something could not be delivered.
        """


EXTRACTOR_HOOKS = frozenset({"span_start", "span_end", "trace_parent", "redact"})
BACKEND_HOOKS = EXTRACTOR_HOOKS | frozenset({"emit", "identify", "track_signal", "flush", "shutdown"})
