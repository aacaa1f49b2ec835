"""One attempt at a time to send spans by OTLP over HTTP, and what the server answered to it.

OpenTelemetry's exporter keeps the answer to itself, tries again at its own times, and takes a redirect for a success.
"""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from typing import NamedTuple

import requests
from opentelemetry.context import attach, detach, set_value
from opentelemetry.sdk.trace import ReadableSpan
from urllib3.exceptions import LocationParseError

from spanhook import __version__
from spanhook_backends.otel.encoding import request_of

MAX_ANSWER_BYTES = 16_384  # what is read of an answer's body
_COMPRESSIONS: Mapping[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


class Answer(NamedTuple):
    """What came of one request."""

    status: int = 0  # 0: there was no answer
    headers: Mapping[str, str] = {}  # of the answer; their case does not matter
    body: bytes = b""
    error: Exception | None = None  # why there was no answer

    @property
    def is_success(self) -> bool:
        """Whether the server says that it has taken the request."""
        return 200 <= self.status < 300


class HTTPSender:
    """Sends spans, from one thread at a time. When to try again, and what to say, is the caller's.

    Args:
        url: where to, with its path.
        headers: of each request, and no others: none that `OTEL_EXPORTER_OTLP_HEADERS` holds for another server.
        timeout_s: of one attempt to connect, of one wait for the server, and for the whole body of its answer.
        compression: "none", "gzip" or "deflate".
        certificate: a file with the certificates by which the server's is trusted, in place of the usual ones.
        client_certificate: a file with our own.
        client_key: a file with its key.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        timeout_s: float,
        *,
        compression: str = "none",
        certificate: str | None = None,
        client_certificate: str | None = None,
        client_key: str | None = None,
    ) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._compress = _COMPRESSIONS.get(compression)
        self._certificate = certificate
        self._session = requests.Session()
        self._session.auth = _as_it_is
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        if client_certificate is not None:
            self._session.cert = client_certificate if client_key is None else (client_certificate, client_key)
        ours = {"User-Agent": f"spanhook/{__version__}", "Content-Type": "application/x-protobuf"}
        if self._compress is not None:
            ours["Content-Encoding"] = compression
        self._session.headers.clear()
        self._session.headers.update({**ours, **headers})

    def send(self, spans: Sequence[ReadableSpan]) -> Answer:
        """One request.

        Raises:
            ValueError: a span has what OTLP can't express.
        """
        body = request_of(spans).SerializeToString()
        if self._compress is not None:
            body = self._compress(body)
        with without_instrumentation():
            try:
                try:
                    response = self._post(body)
                except (requests.ConnectTimeout, requests.exceptions.SSLError, requests.exceptions.ProxyError):
                    raise
                except requests.ConnectionError:  # a connection that the server had closed meanwhile
                    response = self._post(body)
                with response:
                    said = self._body_of(response)
            # A host that is none, and a REQUESTS_CA_BUNDLE that is not there, have exceptions of their own.
            except (requests.RequestException, LocationParseError, OSError) as error:
                return Answer(error=error)
        return Answer(response.status_code, response.headers, said)

    def close(self) -> None:
        """Let go of the connections."""
        self._session.close()

    def _body_of(self, response: requests.Response) -> bytes:
        """The beginning of an answer's body, byte by byte: more at once would wait for the slowest of them."""
        body, end_s = bytearray(), time.monotonic() + self._timeout_s
        for byte in response.iter_content(1):
            body += byte
            if len(body) >= MAX_ANSWER_BYTES:
                break
            if time.monotonic() > end_s:
                raise requests.ReadTimeout(f"the answer did not end within {self._timeout_s:g} s")
        return bytes(body)

    def _post(self, body: bytes) -> requests.Response:
        return self._session.post(
            self._url,
            data=body,
            timeout=self._timeout_s,
            allow_redirects=False,
            stream=True,
            verify=self._certificate,  # here, as requests prefers REQUESTS_CA_BUNDLE to what its session has been told
        )


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Authorizes by our headers alone: requests would look into `.netrc`, and into the URL."""
    return request


@contextmanager
def without_instrumentation() -> Iterator[None]:
    """No spans of our own requests, where OpenTelemetry instruments the program's HTTP client."""
    token = attach(set_value("suppress_instrumentation", True))
    try:
        yield
    finally:
        detach(token)
