"""What a line of the tree has room for: the most important comes first, and what has to give way is the last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

MIN_NAME = 12  # cells that are left of a name before a fact behind it is left out

# One thing that a line says, in one wording or several, each shorter than the one before; an empty one leaves it out.
Fact = tuple[Text, ...]

_GAP, _DOT = Text("  "), Text(" · ", "dim")


def fit(start: Text, name: Text, facts: Sequence[Fact], width: int) -> Text:
    """One line, `start`, `name` and the facts, the most important first, in at most `width` cells if that can be.

    What gives way, in this order and only as far as needed: the facts' longest wordings from the last fact to the
    first, the middle of the name, the facts' other wordings, the facts but the first, most of the name.
    """
    room = width - start.cell_len
    said = [_wording(fact, 0) for fact in facts]
    _say_less(said, [_wording(fact, 1) for fact in facts], room - name.cell_len)
    name = shortened(name, max(MIN_NAME, room - _cells(said)))
    _say_less(said, [_wording(fact, 2) for fact in facts], room - name.cell_len)
    _say_less(said, [*said[:1], *[Text()] * len(said[1:])], room - name.cell_len)
    line = start + shortened(name, max(MIN_NAME // 3 if said else MIN_NAME, room - _cells(said)))
    for gap, text in _joined(said):
        line = line + gap + text
    return line


def wrapped(line: Text, texts: Iterable[Text], indent: int, console: Console) -> Iterator[Text]:
    """`line` with the texts behind it, on as many lines as they take: none is cut.

    Args:
        line: how the first line starts.
        texts: what must be seen. A word of them, an id for example, is folded only where the console is too narrow.
        indent: with how many blanks the other lines start, where a word does not need that room.
        console: its width is the lines'.
    """
    for gap, text in _joined(texts):
        if line.cell_len + gap.cell_len + text.cell_len <= console.width:
            line = line + gap + text
            continue
        if line.plain.strip():
            yield line
        longest = max(map(cell_len, text.plain.split()), default=0)
        room = max(1, console.width - (indent if longest <= console.width - indent else 0))
        parts = text.wrap(console, room, overflow="fold")
        for part in parts:
            part.rstrip()
        *full, line = (Text(" " * min(indent, console.width - part.cell_len)) + part for part in parts)
        yield from full
    yield line


def shortened(text: Text, cells: int) -> Text:
    """`text` without its middle, if it is longer: what tells models apart stands at both ends of their names."""
    if text.cell_len <= cells:
        return text
    head = text.copy()
    head.truncate(cells // 2)
    head.rstrip()  # half of a wide character is a space
    rest = next((i for i in range(len(text)) if cell_len(text.plain[i:]) < cells - head.cell_len), len(text))
    return head.append("…").append_text(text[rest:])


def _wording(fact: Fact, number: int) -> Text:
    return fact[min(number, len(fact) - 1)]


def _say_less(said: list[Text], less: Sequence[Text], room: int) -> None:
    for index in reversed(range(len(said))):
        if _cells(said) <= room:
            return
        said[index] = less[index]


def _cells(said: Iterable[Text]) -> int:
    return sum(gap.cell_len + text.cell_len for gap, text in _joined(said))


def _joined(texts: Iterable[Text]) -> Iterator[tuple[Text, Text]]:
    """What is said, each with what stands before it."""
    gap = _GAP
    for text in filter(None, texts):
        yield gap, text
        gap = _DOT
