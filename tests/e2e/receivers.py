"""Real receivers, each from its package in an environment of its own (`make e2e` makes them), on loopback.

Each is a context manager that ends the process, and what that started, whatever happens in between.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

ENVIRONMENTS = Path(__file__).parents[2] / ".venvs"
START_TIMEOUT_S = 240.0
SHOW_TIMEOUT_S = 60.0
END_TIMEOUT_S = 10.0

T = TypeVar("T")


@dataclass(frozen=True)
class Receiver:
    """A receiver that is up."""

    http: str  # the endpoint of OTLP over HTTP, and of its own API
    grpc: str | None = None


@contextmanager
def phoenix(folder: Path) -> Iterator[Receiver]:
    """Arize Phoenix."""
    http, grpc = free_ports(2)
    settings = {
        "PHOENIX_WORKING_DIR": str(folder),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(http),
        "PHOENIX_GRPC_PORT": str(grpc),
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
        "PHOENIX_AGENTS_DISABLE_BASH": "true",
        "PHOENIX_AGENTS_DISABLE_WEB_ACCESS": "true",
        "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
        "PHOENIX_ENABLE_MCP_SERVER": "false",
    }
    url = f"http://127.0.0.1:{http}"
    with running([program("arize-phoenix", "phoenix"), "serve"], folder, settings, lambda: answers(f"{url}/healthz")):
        yield Receiver(url, f"http://127.0.0.1:{grpc}")


@contextmanager
def mlflow(folder: Path) -> Iterator[Receiver]:
    """MLflow's tracking server."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [program("mlflow", "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    settings = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{ENVIRONMENTS}/mlflow/bin{os.pathsep}{os.environ['PATH']}",
    }
    with running(command, folder, settings, lambda: answers(f"{url}/health")):
        yield Receiver(url)


@contextmanager
def rotel(folder: Path, target: str, ports: tuple[int, int] | None = None) -> Iterator[Receiver]:
    """rotel, a collector: it sends what it gets on to `target`, over HTTP. `ports` are for HTTP and gRPC."""
    http, grpc = ports or free_ports(2)
    agent = next((ENVIRONMENTS / "rotel").glob("lib/python*/site-packages/rotel/rotel-agent"), None)
    if agent is None:
        raise RuntimeError(f"{ENVIRONMENTS}/rotel has no rotel-agent: run `make e2e`")
    command = [str(agent), "start", "--otlp-http-endpoint", f"127.0.0.1:{http}"]
    command += ["--otlp-grpc-endpoint", f"127.0.0.1:{grpc}", "--exporter", "otlp"]
    command += ["--otlp-exporter-endpoint", target, "--otlp-exporter-protocol", "http"]
    with running(command, folder, {}, lambda: listens(http) and listens(grpc)):
        yield Receiver(f"http://127.0.0.1:{http}", f"http://127.0.0.1:{grpc}")


def once(read: Callable[[], T], is_whole: Callable[[T], bool]) -> T:
    """What `read` returns as soon as it is whole: some receivers answer before they have written.

    After a while, what there is: the test that looks at it says what is missing.
    """
    deadline = time.monotonic() + SHOW_TIMEOUT_S
    while not is_whole(found := read()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def program(environment: str, name: str) -> str:
    """The path of a command in one of the environments. Raises RuntimeError if it is not there."""
    path = ENVIRONMENTS / environment / "bin" / name
    if not path.exists():
        raise RuntimeError(f"{path} is not there: run `make e2e`")
    return str(path)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def answers(url: str) -> bool:
    """Whether a GET of it is answered with success."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def listens(port: int) -> bool:
    """Whether something listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(
    command: Sequence[str], folder: Path, settings: Mapping[str, str], is_ready: Callable[[], bool]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, from when it is ready until the block ends.

    Raises:
        RuntimeError: it ended, or was not ready in time; with the last lines of what it said.
    """
    with open(folder / "log.txt", "wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                said = (folder / "log.txt").read_text(errors="replace")[-2_000:]
                raise RuntimeError(f"{command[0]} is not up ({process.poll()}):\n{said}")
            time.sleep(0.25)
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group."""
    for word in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, word)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_TIMEOUT_S)
