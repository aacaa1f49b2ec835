"""The web front: one interaction a question, with the help of every worker. Usage: front.py WORKER_URL …"""

from __future__ import annotations

import contextvars
import json
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serving import Handler, serve

import spanhook

tracer = spanhook.configure()
workers = sys.argv[1:]


def ask(url: str, question: str) -> str:
    """One worker's answer."""
    with tracer.span("ask a worker", question=question) as span:
        headers = spanhook.inject({"content-type": "application/json"})
        request = urllib.request.Request(url, json.dumps(question).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            span.outputs = json.load(response)["answer"]
        return str(span.outputs)


class Front(Handler):
    def answer(self, question: Any) -> Any:
        if "thumbs_up" in question:
            return tracer.track_signal(question["thumbs_up"], "thumbs_up", "feedback", sentiment="POSITIVE")
        with tracer.interaction(user_id=question["user"], event="chat") as interaction:
            with ThreadPoolExecutor(len(workers)) as pool:  # each thread in a copy of this context
                copies = [contextvars.copy_context() for _ in workers]
                answers = list(pool.map(lambda copy, url: copy.run(ask, url, question["text"]), copies, workers))
            interaction.inputs, interaction.outputs = question["text"], answers
        return {"answers": answers, "event_id": interaction.event_id}


if __name__ == "__main__":
    serve(Front)
