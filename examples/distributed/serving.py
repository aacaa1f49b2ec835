"""What both servers share: serve on a free port, say which, and stop when standard input ends."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """JSON in, JSON out."""

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["content-length"])))
        body = json.dumps(self.answer(question)).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, question: Any) -> Any:
        """What to answer."""
        raise NotImplementedError

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: standard output is for spans."""


def serve(handler: type[Handler]) -> None:
    """Serve until whoever started this process closes its standard input."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(json.dumps({"port": server.server_address[1]}), flush=True)
        sys.stdin.read()
        server.shutdown()
