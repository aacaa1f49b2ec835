"""Through rotel, a collector, everything comes out as it went in, over HTTP and over gRPC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import receivers
from otlp_server import OTLPServer

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_what_comes_out_of_a_collector_is_what_went_in(tmp_path: Path, send: Any, protocol: str) -> None:
    """Every span once, with its ids, parents, times and names, and as the conventions want it."""
    with OTLPServer() as end, receivers.rotel(tmp_path, end.endpoint) as rotel:
        sent = send(endpoint=rotel.http if protocol != "grpc" else rotel.grpc, protocol=protocol)
        end.wait_for(lambda: len(end.spans) > len(sent.spans))
    assert end.problems == []
    got = {span.span_id: span for span in end.spans if span.name != "signal thumbs_down"}
    assert len(end.spans) == len(sent.spans) + 1
    assert set(got) == {span.span_id for span in sent.spans}
    for span in sent.spans:
        shown = got[span.span_id]
        assert (shown.trace_id, shown.parent_id, shown.name) == (span.trace_id, span.parent_id, span.name)
        assert (shown.start_ns, shown.end_ns) == (span.start_ns, span.end_ns)
        assert shown.is_error == (span.error is not None)
