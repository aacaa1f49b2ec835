"""The HTTP under the servers that tests start on loopback: a model, a vendor's service, a receiver.

class Echo(HTTPServer):
    def serve(self, exchange: Exchange) -> None:
        exchange.reply(200, exchange.body)

with Echo() as server:
    httpx.post(f"http://127.0.0.1:{server.port}/")
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import socket
import ssl
import sys
import threading
from collections.abc import Mapping
from typing import Any


class HTTPServer:
    """A server on 127.0.0.1, for a `with` block: each connection has a daemon thread, and leaving the block ends all.

    A subclass says what is answered, in `serve`; it is called on the connections' threads.

    Args:
        port: 0: a free one. A port of your choice, to come back on after an outage.
        tls: for HTTPS: a context with the server's certificate.
    """

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._http = _Server(("127.0.0.1", port), functools.partial(_Handler, self))
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._http.server_address[1])

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def serve(self, exchange: Exchange) -> None:
        """Answer one request: `reply`, or `stream` and `write`, or `hang_up`."""
        raise NotImplementedError

    def release(self) -> None:
        """Let every request go on that `serve` keeps waiting: the server ends."""


class Exchange:
    """One request, and the means to answer it.

    Attributes:
        method: GET, POST, …
        path: with the query, as it came.
        headers: by name in lower case.
        body: as it came, not decompressed.
    """

    def __init__(self, handler: _Handler) -> None:
        self._handler = handler
        self.method: str = handler.command
        self.path: str = handler.path
        self.headers = {name.lower(): value for name, value in handler.headers.items()}
        self.body: bytes = handler.rfile.read(int(self.headers.get("content-length", 0)))

    def reply(
        self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, *, break_off: bool = False
    ) -> None:
        """Answer whole; with `break_off` the connection breaks in the middle of the body."""
        self._head(status, {**(headers or {}), "Content-Length": str(len(body))})
        self._handler.wfile.write(body[: len(body) // 2] if break_off else body)
        if break_off:
            self.hang_up()

    def stream(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin an answer in chunks: `write` each of them, then an empty one."""
        self._head(status, {**headers, "Transfer-Encoding": "chunked"})

    def write(self, chunk: bytes) -> None:
        """Send a chunk of a streamed answer; an empty one ends it."""
        self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))

    def hang_up(self) -> None:
        """Close the connection, with no answer or in the middle of one."""
        self._handler.close_connection = True

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name, value)
        self._handler.end_headers()


class _Server(http.server.ThreadingHTTPServer):
    """`server_close` ends every connection: a client that keeps its own does not."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, *args: Any) -> None:
        self._connections: dict[threading.Thread, socket.socket] = {}
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(target=self._serve, args=(request, client_address), daemon=True)
        self._connections[thread] = request
        thread.start()

    def _serve(self, request: Any, client_address: Any) -> None:
        self.process_request_thread(request, client_address)
        self._connections.pop(threading.current_thread(), None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a client that went away is no error of the server
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        super().server_close()
        for thread, connection in list(self._connections.items()):
            with contextlib.suppress(OSError):  # it may have been closed already
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, owner: HTTPServer, *args: Any) -> None:
        self._owner = owner
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        self._owner.serve(Exchange(self))

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve
