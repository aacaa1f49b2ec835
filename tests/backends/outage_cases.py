"""One service for each backend that sends over a network, with the same troubles, for the tests of outages."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal

import pytest

import spanhook
from doubles import wait_for
from receiver import HTTPBackend, Receiver
from spanhook import Tracer

Fault = Literal["refuses", "hangs", "429", "500", "breaks off"]
FAULTS: tuple[Fault, ...] = ("refuses", "hangs", "429", "500", "breaks off")


class Case:
    """A service that can be in trouble, come back on its port, and tell what has arrived."""

    name = ""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.servers: list[Any] = [self.stack.enter_context(self.new_server(0))]

    def new_server(self, port: int) -> Any:
        raise NotImplementedError

    def fail(self, how: Fault) -> None:
        """Another trouble than refusing connections."""
        raise NotImplementedError

    def heal(self) -> None:
        raise NotImplementedError

    def asked(self) -> int:
        """How many requests have come."""
        raise NotImplementedError

    def arrived(self) -> list[str]:
        """The event ids of what has arrived, each as often as it has."""
        raise NotImplementedError

    def configure(self, **delivery: Any) -> Tracer:
        return spanhook.configure(
            {
                "tracing": {"backends": [self.name], "extractors": []},
                "backends": {self.name: self.options()},
                "delivery": delivery,
            }
        )

    def options(self) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def server(self) -> Any:
        return self.servers[-1]

    def begin(self, fault: Fault) -> None:
        if fault == "refuses":
            self.stack.close()
        else:
            self.fail(fault)

    def end(self, fault: Fault) -> None:
        if fault == "refuses":
            self.servers.append(self.stack.enter_context(self.new_server(self.server.port)))
        else:
            self.heal()

    def wait_until_felt(self, fault: Fault, tracer: Tracer) -> None:
        """Until the backend has met the trouble, as far as one can tell."""
        if fault == "refuses":
            wait_for(lambda: not tracer.flush(0))
        else:
            wait_for(lambda: self.asked() > 0)


class HTTPCase(Case):
    name = "http"

    def new_server(self, port: int) -> Any:
        return Receiver(port)

    def configure(self, **delivery: Any) -> Tracer:
        section = {"backends": [], "extractors": []}
        backend = HTTPBackend(self.server.port, timeout_s=10)
        return spanhook.configure({"tracing": section, "delivery": delivery}, plugins={"http": backend})

    def fail(self, how: Fault) -> None:
        troubles: dict[str, Any] = {"hangs": "hang", "429": 429, "500": 500, "breaks off": "hang up"}
        self.server.trouble = troubles[how]
        self.server.retry_after_s = 1 if how == "429" else None

    def heal(self) -> None:
        self.server.heal()

    def asked(self) -> int:
        return int(self.server.asked.is_set())

    def arrived(self) -> list[str]:
        return [
            name for server in self.servers for id_, name in server.names.items() for _ in range(server.arrivals[id_])
        ]


class OTLPCase(Case):
    name = "otlp"

    def new_server(self, port: int) -> Any:
        from otlp_server import OTLPServer

        return OTLPServer(port)

    def options(self) -> dict[str, Any]:
        return dict(self.server.options)

    def fail(self, how: Fault) -> None:
        from otlp_server import Reply

        replies = {
            "hangs": Reply(hang=True),
            "429": Reply(429, {"Retry-After": "1"}, b""),
            "500": Reply(503, {}, b""),  # 500 is none that OTLP says to repeat
            "breaks off": Reply(hang_up=True),
        }
        self.server.answer_with(always=replies[how])

    def heal(self) -> None:
        self.server.answer_with()
        self.server.release()

    def asked(self) -> int:
        return len(self.server.requests)

    def arrived(self) -> list[str]:
        return [span.name for server in self.servers for span in server.spans]


class RaindropCase(Case):
    name = "raindrop"

    def new_server(self, port: int) -> Any:
        from raindrop_server import RaindropServer

        return RaindropServer(port)

    def options(self) -> dict[str, Any]:
        return dict(self.server.options)

    def fail(self, how: Fault) -> None:
        how_of = {
            "hangs": {"hang": True},
            "429": {"status": 429},
            "500": {"status": 500},
            "breaks off": {"hang_up": True},
        }
        self.server.fault(**how_of[how])

    def heal(self) -> None:
        self.server.heal()

    def asked(self) -> int:
        return len(self.server.requests)

    def arrived(self) -> list[str]:
        return [event["event"] for server in self.servers for event in server.events]


class OpikCase(Case):
    name = "opik"

    def __init__(self) -> None:
        super().__init__()
        self._trouble = ExitStack()

    def new_server(self, port: int) -> Any:
        from opik_server import OpikServer

        return OpikServer(port=port)

    def options(self) -> dict[str, Any]:
        server = self.server
        return {"host": server.url, "api_key": server.api_key, "workspace": server.workspace, "project_name": "test"}

    def fail(self, how: Fault) -> None:
        how_of: dict[str, Any] = {"hangs": "hang", "429": 429, "500": 500, "breaks off": "break"}
        self._trouble.enter_context(self.server.fail(how_of[how]))

    def heal(self) -> None:
        self._trouble.close()

    def asked(self) -> int:
        return len(self.server.requests)

    def arrived(self) -> list[str]:
        return [trace.fields["name"] for server in self.servers for trace in server.traces]


_NEEDS = {"raindrop": "raindrop", "opik": "opik", "otlp": "opentelemetry.proto"}
_CASES: dict[str, Callable[[], Case]] = {
    "http": HTTPCase, "otlp": OTLPCase, "raindrop": RaindropCase, "opik": OpikCase,
}  # fmt: skip
BACKENDS = tuple(_CASES)


def case_of(backend: str) -> Case:
    """A service for this backend; skips where its SDK is not installed."""
    if backend in _NEEDS:
        pytest.importorskip(_NEEDS[backend])
    return _CASES[backend]()
