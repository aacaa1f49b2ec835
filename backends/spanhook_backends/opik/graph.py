"""A program's modules as a Mermaid diagram, for Opik's graph view (`log_graph = true`).

What is in it is noted on the call's thread, as an attribute of the span: so redaction sees it, whole and as it was
written, before the backend's thread cuts it and draws.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import dspy

from spanhook import Span
from spanhook_backends.bounded import Bounded

GRAPH = "opik.graph"  # the attribute

MAX_NODES = 200
MAX_EDGES = 1_000
MAX_LABEL = 100  # characters of a signature's instructions
MAX_SEEN = 4_096  # of them, that redaction gets to see: a secret is known as one only as a whole
MAX_KEPT = 10_000

_PLAIN = frozenset(" .,:!?'()-_/+=*@")
_STYLES = (
    "classDef module fill:#ADD8E6",
    "classDef predictor fill:#F08080",
    "classDef lm fill:#90EE90",
    "classDef tool fill:#D3D3D3",
)


class Graphs:
    """The diagram of each trace's program and the node of each of its spans, from their start to their end.

    Args:
        with_instructions: whether those of signatures are in it.
    """

    def __init__(self, *, with_instructions: bool) -> None:
        self._with_instructions = with_instructions
        self._diagrams: Bounded[str] = Bounded(MAX_KEPT)  # on the backend's thread only
        self._nodes: Bounded[str] = Bounded(MAX_KEPT)
        self._noted: Bounded[dict[str, Any]] = Bounded(MAX_KEPT)  # by the span that will carry it
        self._traces: Bounded[None] = Bounded(MAX_KEPT)  # that have one
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def start(self, span: Span, instance: Any) -> None:
        """Look at the live module or LM of a span that starts, on its call's thread; at the modules once a trace."""
        if span.kind not in ("module", "lm") or instance is None:
            return
        with self._lock:
            self._nodes.put(span.span_id, node_id(instance))
            is_first = span.kind == "module" and span.local_trace_key not in self._traces
            if is_first:
                self._traces.put(span.local_trace_key, None)
        if is_first:
            noted = modules_of(instance, with_instructions=self._with_instructions)
            with self._lock:
                self._noted.put(span.span_id, noted)

    def end(self, span: Span) -> dict[str, Any]:
        """The attribute of a span that ends, if it is to carry one; on its call's thread."""
        with self._lock:
            noted = self._noted.pop(span.span_id, None)
        return {} if noted is None else {GRAPH: noted}

    def take(self, span: Span) -> dict[str, Any]:
        """The metadata of a finished span that Opik looks for; what was noted is forgotten. On the backend's thread."""
        with self._lock:
            node = self._nodes.pop(span.span_id, None)
            if span.is_local_root:
                self._traces.pop(span.local_trace_key, None)
        metadata: dict[str, Any] = {} if node is None else {"_opik": {"graph_node_id": node}}
        if isinstance(noted := span.attributes.get(GRAPH), Mapping):
            self._diagrams.put(span.local_trace_key, mermaid(noted))
        if span.is_local_root and (diagram := self._diagrams.pop(span.local_trace_key, None)) is not None:
            metadata["_opik_graph_definition"] = {"format": "mermaid", "data": diagram}
        return metadata


def node_id(instance: Any) -> str:
    """What a module or an LM is called in the diagram."""
    return f"{'module' if isinstance(instance, dspy.Module) else 'lm'}_{id(instance)}"


def modules_of(module: Any, *, with_instructions: bool = True) -> dict[str, Any]:
    """The module with all that it holds: modules, in lists and dicts too, their LMs and their tools.

    Nodes are lists of id, style, title and text; edges name two of them.
    """
    nodes: dict[str, list[str]] = {}
    edges: dict[str, None] = {}
    waiting = [module]
    while waiting and len(nodes) < MAX_NODES:
        current = waiting.pop(0)
        own = node_id(current)
        if own in nodes:
            continue
        style = "predictor" if isinstance(current, dspy.Predict) else "module"
        text = _instructions(current)[:MAX_SEEN] if with_instructions else ""
        nodes[own] = [own, style, type(current).__name__, text]
        for below in _modules_in(vars(current).values()):
            edges[f"{own} --> {node_id(below)}"] = None
            waiting.append(below)
        if isinstance(current, dspy.Predict) and (lm := getattr(current, "lm", None) or dspy.settings.lm) is not None:
            nodes.setdefault(node_id(lm), [node_id(lm), "lm", "LM", _model(lm)])
            edges[f"{own} --> {node_id(lm)}"] = None
        for number, tool in enumerate(_tools(current)):
            node = f"tool_{number}_{own}"
            nodes[node] = [node, "tool", tool, ""]
            edges[f"{own} --> {node}"] = None
    known = [edge for edge in edges if edge.rpartition(" --> ")[2] in nodes]
    return {"nodes": list(nodes.values()), "edges": known[:MAX_EDGES]}


def mermaid(noted: Mapping[str, Any]) -> str:
    """What `modules_of` has found, and redaction has left of it, as a diagram."""
    nodes = [node for node in noted.get("nodes", ()) if isinstance(node, list) and [*map(type, node)] == [str] * 4]
    edges = [edge for edge in noted.get("edges", ()) if isinstance(edge, str)]
    return "\n".join(["graph TD", *map(_node, nodes), *edges, *_STYLES])


def _node(node: list[str]) -> str:
    name, style, title, text = node
    label = f"<b>{_text(title)}</b>"
    if text:
        shown = _text(text[:MAX_LABEL])
        label += f"<br>{shown}" if style == "lm" else f"<br><i>{shown}</i>"
    return f'{name}["{label}"]:::{style}'


def _text(text: str) -> str:
    """Text that can't end its label, nor be taken for HTML or Mermaid's own syntax."""
    return "".join(char if char.isalnum() or char in _PLAIN else f"#{ord(char)};" for char in " ".join(text.split()))


def _instructions(module: Any) -> str:
    instructions = getattr(vars(module).get("signature"), "instructions", None)
    return instructions if isinstance(instructions, str) else ""


def _model(lm: Any) -> str:
    model = getattr(lm, "model", None)
    return model if isinstance(model, str) else type(lm).__name__


def _tools(module: Any) -> list[str]:
    tools = vars(module).get("tools")
    return [str(name) for name in tools] if isinstance(tools, dict) else []


def _modules_in(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, dspy.Module):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _modules_in(item for item in value if isinstance(item, dspy.Module))
        elif isinstance(value, dict):
            yield from _modules_in(item for item in value.values() if isinstance(item, dspy.Module))
