"""Random plans of DSPy programs, for Hypothesis; `random_programs` runs them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

NAME = re.compile(r"\bp\d+\b")
MOVES = ["answer", "length", "no tokens", "no field", "500", "429"]
LEAVES = ["predict", "chain of thought", "lm", "refine"]
MODULES = ["in turn", "catches", "retries", "raises", "parallel", "together", "threads", "lone threads"]
AROUND = ["interaction", "span", "tool", "agent", "evaluation", "generator", "history off", "usage", "other model"]
TRANSPARENT = {"generator", "history off", "usage", "other model"}  # without a span of their own


@dataclass(eq=False)
class Part:
    """One step of a plan, with its steps inside.

    Attributes:
        moves: of what asks a model: what comes of its first requests. Those after them are answered.
        lm: which model a leaf has for itself, if not the one around it.
        user: of an interaction.
    """

    kind: str
    inside: Sequence[Part] = ()
    moves: Sequence[str] = ()
    lm: str | None = None
    user: str | None = None
    name: str = ""
    outer: Part | None = None

    def all(self) -> Iterator[Part]:
        """This and all inside, in order."""
        yield self
        for part in self.inside:
            yield from part.all()

    def around(self) -> Iterator[Part]:
        """What the program has around this part, the innermost first; not what is around a thread without context."""
        part = self.outer
        while part is not None and part.kind != "lone threads":
            yield part
            part = part.outer

    def parent(self) -> Part | None:
        """The nearest part around it that has a span."""
        return next((part for part in self.around() if part.kind not in TRANSPARENT), None)

    def is_in(self, kind: str) -> bool:
        """Whether a part of this kind is around it."""
        return any(part.kind == kind for part in self.around())

    def __repr__(self) -> str:
        more = [repr(value) for value in (self.moves, self.lm, self.user) if value]
        return f"{self.name} {' '.join([self.kind, *more])}{list(self.inside) or ''}"


@dataclass
class Plan:
    """A program, and how it is run."""

    root: Part
    is_async: bool
    model: str


def parts(models: Sequence[str]) -> st.SearchStrategy[Part]:
    """Trees of parts; `models` are the names of those that they may choose for themselves."""
    lm = st.sampled_from([None, None, *models])
    moves = st.lists(st.sampled_from(MOVES), max_size=2)
    leaf = st.builds(Part, st.sampled_from(LEAVES), moves=moves, lm=lm)

    def around(inner: st.SearchStrategy[Part]) -> st.SearchStrategy[Part]:
        inside = st.lists(inner, min_size=1, max_size=2)
        user = st.sampled_from([None, "u1", "u2"])
        return st.builds(Part, st.sampled_from(MODULES + AROUND), inside, lm=lm, user=user)

    return around(st.recursive(leaf, around, max_leaves=3))


@st.composite
def plans(draw: st.DrawFn, models: Sequence[str]) -> Plan:
    """Whole programs."""
    root = draw(parts(models))
    for number, part in enumerate(root.all()):
        part.name = f"p{number}"
        for inner in part.inside:
            inner.outer = part
    return Plan(root, draw(st.booleans()), draw(st.sampled_from(models)))
