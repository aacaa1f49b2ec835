"""What Opik's server accepts, as checks: paths, headers, ids, types, limits. `opik_server` answers with them."""

from __future__ import annotations

import gzip
import math
import re
import time
import uuid
import zlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import pydantic
from opik.rest_api.types.feedback_score_batch_item import FeedbackScoreBatchItem
from opik.rest_api.types.span_write import SpanWrite
from opik.rest_api.types.trace_write import TraceWrite

Body: TypeAlias = dict[str, Any]

COMPRESS_FROM = 256  # bytes; smaller bodies come as they are
BATCH_LIMIT = 1_000
INT32 = 2**31 - 1
MAX_SCORE = 999_999_999.999999999
ID_WINDOW_S = 24 * 3600  # how far an id's time may be from now when it is created
SPAN_TYPES = ("general", "tool", "llm", "guardrail")
SOURCES = ("sdk", "experiment", "optimization", "evaluator")

_BATCH = re.compile(r"/api/v1/private/(traces|spans)/batch")
_ONE = re.compile(r"/api/v1/private/(traces|spans)")
_PATCH = re.compile(r"/api/v1/private/(traces|spans)/([^/]+)")
_SCORES = re.compile(r"/api/v1/private/(traces|spans)/feedback-scores")


class Refusal(Exception):
    """What Opik answers with instead of taking a request."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def check_headers(headers: Mapping[str, str], api_key: str | None, workspace: str) -> None:
    """The key without "Bearer", the workspace, and JSON."""
    if api_key is not None and headers.get("authorization") != api_key:
        raise Refusal("API key is wrong or missing", 401)
    if headers.get("comet-workspace") != workspace:
        raise Refusal(f"Comet-Workspace is {headers.get('comet-workspace')!r}, not {workspace!r}", 403)
    if not headers.get("content-type", "").startswith("application/json"):
        raise Refusal(f"Content-Type is {headers.get('content-type')!r}", 415)


def decompress(headers: Mapping[str, str], raw: bytes) -> bytes:
    """The body's JSON; what is longer than 256 bytes must be compressed."""
    if headers.get("content-encoding") == "gzip":
        try:
            return gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise Refusal(f"not gzip: {error}") from error
    if len(raw) > COMPRESS_FROM:
        raise Refusal(f"{len(raw)} bytes without gzip")
    return raw


def check_request(method: str, path: str, body: Any) -> list[Body]:
    """The traces, spans or scores of a request, each checked; those of a PATCH get its path's id."""
    if not isinstance(body, dict):
        raise Refusal("the body is no object")
    if method == "POST" and (found := _BATCH.fullmatch(path)):
        return [_check_record(found[1], item) for item in _batch(body, found[1])]
    if method == "POST" and (found := _ONE.fullmatch(path)):
        return [_check_record(found[1], body)]
    if method == "PUT" and _SCORES.fullmatch(path):
        return [_check_score(item) for item in _batch(body, "scores")]
    if method == "PATCH" and (found := _PATCH.fullmatch(path)):
        _check_id("id", found[2])
        return [_check_fields(found[1], {**body, "id": found[2]})]
    raise Refusal(f"no such endpoint: {method} {path}", 404)


def _batch(body: Body, name: str) -> list[Body]:
    items = body.get(name)
    if set(body) != {name} or not isinstance(items, list):
        raise Refusal(f"the body must hold {name!r} and nothing else")
    if not 1 <= len(items) <= BATCH_LIMIT:
        raise Refusal(f"{len(items)} {name}; 1 to {BATCH_LIMIT} are allowed")
    return items


def _check_record(kind: str, item: Body) -> Body:
    """A trace or span that is created."""
    model = TraceWrite if kind == "traces" else SpanWrite
    _validate(model, item)
    if unknown := set(item) - set(model.model_fields):
        raise Refusal(f"unknown fields: {', '.join(sorted(unknown))}")
    _check_id("id", item.get("id"), new=True)
    if not item.get("name"):
        raise Refusal("name is missing")
    return _check_fields(kind, item)


def _check_fields(kind: str, item: Body) -> Body:
    if kind == "spans":
        _check_id("trace_id", item.get("trace_id"))
        if item.get("parent_span_id") is not None:
            _check_id("parent_span_id", item["parent_span_id"])
        if item.get("type", "general") not in SPAN_TYPES:
            raise Refusal(f"type {item['type']!r} is none of {', '.join(SPAN_TYPES)}")
        for name, count in (item.get("usage") or {}).items():
            if type(count) is not int or not -INT32 <= count <= INT32:
                raise Refusal(f"usage.{name} is {count!r}, not an int32")
        cost = item.get("total_estimated_cost")
        if cost is not None and not (isinstance(cost, (int, float)) and cost >= 0):
            raise Refusal(f"total_estimated_cost is {cost!r}")
    if item.get("source", "sdk") not in SOURCES:
        raise Refusal(f"source {item['source']!r} is unknown")
    error = item.get("error_info")
    if error is not None and not (error.get("exception_type") and isinstance(error.get("traceback"), str)):
        raise Refusal("error_info needs exception_type and traceback")
    if item.get("end_time") and item.get("start_time") and item["end_time"] < item["start_time"]:
        raise Refusal("it ends before it starts")
    for name in ("input", "output", "metadata"):
        _check_json(name, item.get(name))
    return item


def _check_score(item: Body) -> Body:
    _validate(FeedbackScoreBatchItem, item)
    _check_id("id", item["id"])
    if item["source"] not in ("ui", "sdk", "online_scoring"):
        raise Refusal(f"source {item['source']!r} is unknown")
    if not item["name"].strip() or not abs(item["value"]) < MAX_SCORE:
        raise Refusal("a score needs a name, and a value that is not too far from 0")
    return item


def _validate(model: type[pydantic.BaseModel], item: Any) -> None:
    try:
        model.model_validate(item)
    except pydantic.ValidationError as error:
        raise Refusal(f"{model.__name__}: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from error


def _check_id(name: str, value: Any, *, new: bool = False) -> None:
    """A UUIDv7, written as Opik writes it; one that is created must be of today."""
    try:
        parsed = uuid.UUID(value)
    except (ValueError, TypeError, AttributeError):
        raise Refusal(f"{name} {value!r} is no UUID") from None
    if parsed.version != 7 or parsed.variant != uuid.RFC_4122 or str(parsed) != value:
        raise Refusal(f"{name} must be a version 7 UUID, not {value}")
    age_s = time.time() - (parsed.int >> 80) / 1_000
    if new and abs(age_s) > ID_WINDOW_S:
        raise Refusal(f"the time in {name} is {age_s:.0f} s away")


def _check_json(name: str, value: Any) -> None:
    """Text that is valid Unicode: Java's parser refuses half of a surrogate pair."""
    if isinstance(value, str):
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise Refusal(f"{name} holds a lone surrogate")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_json(name, key)
            _check_json(name, item)
    elif isinstance(value, list):
        for item in value:
            _check_json(name, item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise Refusal(f"{name} holds {value}")
