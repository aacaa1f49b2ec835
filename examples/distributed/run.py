"""Starts a front and two workers, asks one question, and shows the one trace that they made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HIDDEN = ("adapter_format", "adapter_parse")


def start(name: str, script: str, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """A server process, and its URL."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "SPANHOOK_CONFIG": str(HERE / "tracing.toml"), "SPANHOOK_TRACING__SERVICE": name},
    )
    assert process.stdout is not None
    return process, f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"


def post(url: str, body: Any) -> Any:
    """A server's answer."""
    with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=60) as response:
        return json.load(response)


def show(lines: list[dict[str, Any]]) -> None:
    """The spans of all processes as one tree, and the signals below it."""
    spans = [line for line in lines if line["event"] == "spanhook.span" and line["kind"] not in HIDDEN]
    ids = {span["span_id"] for span in spans}

    def below(parent: str | None, indent: str) -> None:
        own = [s for s in spans if (s.get("parent_id") if s.get("parent_id") in ids else None) == parent]
        for number, span in enumerate(own := sorted(own, key=lambda span: span["started_at"])):
            is_last = number == len(own) - 1
            mark, more = ("", "") if parent is None else ("└─ ", "   " if is_last else "│  ")
            print(f"{span['service']:<10}{indent}{mark}{span['kind']} {span['span_name']}")
            below(span["span_id"], indent + more)

    below(None, "")
    for signal in (line for line in lines if line["event"] == "spanhook.signal"):
        which = "this" if signal["event_id"] in {span["event_id"] for span in spans} else "another"
        print(f"{signal['service']:<10}{signal['signal_name']} for {which} interaction")
    for what, key in (("trace", "trace_id"), ("event", "event_id"), ("user", "user_id")):
        count = len({span.get(key) for span in spans})
        print(f"{count} {what}{'' if count == 1 else 's'}", end="\n" if what == "user" else ", ")


def main() -> None:
    started = [start(f"worker-{number}", "worker.py") for number in (1, 2)]
    try:
        front, url = start("front", "front.py", *(worker_url for _, worker_url in started))
        started.append((front, url))
        answer = post(url, {"user": "u1", "text": "Is this one trace?"})
        post(url, {"thumbs_up": answer["event_id"]})
    finally:
        # Each stops when its standard input ends, and delivers what it has.
        written = [process.communicate(timeout=60)[0] for process, _ in reversed(started)]
    show([json.loads(line) for text in written for line in text.split("\n") if line])


if __name__ == "__main__":
    main()
