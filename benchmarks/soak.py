"""Minutes at full speed while the server has every trouble in turn: `python benchmarks/soak.py [SECONDS] [SPOOL]`.

Two threads call a DSPy agent as fast as they can. Four backends get every span: structlog into nothing, one whose
server is well, one whose server refuses, hangs, answers 500 or 429 and is well again, over and over, and one that hangs
for ever. Every ten seconds a line says what memory, threads and files the process has; at the end the counts have to
add up with what the servers have counted. With SPOOL, a directory, delivery goes through the spool.
"""

from __future__ import annotations

import http.client
import itertools
import json
import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

TROUBLES = (None, 500, None, "hang", None, 429, None, "refuse")  # each for so long:
TURN_S = 5.0
HANG_S = 3.0


def serve(pipe: Any, has_troubles: bool) -> None:
    """In a process of its own: count spans; on request tell how many, and end."""
    counted = 0
    lock = threading.Lock()
    trouble: Any = None

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal counted
            number = len(self.rfile.read(int(self.headers["Content-Length"])).split())
            now = trouble
            if now == "hang":
                time.sleep(HANG_S)
                return
            if now in (None, "refuse"):
                with lock:
                    counted += number
            self.send_response(now if isinstance(now, int) else 200)
            self.send_header("Retry-After", "1")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def verify_request(self, request: Any, client_address: Any) -> bool:
            return trouble != "refuse"  # the connection is closed at once

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pipe.send(server.server_port)
    for turn in itertools.cycle(TROUBLES) if has_troubles else itertools.repeat(None):
        trouble = turn
        if pipe.poll(TURN_S):
            break
    trouble = None
    pipe.recv()
    pipe.send("well")
    pipe.recv()
    pipe.send(counted)


class Server:
    """A server in another process."""

    def __init__(self, has_troubles: bool) -> None:
        self._pipe, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=serve, args=(other, has_troubles), daemon=True)
        self._process.start()
        self.port: int = self._pipe.recv()

    def ask(self) -> Any:
        """First: have no trouble any more; then: how many spans have come."""
        self._pipe.send(None)
        return self._pipe.recv()


def memory_mb() -> float:
    """What this process holds in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Run it."""
    import dspy
    import structlog

    import spanhook
    import workloads
    from spanhook import RetryLater, Span

    class Backend:
        def __init__(self, port: int) -> None:
            self._port = port

        @spanhook.hookimpl
        def emit(self, spans: Sequence[Span]) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=2 * HANG_S)
            try:
                connection.request("POST", "/", " ".join(span.span_id for span in spans))
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise RetryLater(type(error).__name__) from error
            finally:
                connection.close()
            if response.status != 200:
                raise RetryLater(f"HTTP {response.status}", float(response.headers["Retry-After"]))

    class Stuck:
        @spanhook.hookimpl
        def emit(self, spans: Sequence[Span]) -> None:
            threading.Event().wait()

    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    delivery: dict[str, Any] = {"spool": sys.argv[2]} if len(sys.argv) > 2 else {}
    logging.getLogger("spanhook").setLevel(logging.ERROR)
    structlog.configure(processors=[lambda *_: ""], logger_factory=structlog.ReturnLoggerFactory())
    well, troubled = Server(has_troubles=False), Server(has_troubles=True)
    tracer = spanhook.configure(
        {"tracing": {"backends": ["structlog"]}, "delivery": delivery},
        plugins={"well": Backend(well.port), "troubled": Backend(troubled.port), "stuck": Stuck()},
    )
    # What DSPy itself keeps grows up to these, for each module and for the process.
    dspy.configure(lm=workloads.model(), max_history_size=100, max_trace_size=100)
    stop, calls = threading.Event(), [0, 0]

    def work(index: int) -> None:
        program = workloads.Agent()
        while not stop.is_set():
            program(question=workloads.QUESTION)
            calls[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    memory: list[float] = []
    while (passed := time.monotonic() - started) < seconds:
        stop.wait(min(10.0, seconds - passed))
        memory.append(memory_mb())
        stats = tracer.stats().backends
        line = {
            "s": round(time.monotonic() - started),
            "calls": sum(calls),
            "spans": stats["well"].accepted,
            "MB": round(memory[-1]),
            "threads": threading.active_count(),
            "files": len(os.listdir("/proc/self/fd")),
            "queued": {name: of.queued for name, of in stats.items()},
            "dropped": {name: sum(of.dropped.values()) for name, of in stats.items()},
        }
        print(json.dumps(line), flush=True)
    stop.set()
    for thread in threads:
        thread.join()
    troubled.ask()
    began = time.monotonic()
    tracer.flush(30.0)
    tracer.shutdown(10.0)
    print(f"flush and shutdown: {time.monotonic() - began:.1f} s; errors: {tracer.stats().errors}")
    well.ask()
    arrived = {"well": well.ask(), "troubled": troubled.ask()}
    for name, of in tracer.stats().backends.items():
        total = of.delivered + of.queued + of.failed + sum(of.dropped.values())
        print(f"{name}: {of}; adds up: {total == of.accepted}; arrived: {arrived.get(name, '-')}")
    later = memory[len(memory) // 3 :]
    print(f"memory after the first third: {min(later):.0f} to {max(later):.0f} MB, at the end {memory[-1]:.0f} MB")
    print(f"threads: {sorted(thread.name for thread in threading.enumerate())}")


if __name__ == "__main__":
    main()
