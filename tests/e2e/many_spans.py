"""A process that makes many spans: run with an endpoint and how many traces of 25 spans; prints what became of them."""

from __future__ import annotations

import json
import sys

import spanhook

SPANS = 25  # of one trace
END_TIMEOUT_S = 120.0


def main(endpoint: str, traces: int) -> None:
    tracer = spanhook.configure(
        {
            "tracing": {"backends": ["otlp"], "extractors": []},
            "delivery": {"queue_spans": traces * SPANS + 1_000},
            "backends": {"otlp": {"endpoint": endpoint, "timeout_s": 10}},
        }
    )
    for number in range(traces):
        with tracer.interaction(user_id=f"u{number}"):
            for step in range(SPANS - 1):
                with tracer.span("step", number=step) as span:
                    span.outputs = "done"
    # A service runs on through an outage; at its end it would wait for nobody that it can't reach.
    delivered = tracer.flush(END_TIMEOUT_S) and tracer.shutdown()
    counted = tracer.stats().backends["otlp"]
    print(json.dumps({"delivered": delivered, "counted": counted.delivered, "lost": counted.lost()}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
