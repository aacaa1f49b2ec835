"""OpenTelemetry's HTTP exporter, one attempt at a time, and what the server answered to it."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import requests
from opentelemetry.context import attach, detach, set_value
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from requests.adapters import HTTPAdapter

MAX_ANSWER_BYTES = 65_536  # what is read of an answer's body
_OF_ANY_REQUEST = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "content-type", "content-encoding", "host"}
)


class Answer(NamedTuple):
    """What came of one request."""

    status: int | None = None  # None: there was no answer
    headers: Mapping[str, str] = {}  # of the answer; their case does not matter
    body: bytes = b""
    error: requests.RequestException | None = None  # why there was no answer
    unsent: str = ""  # why the exporter itself made no request

    @property
    def is_success(self) -> bool:
        """Whether the server says that it has taken the request."""
        return self.status is not None and 200 <= self.status < 300


class HTTPSender:
    """Sends spans with OpenTelemetry's exporter, from one thread at a time.

    The exporter repeats nothing and logs nothing here: when to try again, and what to say, is the caller's.

    Args:
        url: where to, with its path.
        headers: of each request, and no others: none that `OTEL_EXPORTER_OTLP_HEADERS` holds for another server.
        timeout_s: of one attempt to connect, and of one wait for the server.
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
        self._adapter = _Adapter(headers, certificate)
        session = requests.Session()
        for prefix in ("http://", "https://"):
            session.mount(prefix, self._adapter)
        self._exporter = OTLPSpanExporter(
            endpoint=url,
            timeout=timeout_s,
            compression=Compression(compression),
            certificate_file=certificate,
            client_certificate_file=client_certificate,
            client_key_file=client_key,
            session=session,
        )
        self._log = _ExporterLog()

    def send(self, spans: Sequence[ReadableSpan]) -> Answer:
        """One request."""
        self._adapter.answer, self._log.last = None, ""
        with self._log.muted(), without_instrumentation():
            self._exporter.export(spans)
        return self._adapter.answer or Answer(unsent=self._log.last)

    def close(self) -> None:
        """Let go of the connections."""
        with self._log.muted():
            self._exporter.shutdown()  # type: ignore[no-untyped-call]


@contextmanager
def without_instrumentation() -> Iterator[None]:
    """No spans of our own requests, where OpenTelemetry instruments the program's HTTP client."""
    token = attach(set_value("suppress_instrumentation", True))
    try:
        yield
    finally:
        detach(token)


class _Settled(requests.RequestException):  # type: ignore[misc]  # it has no types
    """Ends the exporter's work after one attempt: it repeats after others, and takes a redirect for a success."""


class _Adapter(HTTPAdapter):  # type: ignore[misc]
    """Sends our headers and no others, and keeps the answer."""

    def __init__(self, headers: Mapping[str, str], certificate: str | None) -> None:
        super().__init__()
        self._headers = headers
        self._certificate = certificate
        self.answer: Answer | None = None

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        for name in [name for name in request.headers if name.lower() not in _OF_ANY_REQUEST]:
            del request.headers[name]
        request.headers.update(self._headers)
        kwargs["stream"] = True
        if self._certificate is not None:  # requests prefers REQUESTS_CA_BUNDLE to what its session has been told
            kwargs["verify"] = self._certificate
        try:
            try:
                response = super().send(request, *args, **kwargs)
            except (requests.ConnectTimeout, requests.exceptions.SSLError, requests.exceptions.ProxyError):
                raise
            except requests.ConnectionError:  # a connection that the server had closed meanwhile
                response = super().send(request, *args, **kwargs)
            with response:
                body = next(response.iter_content(MAX_ANSWER_BYTES), b"")
        except requests.RequestException as error:
            self.answer = Answer(error=error)
            raise _Settled from error
        self.answer = Answer(response.status_code, response.headers, body)
        if not self.answer.is_success:
            raise _Settled
        short = requests.Response()
        short.status_code, short.reason, short.request = response.status_code, response.reason, request
        short.headers, short.url, short.raw = response.headers, response.url, io.BytesIO()
        return short


class _ExporterLog(logging.Filter):
    """Keeps the exporter from logging on the thread that sends for us: what matters is ours to say, once."""

    def __init__(self) -> None:
        super().__init__()
        self._logger = logging.getLogger(OTLPSpanExporter.__module__)
        self._thread: int | None = None
        self.last = ""

    @contextmanager
    def muted(self) -> Iterator[None]:
        self._thread = threading.get_ident()
        self._logger.addFilter(self)
        try:
            yield
        finally:
            self._logger.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        if threading.get_ident() != self._thread:
            return True
        self.last = record.getMessage()[:500]
        return False
