"""The same programs through raindrop-dspy and through Spanhook: what arrives is equal where theirs is right.

Each difference is one of those that `docs/reference/raindrop.md` lists under "Differences from raindrop-dspy".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import dspy
import pytest

pytest.importorskip("raindrop")
pytest.importorskip("raindrop_dspy", reason="raindrop-dspy is not installed: there is nothing to compare with")
if tuple(map(int, dspy.__version__.split(".")[:2])) < (3, 4):
    pytest.skip("DSPy before 3.4 has one engine only", allow_module_level=True)

from raindrop_server import RaindropServer

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reference" / "raindrop.md"

TOKENS = ("ai.usage.prompt_tokens", "ai.usage.completion_tokens")
FACTS = (*TOKENS, "dspy.finish_reason")
ERROR = ("error.type", "error.message")
FIELDS = ("event", "user_id", "input", "output", "model", *FACTS, *ERROR)

# What differs, by the title of its row on the page: programs and fields. Everything else is equal.
DIFFERENCES: dict[str, dict[str, tuple[str, ...]]] = {
    "Tokens and finish reason, DSPy's native engine": {
        f"{name}, lm15": FACTS for name in ("Predict", "ChainOfThought", "async forward", "own LM", "first of a cache")
    }
    | {"second of a cache, lm15": ("dspy.finish_reason",)},
    "Tokens of several LM calls": {
        "two predictors, lm15": FACTS,
        "ReAct, lm15": FACTS,
        "two predictors, litellm": TOKENS,
        "ReAct, litellm": TOKENS,
        "error after success, lm15": TOKENS,
        "error after success, litellm": TOKENS,
    },
    "`acall`": {f"acall, {engine}": (*FIELDS[:5], *FACTS) for engine in ("lm15", "litellm")},
    "A call that asked no model": {"other values, lm15": ("model",), "other values, litellm": ("model", *FACTS)},
    "The model, with an LM of the predictor's own": {
        "own LM, lm15": ("model",),
        "own LM, litellm": ("model", *TOKENS),
    },
    "Values that are no text": {
        f"{name}, {engine}": fields
        for engine in ("lm15", "litellm")
        for name, fields in {"ReAct": ("output",), "other values": ("input", "output")}.items()
    },
}


class Side(NamedTuple):
    """What one of them made of the programs."""

    outcomes: dict[str, Any]
    raindrop: RaindropServer

    def event(self, name: str) -> dict[str, Any]:
        """The fields of a program's one event that are compared; empty if there is none."""
        found = [event for event in self.raindrop.events if event["ai_data"].get("convo_id") == name]
        assert len(found) <= 1
        flat = {**event, **event["ai_data"], **event["properties"]} if (event := next(iter(found), None)) else {}
        return {field: flat[field] for field in FIELDS if field in flat}


def run(side: str, folder: Path) -> Side:
    with RaindropServer() as raindrop:
        program = [sys.executable, str(HERE / "raindrop_programs.py"), side, raindrop.endpoint, raindrop.key]
        environment = {**os.environ, "DSPY_CACHEDIR": str(folder / side)}
        done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        return Side(json.loads(done.stdout.splitlines()[-1]), raindrop)


def test_side_by_side(tmp_path: Path) -> None:
    """Every program on both engines: the program is the same to its user, and each difference is a known one."""
    theirs, ours = run("theirs", tmp_path), run("ours", tmp_path)
    assert theirs.outcomes == ours.outcomes
    assert ours.raindrop.problems == []
    for name, truth in ours.outcomes.items():
        there, here = theirs.event(name), ours.event(name)
        different = {field for field in FIELDS if there.get(field) != here.get(field)}
        assert different == {
            field for programs in DIFFERENCES.values() for field in programs.get(name, ()) if field in {*there, *here}
        }, name
        # And where they differ, ours is what the model said.
        assert [here.get(field) for field in TOKENS] == (truth["tokens"] or [None, None]), name
        if truth["finish_reason"] is not None:
            assert here["dspy.finish_reason"] == truth["finish_reason"], name
        assert ("error.type" in here) == isinstance(truth["outcome"], str)
    compare_feedback(theirs.raindrop, ours.raindrop)
    compare_spans(theirs.raindrop, ours.raindrop)


def compare_feedback(theirs: RaindropServer, ours: RaindropServer) -> None:
    """Users and signals: what theirs loses arrives, and the rest is the same."""
    assert theirs.identities == ours.identities
    there, here = ({signal["signal_name"]: signal for signal in server.signals} for server in (theirs, ours))
    assert set(here) - set(there) == {"feedback without comment", "edit without text"}
    assert there["edit"] == here["edit"]
    assert there["whole"]["properties"] == here["whole"]["properties"] == {"a": {"b": 1}, "comment": "Good."}
    assert (there["default with comment"]["properties"], here["default with comment"]["properties"]) == (
        {},
        {"comment": "By the way"},
    )


def compare_spans(theirs: RaindropServer, ours: RaindropServer) -> None:
    """Theirs has none unless libraries are patched; ours has one for each LM and tool call."""
    assert theirs.spans == []
    events = {event["event_id"] for event in ours.events}
    assert {span.event_id for span in ours.spans} <= events
    assert {span.kind for span in ours.spans} == {"llm", "tool"}


@pytest.mark.parametrize("title", DIFFERENCES)
def test_each_difference_is_listed(title: str) -> None:
    """In the table of the reference, with its reason."""
    assert f"| {title} |" in PAGE.read_text(encoding="utf-8")
