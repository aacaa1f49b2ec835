"""Our encoder of OpenTelemetry's protocol against OpenTelemetry's own."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.common")

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from spanhook_backends.otel.encoding import request_of
from spanhook_backends.otel.spans import SCOPE

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_integers = st.integers(-(1 << 63), (1 << 63) - 1)
_values = st.one_of(_texts, st.booleans(), _integers, st.floats(allow_nan=False), st.lists(_texts, max_size=3))
_attributes = st.dictionaries(_texts.filter(bool), _values, max_size=6)
_times = st.integers(0, (1 << 63) - 1)
_contexts = st.builds(
    SpanContext,
    st.integers(1, (1 << 128) - 1),
    st.integers(1, (1 << 64) - 1),
    st.booleans(),
    st.just(TraceFlags(TraceFlags.SAMPLED)),
)
_RESOURCE = Resource({"service.name": "shop", "counts": [1, 2]}, "https://example.com/schema")


@st.composite
def _spans(draw: Any) -> ReadableSpan:
    is_error = draw(st.booleans())
    return ReadableSpan(
        name=draw(_texts),
        context=draw(_contexts),
        parent=draw(st.none() | _contexts),
        resource=_RESOURCE,
        attributes=draw(_attributes),
        events=[Event(draw(_texts), draw(_attributes), draw(_times)) for _ in range(draw(st.integers(0, 2)))],
        kind=draw(st.sampled_from(SpanKind)),
        status=Status(StatusCode.ERROR, draw(_texts)) if is_error else Status(draw(st.sampled_from(StatusCode))),
        start_time=draw(_times),
        end_time=draw(_times),
        instrumentation_scope=SCOPE,
    )


@given(st.lists(_spans(), max_size=4))
def test_a_request_is_what_opentelemetry_itself_would_send(spans: list[ReadableSpan]) -> None:
    """It is made in a quicker way, and must be no other."""
    assert request_of(spans) == encode_spans(spans)


@pytest.mark.parametrize("value", [1 << 63, "\ud800"])
def test_what_the_protocol_cannot_hold_is_an_error(value: int | str) -> None:
    """A number that is too large, or half a character, does not become another value."""
    with pytest.raises(ValueError, match=r"range|surrogate"):
        request_of([ReadableSpan("x", attributes={"a": value}, resource=_RESOURCE)])
