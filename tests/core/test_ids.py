"""Ids of traces and spans, and who is in the sample."""

from __future__ import annotations

import re
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanhook.ids import is_sampled, new_span_id, new_trace_id, trace_id_from, uuid_of


def test_a_trace_id_is_a_uuid_of_version_7():
    """With RFC 9562's version, variant and the milliseconds of now: 32 hex digits, and valid for every backend."""
    before = time.time_ns() // 1_000_000
    trace_id = new_trace_id()
    after = time.time_ns() // 1_000_000
    assert re.fullmatch("[0-9a-f]{32}", trace_id)
    parsed = uuid.UUID(trace_id)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert before <= int(trace_id[:12], 16) <= after


def test_trace_ids_sort_by_time(monkeypatch):
    """A backend that sorts by id sorts by time."""
    ids = []
    for milliseconds in (0, 1, 1_700_000_000_000, (1 << 48) - 1):
        monkeypatch.setattr(time, "time_ns", lambda now=milliseconds * 1_000_000: now)
        ids.append(new_trace_id())
    assert ids == sorted(ids)
    assert all(len(trace_id) == 32 for trace_id in ids)


def test_ids_are_never_made_twice():
    """Nor have span ids another shape than OpenTelemetry's."""
    spans = [new_span_id() for _ in range(2_000)]
    assert all(re.fullmatch("[0-9a-f]{16}", span_id) for span_id in spans)
    assert len({*spans, *(new_trace_id() for _ in range(2_000))}) == 4_000


def test_the_program_s_own_seed_changes_no_id():
    """`random.seed(0)`, as experiments do it, must not make the same ids in every run."""
    import random

    found = set()
    for _ in range(3):
        random.seed(0)
        found |= {new_trace_id(), new_span_id()}
    assert len(found) == 6


def test_an_event_id_is_the_trace_id_with_hyphens():
    """And back: one id for both."""
    trace_id = new_trace_id()
    assert uuid_of(trace_id) == str(uuid.UUID(trace_id))
    assert trace_id_from(uuid_of(trace_id)) == trace_id
    assert trace_id_from(uuid_of(trace_id).upper()) == trace_id


OTHER_VERSIONS = ["6ba7b810-9dad-11d1-80b4-00c04fd430c8", "16fd2706-8baf-433b-82eb-8c7fada847da", "0" * 32]


@pytest.mark.parametrize("event_id", ["", "order-17", "1234", "é" * 32, *OTHER_VERSIONS])
def test_another_event_id_is_no_trace_id(event_id):
    """Only a UUIDv7 of the caller's names the trace too."""
    assert trace_id_from(event_id) is None


@given(st.text(st.characters()))
def test_any_text_may_be_an_event_id(event_id):
    """Nothing that a caller can give raises."""
    trace_id = trace_id_from(event_id)
    assert trace_id is None or re.fullmatch("[0-9a-f]{32}", trace_id)


def test_the_sample_has_the_size_that_was_asked_for():
    """Ten of a hundred traces, give or take; all with 1, none with 0."""
    ids = [new_trace_id() for _ in range(10_000)]
    assert 800 <= sum(is_sampled(trace_id, 0.1) for trace_id in ids) <= 1_200
    assert all(is_sampled(trace_id, 1.0) for trace_id in ids)
    assert not any(is_sampled(trace_id, 0.0) for trace_id in ids)


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_holds_the_smaller_one(one, two):
    """Two services with different rates agree on the traces of the smaller one."""
    trace_id = new_trace_id()
    assert is_sampled(trace_id, min(one, two)) <= is_sampled(trace_id, max(one, two))
