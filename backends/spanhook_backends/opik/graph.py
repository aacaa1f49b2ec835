"""A program's modules as a Mermaid diagram, for Opik's graph view (`log_graph = true`)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import dspy

from spanhook import Span
from spanhook_backends.bounded import Bounded

MAX_NODES = 200
MAX_LABEL = 100  # characters of a signature's instructions
MAX_KEPT = 10_000

_PLAIN = frozenset(" .,:!?'()-_/+=*@")
_STYLES = (
    "classDef module fill:#ADD8E6",
    "classDef predictor fill:#F08080",
    "classDef lm fill:#90EE90",
    "classDef tool fill:#D3D3D3",
)


class Graphs:
    """The diagram of each trace's program and the node of each of its spans, from their start to their end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._diagrams: Bounded[str] = Bounded(MAX_KEPT)
        self._nodes: Bounded[str] = Bounded(MAX_KEPT)

    def reset_lock(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def note(self, span: Span, instance: Any) -> None:
        """Look at the live module or LM of a span that starts, on its call's thread; once a trace, draw the diagram."""
        if span.kind not in ("module", "lm") or instance is None:
            return
        diagram = None
        if span.kind == "module" and span.local_trace_key not in self._diagrams:
            diagram = mermaid(instance)
        with self._lock:
            self._nodes.put(span.span_id, node_id(instance))
            if diagram is not None:
                self._diagrams.put(span.local_trace_key, diagram)

    def take(self, span: Span) -> dict[str, Any]:
        """The metadata that Opik looks for; what was noted is forgotten."""
        with self._lock:
            node = self._nodes.pop(span.span_id, None)
            diagram = self._diagrams.pop(span.local_trace_key, None) if span.is_local_root else None
        metadata: dict[str, Any] = {} if node is None else {"_opik": {"graph_node_id": node}}
        if diagram is not None:
            metadata["_opik_graph_definition"] = {"format": "mermaid", "data": diagram}
        return metadata


def node_id(instance: Any) -> str:
    """What a module or an LM is called in the diagram."""
    return f"{'module' if isinstance(instance, dspy.Module) else 'lm'}_{id(instance)}"


def mermaid(module: Any) -> str:
    """The module with all that it holds: modules, in lists and dicts too, their LMs and their tools."""
    nodes: dict[str, str] = {}
    edges: dict[str, None] = {}
    waiting = [module]
    while waiting and len(nodes) < MAX_NODES:
        current = waiting.pop(0)
        own = node_id(current)
        if own in nodes:
            continue
        nodes[own] = _node(own, _label(current), "predictor" if isinstance(current, dspy.Predict) else "module")
        for below in _modules_in(vars(current).values()):
            edges[f"{own} --> {node_id(below)}"] = None
            waiting.append(below)
        if isinstance(current, dspy.Predict) and (lm := getattr(current, "lm", None) or dspy.settings.lm) is not None:
            nodes.setdefault(node_id(lm), _node(node_id(lm), f"<b>LM</b><br>{_text(_model(lm))}", "lm"))
            edges[f"{own} --> {node_id(lm)}"] = None
        for number, tool in enumerate(_tools(current)):
            node = f"tool_{number}_{own}"
            nodes[node] = _node(node, f"<b>{_text(tool)}</b>", "tool")
            edges[f"{own} --> {node}"] = None
    known = [edge for edge in edges if edge.rpartition(" --> ")[2] in nodes]
    return "\n".join(["graph TD", *nodes.values(), *known, *_STYLES])


def _node(name: str, label: str, style: str) -> str:
    return f'{name}["{label}"]:::{style}'


def _label(module: Any) -> str:
    label = f"<b>{_text(type(module).__name__)}</b>"
    instructions = getattr(vars(module).get("signature"), "instructions", None)
    if isinstance(instructions, str) and instructions:
        label += f"<br><i>{_text(instructions[:MAX_LABEL])}</i>"
    return label


def _text(text: str) -> str:
    """Text that can't end its label, nor be taken for HTML or Mermaid's own syntax."""
    return "".join(char if char.isalnum() or char in _PLAIN else f"#{ord(char)};" for char in " ".join(text.split()))


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
