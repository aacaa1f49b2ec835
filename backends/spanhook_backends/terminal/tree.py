"""A trace as an indented tree for the terminal: one calm line a call, errors in red."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from spanhook import Signal, Span
from spanhook_backends.terminal import facts
from spanhook_backends.terminal.lines import Fact, fit, shortened, wrapped
from spanhook_backends.terminal.previews import Fields, clip, clip_id, fields
from spanhook_backends.terminal.waiting import Group

GUTTER = 8  # the column of durations, right-aligned
MAX_ERROR_LINES = 3
MIN_PREVIEW = 12  # cells that the rest of a line leaves to what was asked and answered

_MARKS = {"incomplete": "incomplete, its root has not ended", "late": "late calls of a trace that is shown above"}


@dataclass(slots=True, eq=False)
class _Node:
    span: Span
    children: list[_Node] = field(default_factory=list)
    is_orphan: bool = False  # its parent is not here


class Layout:
    """Lays traces out for the width of a console."""

    def __init__(self, console: Console, *, show_adapters: bool, max_children: int) -> None:
        self._console = console
        self._width = console.width
        self._show_adapters = show_adapters
        self._max_children = max_children

    def trace(self, group: Group) -> Text:
        """A trace, or the part of one that is here, and an empty line. Empty where there is nothing to be seen."""
        tops = self._nest(group.spans)
        if not tops:
            return Text()
        root = next((node for node in tops if node.span.is_local_root), None)
        below = [node for node in tops if node is not root]
        lines = list(self._header(group, root, tops))
        if root is not None:
            below = root.children + below
        lines += self._branches(below, root, "", _names(root.span.inputs) if root else {})
        return _block([*lines, Text()])

    def _nest(self, spans: Iterable[Span]) -> list[_Node]:
        """The nodes that have no parent here, each with its children by their start; adapters are passed over."""
        by_id = {span.span_id: span for span in spans}
        nodes = {key: _Node(span) for key, span in by_id.items() if not self._is_hidden(span)}
        tops = []
        for node in sorted(nodes.values(), key=lambda node: node.span.start_ns):
            parent = node.span.parent_id
            while parent in by_id and parent not in nodes:
                parent = by_id[parent].parent_id
            if parent in nodes:
                nodes[parent].children.append(node)
            else:
                node.is_orphan = not node.span.is_local_root
                tops.append(node)
        return tops

    def _is_hidden(self, span: Span) -> bool:
        return not self._show_adapters and span.kind.startswith("adapter_") and span.error is None

    def _header(self, group: Group, root: _Node | None, tops: Sequence[_Node]) -> Iterator[Text]:
        span = root.span if root is not None else tops[0].span
        said: list[Fact] = []
        if mark := _MARKS.get(group.state) or ("continued, a part of it is above" if group.continued else ""):
            said.append((Text(mark, "yellow"),))
        if failed := sum(1 for node in _walk(tops) if node.span.error is not None and not _is_inherited(node)):
            said.append((Text(f"{failed} error{'s' if failed > 1 else ''}", "red"),))
        if root is not None:
            said += facts.run_facts(root.span)
        if root is not None and root.span.kind == "lm":
            said += facts.lm_facts(root.span)
        else:
            said += facts.totals([spender for node in tops for spender in _spenders(node)])
        start, name = _gutter("…"), Text("trace", "bold")
        if root is not None:
            start, name = _gutter(_duration(span)) + facts.label(span), facts.name(span)
        title = start + shortened(name, self._width - start.cell_len)
        yield from self._wrapped(title, [fact[0] for fact in said])
        if root is not None:
            yield from self._content_of_root(root)
        yield from self._wrapped(_label(), facts.ids(span, group.trace_id))

    def _wrapped(self, line: Text, texts: Iterable[Text]) -> Iterator[Text]:
        return wrapped(line, texts, GUTTER + 2, self._console)

    def _content_of_root(self, root: _Node) -> Iterator[Text]:
        span, indent = root.span, _gutter()
        if span.inputs or span.outputs:
            room = self._width - indent.cell_len
            yield from (indent + line for line in facts.in_out_lines(span.inputs, span.outputs, room))
        elif signature := span.attributes.get("dspy.signature"):
            yield indent + facts.signature_text(signature)
        if _is_inherited(root):
            yield indent + _passed_on(span)
        yield from self._error_lines(root, indent)

    def _branches(
        self, nodes: Sequence[_Node], parent: _Node | None, prefix: str, known: Mapping[str, str]
    ) -> Iterator[Text]:
        shown, folded = self._fold(nodes)
        for index, node in enumerate(shown):
            last = index == len(shown) - 1 and not folded
            start = self._start(prefix + ("└─ " if last else "├─ "), _duration(node.span))
            below = prefix + ("   " if last else "│  ")
            yield self._line(start, node, parent, known)
            yield from self._error_lines(node, self._start(below + ("│  " if node.children else "   ")))
            yield from self._branches(node.children, node, below, {**known, **_names(node.span.inputs)})
        if folded:
            said = facts.totals([spender for node in folded for spender in _spenders(node)])
            yield fit(self._start(prefix + "└─ ", "…"), Text(f"{len(folded)} more", "dim"), said, self._width)

    def _start(self, guides: str, duration: str = "") -> Text:
        """Of guides that would take more than a third of the width, the outer ones are only counted."""
        levels, shown = len(guides) // 3, max(2, self._width // 9)
        if levels > shown:
            guides = f"+{levels - shown + 1}".ljust(3) + guides[-3 * (shown - 1) :]
        return _gutter(duration).append(guides, "dim")

    def _fold(self, nodes: Sequence[_Node]) -> tuple[Sequence[_Node], Sequence[_Node]]:
        """What to show, and what to sum up: of 1,000 examples in an evaluation the first, and some that failed."""
        shown, beyond = list(nodes[: self._max_children]), nodes[self._max_children :]
        failed = [node for node in beyond if node.span.error is not None][: self._max_children]
        return shown + failed, [node for node in beyond if node not in failed]

    def _line(self, start: Text, node: _Node, parent: _Node | None, known: Mapping[str, str]) -> Text:
        """What one call did. What the lines of its callers say already is left out."""
        span = node.span
        said: list[Fact] = [(_passed_on(span),)] if _is_inherited(node) else []
        if node.is_orphan and parent is not None:
            said.append((Text("its caller has not ended", "yellow"),))
        said += facts.run_facts(span)
        said += facts.lm_facts(span) if span.kind == "lm" else []
        start, name = start + facts.label(span), facts.name(span)
        if span.kind == "lm" and parent is not None and parent.span.kind == "module":
            return fit(start, name, said, self._width)  # the module's line has the texts, parsed
        is_said = span.kind != "tool"  # a tool without its arguments would look as if it had none
        inputs = tuple((n, value) for n, value in span.inputs if not (is_said and n and known.get(n) == value))
        outputs = () if parent is not None and span.outputs == parent.span.outputs else span.outputs
        signature = span.attributes.get("dspy.signature") if span.kind == "module" else None
        if not (inputs or outputs or signature):
            return fit(start, name, said, self._width)
        line = fit(start, name, said, self._width - MIN_PREVIEW).append("  ")
        if inputs or outputs:
            return line.append_text(facts.in_out(inputs, outputs, self._width - line.cell_len))
        return line.append_text(facts.signature_text(signature))

    def _error_lines(self, node: _Node, indent: Text) -> Iterator[Text]:
        """An error where it began; the lines of the callers that it came up to only name it."""
        error = node.span.error
        if error is None or _is_inherited(node):
            return
        text = Text(f"✗ {error.type}" + (f": {error.message}" if error.message else ""), "red")
        lines = text.wrap(self._console, max(10, self._width - indent.cell_len))
        for line in lines[:MAX_ERROR_LINES]:
            line.rstrip()
            yield indent + line
        if len(lines) > MAX_ERROR_LINES:
            yield indent + Text("…", "red")

    def identity(self, user_id: str, traits: Mapping[str, object]) -> Text:
        """What the program said of a user: the id whole, and as much of the rest as one line has room for."""
        *above, line = self._wrapped(_label("identify"), [Text(clip_id(user_id), "bold")])
        return _block([*above, *self._wrapped(line, [self._preview(traits)])])

    def signal(self, given: Signal) -> Text:
        """A user's feedback: ids whole, and as much of what was said as one line has room for."""
        said = [Text(given.type)] if given.type != "default" else []
        if given.sentiment is not None:
            said.append(Text(given.sentiment.lower(), "green" if given.sentiment == "POSITIVE" else "red"))
        texts = {name: text for name, text in (("comment", given.comment), ("after", given.after)) if text is not None}
        said.append(self._preview({**texts, **given.properties}))
        if given.attachment_id is not None:
            said.append(Text(f"attachment {clip_id(given.attachment_id)}", "dim"))
        said.append(Text(f"event {clip_id(given.event_id)}", "dim"))
        title = _gutter("signal") + shortened(Text(clip(given.name, 80), "bold"), self._width - GUTTER - 2)
        return _block(self._wrapped(title, said))

    def _preview(self, values: Mapping[str, object]) -> Text:
        text = facts.fields_text(fields(values))
        text.truncate(self._width - GUTTER - 2, overflow="ellipsis")
        return text


