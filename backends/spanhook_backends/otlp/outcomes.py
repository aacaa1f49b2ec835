"""What became of a request, told from the answer, in words for people: what, where, and what to do."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Literal, NamedTuple

import requests
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from spanhook_backends.otel.http import Answer
from spanhook_backends.otlp.target import Target

MAX_SAID_CHARS = 200
_LATER = frozenset({408, 429, 502, 503, 504})  # by OTLP's specification, and 408
_CUT = (ssl.SSLEOFError, ssl.SSLZeroReturnError)  # the other side has gone, as a proxy does whose server is away

CHECK_ENDPOINT = "check endpoint under [backends.otlp], or OTEL_EXPORTER_OTLP_ENDPOINT"
CHECK_HEADERS = "check headers under [backends.otlp], or OTEL_EXPORTER_OTLP_HEADERS"
CHECK_CERTIFICATE = "set certificate under [backends.otlp] to a file with the certificates that it is signed with"


class Outcome(NamedTuple):
    """What became of a request.

    "taken": the receiver has it, but for `rejected` spans. "later": it can't be taken now. "too_large": it may be taken
    in parts. "refused": it will not be taken.
    """

    kind: Literal["taken", "later", "too_large", "refused"]
    reason: str = ""
    after_s: float | None = None  # when the receiver wants to be asked again
    rejected: int = 0


def of_answer(answer: Answer, target: Target) -> Outcome:
    """What an HTTP answer means."""
    if answer.error is not None:
        return _of_error(answer.error, target)
    content_type = _header(answer, "content-type").split(";")[0].strip().lower()
    if answer.is_success:
        return _of_success(answer.body, content_type, target)
    said = _said(answer.body, content_type, target.headers.values())
    reason = f"{target.place} answered {answer.status}{_phrase(answer.status)}{said}"
    if answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return Outcome("too_large", reason)
    if answer.status in _LATER:
        return Outcome("later", reason, _retry_after_s(_header(answer, "retry-after")))
    if answer.status in (401, 403):
        return Outcome("refused", f"{reason}; {CHECK_HEADERS}")
    if 300 <= answer.status < 400:
        to = _header(answer, "location").split("?")[0][:MAX_SAID_CHARS]
        return Outcome("refused", f"{reason}, a redirect to {to or 'nowhere'}; {CHECK_ENDPOINT}")
    if answer.status in (404, 405, 415, 501):
        return Outcome("refused", f"{reason}: there is no OTLP receiver at this address; {CHECK_ENDPOINT}")
    return Outcome("refused", reason)


def _of_error(error: Exception, target: Target) -> Outcome:
    cause = root_of(error)
    why = f"{target.place}: {type(cause).__name__}: {without_secrets(str(cause), target.headers.values())}"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Outcome(
            "refused", f"{target.place}: its certificate is not trusted: {cause.verify_message}; {CHECK_CERTIFICATE}"
        )
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, _CUT):
        return Outcome("refused", f"{why}: no TLS connection can be made; {CHECK_ENDPOINT}")
    if isinstance(error, (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)):
        return Outcome("later", why)
    is_of_url = isinstance(error, ValueError)  # as all are that a URL is refused with
    return Outcome("refused", f"{why}; {CHECK_ENDPOINT}" if is_of_url else why)


def _of_success(body: bytes, content_type: str, target: Target) -> Outcome:
    """A success may be a partial one, and it may come from a server that knows nothing of OTLP."""
    if not body:
        return Outcome("taken")
    if content_type == "application/json":
        try:
            partial = json.loads(body).get("partialSuccess") or {}
            return taken(int(partial.get("rejectedSpans") or 0), str(partial.get("errorMessage") or ""), target)
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            return _no_receiver(content_type, target)
    if content_type in ("application/x-protobuf", "application/octet-stream", ""):
        try:
            success = ExportTraceServiceResponse.FromString(body).partial_success
        except DecodeError:
            return _no_receiver(content_type, target)
        return taken(success.rejected_spans, success.error_message, target)
    return _no_receiver(content_type, target)


def _no_receiver(content_type: str, target: Target) -> Outcome:
    what = f"an answer of type {content_type[:80]}" if content_type else "an answer"
    return Outcome("refused", f"{target.place} gave {what} that is none of OTLP's: no OTLP receiver; {CHECK_ENDPOINT}")


def taken(rejected: int, message: str, target: Target) -> Outcome:
    """A success, perhaps a partial one."""
    said = without_secrets(message, target.headers.values()) or "it does not say why"
    return Outcome("taken", f"{target.place} rejected spans: {said}" if rejected else "", rejected=max(0, rejected))


def root_of(error: BaseException) -> BaseException:
    """The exception at the beginning of the chain: the others only wrap it."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """A server's words on one line, short, and without the header values that it may repeat."""
    for secret in secrets:
        for part in (secret, secret.split(" ")[-1]):
            if len(part) >= 4:
                text = text.replace(part, "***")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:MAX_SAID_CHARS]


def _said(body: bytes, content_type: str, secrets: Iterable[str]) -> str:
    """What the server says in an error's body, with a colon before it."""
    text = ""
    if content_type == "application/x-protobuf":
        with suppress(DecodeError):
            text = Status.FromString(body).message
    elif content_type == "application/json":
        with suppress(ValueError, RecursionError):
            held = json.loads(body)
            told = held.get("message", held.get("detail", "")) if isinstance(held, dict) else ""
            text = told if isinstance(told, str) else json.dumps(told)
    elif content_type == "text/plain":
        text = body[: 10 * MAX_SAID_CHARS].decode("utf-8", "replace")
    said = without_secrets(text, secrets)
    return f": {said}" if said else ""


def _phrase(status: int) -> str:
    try:
        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def _header(answer: Answer, name: str) -> str:
    return str(answer.headers.get(name) or "")


def _retry_after_s(value: str) -> float | None:
    """Seconds from now, of a Retry-After header in either form; None if it says nothing."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, OSError):  # a date that no clock has
        return None
