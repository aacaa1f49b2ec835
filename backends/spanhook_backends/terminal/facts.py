"""The pieces of a line: what the tree says of one call, and how it writes durations, tokens and money."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.text import Text

from spanhook import Span, Usage
from spanhook_backends.terminal.lines import Fact
from spanhook_backends.terminal.previews import Fields, clip, clip_id

# What a name stands behind, unless it is that of a module or an interaction, and the style of the name.
_LABELS = {
    "lm": "lm",
    "tool": "tool",
    "evaluate": "eval",
    "compile": "compile",
    "interpreter": "code",
    "adapter_format": "adapter",
    "adapter_parse": "adapter",
    "custom": "span",
}
_STYLES = {"interaction": "bold", "module": "bold", "lm": "cyan", "tool": "magenta"}
# Whatever else ends an answer may have cost the program a part of it, so it stands out.
_GOOD_ENDS = frozenset({"stop", "stop_sequence", "end_turn", "tool_calls", "tool_use", "function_call", "completed"})


def label(span: Span) -> Text:
    """What stands before its name."""
    text = _LABELS.get(span.kind)
    return Text(f"{text} " if text else "", "dim")


def name(span: Span) -> Text:
    """What was called."""
    return Text(clip(span.model, 80) if span.kind == "lm" and span.model else span.name, _STYLES.get(span.kind, "blue"))


def lm_facts(span: Span) -> list[Fact]:
    """What is known of one LM call: first what may have gone wrong, then what it cost."""
    several = span.attributes.get("finish_reasons")
    given = [span.finish_reason] if span.finish_reason else several if isinstance(several, list) else []
    reasons = {clip(reason, 40): reason.lower() in _GOOD_ENDS for reason in map(str, given)}
    bad = [Text(reason, "yellow") for reason, is_good in reasons.items() if not is_good]
    facts: list[Fact] = [(reason, reason, Text(clip(reason.plain, 16), "yellow")) for reason in bad]
    if span.cache_hit:
        saved = span.attributes.get("cost_avoided_usd")
        worth = f", {cost(saved)} saved" if isinstance(saved, (int, float)) and saved > 0 else ""
        facts.append((Text(f"cache hit{worth}", "green"), Text("cache hit", "green")))
    if span.cost_usd:
        facts.append((Text(cost(span.cost_usd)),))
    if span.usage:
        short = tokens(span.usage)
        facts.append((Text(tokens(span.usage, parts=True)), Text(short), Text(short.removesuffix(" tokens"))))
    facts += [(Text(reason, "dim"), Text()) for reason, is_good in reasons.items() if is_good]
    if span.time_to_first_token_s is not None:
        facts.append((Text(f"first token {duration(span.time_to_first_token_s)}", "dim"), Text()))
    return facts


def run_facts(span: Span) -> list[Fact]:
    """What is known of an example, an evaluation or an interaction beside its calls."""
    facts: list[Fact] = []
    said = span.attributes
    if said.get("over_budget"):
        facts.append((Text("over budget", "yellow"),))
    if "compile.trial" in said:
        facts.append((Text(f"trial {clip(str(said['compile.trial']), 20)}"),))
    if "score" in said and not (span.kind == "evaluate" and span.outputs):  # its outputs say the same
        facts.append((Text(f"score {clip(_number(said['score']), 20)}", "bold"),))
    elif "score_unknown" in said:
        why = Text(f"no score: {clip(str(said['score_unknown']), 80)}", "yellow")
        facts.append((why, Text("no score", "yellow")))
    return facts


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def totals(spent: Sequence[Span]) -> list[Fact]:
    """LM calls, cost and tokens of several calls; "≥" where one that answered, and not from the cache, did not say."""
    counted = [span for span in spent if not span.cache_hit and (span.usage or span.error is None)]
    facts: list[Fact] = []
    if calls := sum(1 for span in spent if span.kind == "lm"):
        cached = sum(1 for span in spent if span.cache_hit)
        facts.append((Text(f"{calls} LM call{'s' if calls > 1 else ''}{f', {cached} cached' if cached else ''}"),))
    costs = [span.cost_usd for span in counted if span.cost_usd is not None]
    if sum(costs):
        facts.append((Text(("" if len(costs) == len(counted) else "≥") + cost(sum(costs))),))
    if usage := Usage.sum(span.usage for span in counted if span.usage):
        facts.append((Text(("" if all(span.usage for span in counted) else "≥") + tokens(usage)),))
    return facts


def ids(span: Span, trace_id: str) -> list[Text]:
    """What to copy, and who it was for. The trace's own id is the event's in another shape unless the program chose."""
    texts = [f"event {clip_id(span.event_id)}"]
    texts += [f"trace {trace_id}"] if trace_id != span.event_id.replace("-", "") else []
    texts += [f"user {clip_id(span.user_id)}"] if span.user_id is not None else []
    texts += [f"convo {clip_id(span.convo_id)}"] if span.convo_id is not None else []
    return [Text(text, "dim") for text in texts]


def duration(seconds: float) -> str:
    """At most eight characters."""
    if seconds < 0.0000995:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.00995:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.995:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m {rest:02}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02}m"


def tokens(usage: Usage, *, parts: bool = False) -> str:
    """Tokens read and written, with `parts` also how many of them were cached and for reasoning."""
    if usage.input_tokens is None and usage.output_tokens is None:
        return f"{usage.total_tokens or 0:,} tokens"
    read, written = _count(usage.input_tokens), _count(usage.output_tokens)
    if parts and usage.cached_input_tokens:
        read += f" ({usage.cached_input_tokens:,} cached)"
    if parts and usage.reasoning_output_tokens:
        written += f" ({usage.reasoning_output_tokens:,} reasoning)"
    return f"{read}→{written} tokens"


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def cost(usd: float) -> str:
    """With two digits that count, or cents."""
    return f"${usd:,.{max(2, 1 - math.floor(math.log10(usd)))}f}"


def signature_text(signature: object) -> Text:
    """A module's signature."""
    return Text(clip(str(signature), 200).replace("->", "→"), "dim")


def in_out(inputs: Fields, outputs: Fields, room: int) -> Text:
    """`question="…" → answer="…"`; where not both have room, the outputs go first."""
    given, made = fields_text(inputs), fields_text(outputs)
    if not outputs:
        return given
    arrow = " → " if inputs else "→ "
    if given.cell_len + len(arrow) + made.cell_len > room:
        given = fields_text([(name, "…" if _is_cut(value) else value) for name, value in inputs])
        given.truncate(max(16, room // 3, room - made.cell_len - len(arrow)), overflow="ellipsis")
    return given.append(arrow, "dim").append_text(made)


def in_out_lines(inputs: Fields, outputs: Fields, room: int) -> Iterator[Text]:
    """The same on one line if that has room for all, else on two."""
    given, made = fields_text(inputs), fields_text(outputs)
    if not (inputs and outputs) or given.cell_len + 3 + made.cell_len <= room:
        yield in_out(inputs, outputs, room)
    else:
        yield given
        yield Text.assemble(("→ ", "dim"), made)


def fields_text(pairs: Sequence[tuple[str, str]]) -> Text:
    """`name=value` pairs. What was too long to be shown whole comes last: it says the least."""
    whole_first = sorted(pairs, key=lambda pair: _is_cut(pair[1]))
    parts = (Text.assemble((f"{name}=" if name and value else name, "dim"), value) for name, value in whole_first)
    return Text(" ").join(parts)


def _is_cut(value: str) -> bool:
    return "…" in value[-3:]
