"""Eight processes and 100,000 spans through a collector that is stopped and started meanwhile: none lost, none twice.

The collector is rotel, which batches and passes on. It has no tail sampling: that part of `examples/collector` is for
OpenTelemetry's own Collector, which no Python package has.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import many_spans
import pytest
import receivers
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from http_server import Exchange, HTTPServer

pytestmark = pytest.mark.timeout(400)

PROCESSES = 8
TRACES = 500  # of each process
SPANS = PROCESSES * TRACES * many_spans.SPANS
WAIT_S = 120.0
OUTAGE_S = 3.0


class Counting(HTTPServer):
    """A receiver that counts how often each span arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[bytes, bytes]] = Counter()
        self._changed = threading.Condition()

    def serve(self, exchange: Exchange) -> None:
        body = gzip.decompress(exchange.body) if exchange.headers.get("content-encoding") == "gzip" else exchange.body
        request = ExportTraceServiceRequest.FromString(body)
        scopes = [scope for resource in request.resource_spans for scope in resource.scope_spans]
        with self._changed:
            self.counts.update((span.trace_id, span.span_id) for scope in scopes for span in scope.spans)
            self._changed.notify_all()
        exchange.reply(200, b"", {"content-type": "application/x-protobuf"})

    def wait_for(self, spans: int) -> bool:
        """Until so many different spans have arrived; False if they don't."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.counts) >= spans, WAIT_S)


def test_eight_processes_through_a_collector_with_an_outage(tmp_path: Path) -> None:
    """Each process has delivered all and lost nothing, and the receiver has each span once."""
    assert SPANS == 100_000
    http, grpc = receivers.free_ports(2)
    processes: list[subprocess.Popen[str]] = []
    started = time.monotonic()
    with Counting() as end:
        try:
            with receivers.rotel(tmp_path, f"http://127.0.0.1:{end.port}", (http, grpc)) as rotel:
                command = [sys.executable, many_spans.__file__, rotel.http, str(TRACES)]
                processes += [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
                assert end.wait_for(SPANS // 4)
            before = len(end.counts)
            time.sleep(OUTAGE_S)  # an outage has a length; nothing can come of it to wait for
            with receivers.rotel(tmp_path, f"http://127.0.0.1:{end.port}", (http, grpc)):
                said = [json.loads(process.communicate(timeout=WAIT_S)[0]) for process in processes]
                end.wait_for(SPANS)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    assert before < SPANS  # there was something left for after the outage
    took_s = time.monotonic() - started
    print(f"{SPANS} spans in {took_s:.0f} s, {before} of them before the outage")
    assert said == [{"delivered": True, "counted": SPANS // PROCESSES, "lost": ""}] * PROCESSES
    assert len(end.counts) == SPANS
    assert set(end.counts.values()) == {1}
