"""A language model for tests: a server on loopback that speaks OpenAI's protocol and answers with known numbers.

with LMServer() as server:
    dspy.configure(lm=server.lm())
    prediction = dspy.Predict("question -> answer")(question="?")     # answer: "answer-1"
    server.answer_to(prediction.answer).tokens.prompt                 # what its span must say
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lm_wire
from http_server import Exchange, HTTPServer
from lm_replies import Answer, Body, Reply, Responder, ScriptItem, Tokens, make_answer

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or LiteLLM looks for prices on the network

HOLD_LIMIT_S = 30.0
API_KEY = "sk-test-not-a-secret"

__all__ = ["API_KEY", "Answered", "LMServer", "Reply", "Tokens"]


@dataclass(frozen=True, slots=True)
class Answered:
    """One request and what it was answered.

    `finish_reason` is in chat's words and `tokens` are what the answer carried, both None for an error; `text` is the
    first choice's; `response_model` is the model that the answer names, `body` the request's JSON.
    """

    serial: int
    path: str
    body: Body
    status: int
    text: str | None = None
    finish_reason: str | None = None
    response_model: str | None = None
    tokens: Tokens | None = None


class LMServer(HTTPServer):
    """An OpenAI-compatible server on a free port of 127.0.0.1, for a `with` block.

    Each request gets the next serial, and its token counts, model and finish reason follow from that serial. Output
    fields that DSPy asks for are answered `<field>-<serial>`; `script` and `respond` put other answers in their place.
    Any number of threads may call it; every connection has a daemon thread of its own, and `__exit__` ends them all.

    Args:
        respond: Called with a request's JSON when the script is empty; returns its answer, or None for the default.
        finish_reasons: What unscripted answers end with, in turn by serial.
    """

    def __init__(
        self,
        respond: Responder | None = None,
        *,
        finish_reasons: Sequence[str] = ("stop", "length", "content_filter"),
        port: int = 0,
    ) -> None:
        super().__init__(port)
        self.answered: dict[int, Answered] = {}
        self.respond = respond
        self._finish_reasons = finish_reasons
        self._script: deque[ScriptItem] = deque()
        self._holds: set[threading.Event] = set()
        self._changed = threading.Condition()
        self._serials = itertools.count(1)
        self._closing = threading.Event()
        self._lms: list[Any] = []

    @property
    def url(self) -> str:
        """What an OpenAI client calls its base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def release(self) -> None:
        """Let go of every held reply, and of the clients' connections."""
        with self._changed:
            self._closing.set()
            for hold in self._holds:
                hold.set()
        for lm in self._lms:
            getattr(lm, "close", lambda: None)()

    def lm(self, model: str = "openai/test-model", **kwargs: Any) -> Any:
        """A `dspy.LM` that talks to this server: no cache and no retries unless asked for.

        `engine` is left out for a DSPy that has none; asking one of those for "lm15" raises ValueError.
        """
        import dspy

        if "engine" not in inspect.signature(dspy.LM.__init__).parameters and kwargs.pop("engine", "") == "lm15":
            raise ValueError(f"DSPy {dspy.__version__} has no native engine")
        defaults = {"api_base": self.url, "api_key": API_KEY, "cache": False, "num_retries": 0}
        lm = dspy.LM(model, **{**defaults, **kwargs})
        self._lms.append(lm)
        return lm

    def script(self, items: Iterable[ScriptItem]) -> None:
        """Answer the next requests with these, in order: a str (raw text), a dict (output fields) or a Reply."""
        with self._changed:
            self._script.extend(items)

    def answer_to(self, text: str) -> Answered:
        """The one request whose answer was this text, else the one whose serial is in it. Raises KeyError."""
        same = [answered for answered in list(self.answered.values()) if answered.text == text]
        if len(same) == 1:
            return same[0]
        serial = re.search(r"-(\d+)\b", text)
        if serial is None:
            raise KeyError(f"{len(same)} answers were {text!r}, and it has no serial")
        return self.answered[int(serial[1])]

    def wait_received(self, count: int, timeout_s: float = HOLD_LIMIT_S) -> None:
        """Block until `count` requests have arrived, held ones too. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.answered) >= count, timeout_s):
                raise TimeoutError(f"{len(self.answered)} of {count} requests arrived within {timeout_s} s")

    def take(self, path: str, body: Body) -> Answer:
        """Number a request, decide its answer and record it. On the connection's thread."""
        with self._changed:
            serial = next(self._serials)
            item = self._script.popleft() if self._script else None
        if item is None and self.respond is not None:
            item = self.respond(body)
        # DSPy 3.4.1 knows no `response.incomplete` event: a streamed response that ends otherwise breaks its stream.
        reasons = ("stop",) if "input" in body and body.get("stream") else self._finish_reasons
        answer = make_answer(serial, body, item, reasons)
        record = Answered(serial, path, body, answer.reply.status)
        if record.status < 400:
            record = replace(record, text=answer.texts[0], finish_reason=answer.finish_reason)
            record = replace(record, response_model=answer.model, tokens=answer.tokens)
        with self._changed:
            self.answered[serial] = record
            self._changed.notify_all()
        return answer

    def think(self, hold: threading.Event | None, delay_s: float = 0.0) -> None:
        """Wait as a reply asks for, no longer than the server lives. On the connection's thread."""
        if delay_s:
            self._closing.wait(delay_s)
        if hold is not None:
            with self._changed:
                if self._closing.is_set():
                    return
                self._holds.add(hold)
            hold.wait(HOLD_LIMIT_S)

    def serve(self, exchange: Exchange) -> None:
        """Answer one request. On the connection's thread."""
        endpoint = exchange.path.removeprefix("/v1")
        if exchange.method != "POST" or endpoint not in ("/chat/completions", "/completions", "/responses"):
            return _refuse(exchange, 404, f"no such endpoint: {exchange.method} {exchange.path}")
        try:
            body = json.loads(exchange.body)
        except ValueError:
            return _refuse(exchange, 400, "the body is no JSON")
        answer = self.take(exchange.path, body)
        reply = answer.reply
        self.think(reply.hold, reply.delay_s)
        if reply.status >= 400:
            headers = {} if reply.retry_after_s is None else {"Retry-After": f"{reply.retry_after_s:g}"}
            message = f"scripted error for request {answer.serial}"
            return _send(exchange, lm_wire.error_body(reply.status, message, reply.error_code), reply.status, headers)
        if not body.get("stream"):
            make = {"/chat/completions": lm_wire.chat_body, "/completions": lm_wire.text_body}
            whole = make.get(endpoint, lm_wire.responses_body)(answer)
            return _send(exchange, whole, break_off=reply.break_off)
        if endpoint == "/completions":
            return _refuse(exchange, 400, "this server does not stream /completions")
        if endpoint == "/responses":
            return self._stream(exchange, answer, lm_wire.responses_stream(answer))
        include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return self._stream(exchange, answer, lm_wire.chat_stream(answer, include_usage=include_usage))

    def _stream(self, exchange: Exchange, answer: Answer, events: Iterator[Body]) -> None:
        exchange.stream(200, {"Content-Type": "text/event-stream"})
        frames = list(events)
        held = answer.reply.stream_hold
        for event in frames[: len(frames) // 2] if answer.reply.break_off else frames:
            _write_event(exchange, json.dumps(event), event.get("type"))
            if held and lm_wire.has_text(event):
                self.think(held)
                held = None
        if answer.reply.break_off:
            return exchange.hang_up()
        if exchange.path.endswith("/chat/completions"):
            _write_event(exchange, "[DONE]")
        return exchange.write(b"")


def _refuse(exchange: Exchange, status: int, message: str) -> None:
    _send(exchange, lm_wire.error_body(status, message), status)


def _send(
    exchange: Exchange,
    body: Body,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    *,
    break_off: bool = False,
) -> None:
    headers = {**(headers or {}), "Content-Type": "application/json"}
    exchange.reply(status, json.dumps(body).encode(), headers, break_off=break_off)


def _write_event(exchange: Exchange, data: str, name: str | None = None) -> None:
    event = (f"event: {name}\n" if name else "") + f"data: {data}\n\n"
    exchange.write(event.encode())