def _block(lines: Iterable[Text]) -> Text:
    return Text("\n").join(lines)


def _label(text: str = "") -> Text:
    return Text.assemble((f"{text:>{GUTTER}}", "dim" if text else ""))  # as its own style it would be the line's


def _gutter(text: str = "") -> Text:
    return _label(text) + "  "


def _duration(span: Span) -> str:
    return facts.duration(span.duration_s or 0.0)


def _passed_on(span: Span) -> Text:
    return Text(f"✗ {span.error.type}" if span.error is not None else "", "red")


def _names(inputs: Fields) -> dict[str, str]:
    return {name: value for name, value in inputs if name}


def _walk(nodes: Iterable[_Node]) -> Iterator[_Node]:
    for node in nodes:
        yield node
        yield from _walk(node.children)


def _is_inherited(node: _Node) -> bool:
    """Whether its error came up from a call beneath it."""
    error = node.span.error
    return error is not None and any(child.span.error == error for child in node.children)


def _spenders(node: _Node) -> list[Span]:
    """The spans whose tokens add up to those of `node`: LM calls, and whatever else reports tokens of its own."""
    span = node.span
    below = [spender for child in node.children for spender in _spenders(child)]
    if span.kind == "lm" and (span.usage or not below):
        return [span]  # what an LM says of itself covers the LMs that it calls
    if below and (not span.usage or any(spender.usage or spender.cache_hit for spender in below)):
        return below
    return [span] if span.usage or span.cost_usd else below
