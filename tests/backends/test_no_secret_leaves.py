"""Thousands of secrets in every place that a span has for text: no backend, no log and no test sees one of them."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import itertools
import json
import logging
import random
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dspy
import pytest
import structlog
from pydantic import BaseModel

pytest.importorskip("opik", reason='needs Opik\'s SDK: pip install "spanhook[opik]"')

from opik_case import options
from opik_server import OpikServer
from otlp_server import OTLPServer
from raindrop_server import RaindropServer

import fake_secrets
import spanhook
from doubles import Memory
from fake_secrets import CANARY, NAMES
from lm_server import LMServer
from spanhook.testing import capture_spans
from spanhook_backends.structlog import StructlogBackend

SECRETS = 5_000


class Model(BaseModel):
    note: Any
    password: str


@dataclasses.dataclass
class Data:
    note: Any
    api_key: str


class Dealer:
    """Deals secrets out, and counts them."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.dealt = 0

    def text(self) -> str:
        """Words with a secret among them that its look gives away."""
        self.dealt += 1
        secret = fake_secrets.by_look(self.dice)
        return self.dice.choice(["{}", "it is {}.", 'key="{}"', "({})", "a: {}\nb", '{{"k": "{}"}}']).format(secret)

    def plain(self) -> str:
        """A secret that only the name of its field gives away."""
        self.dealt += 1
        return fake_secrets.plain(self.dice)

    def field(self) -> dict[str, str]:
        """Such a field."""
        return {self.dice.choice(NAMES): self.plain()}

    def assigned(self) -> str:
        """Such a field as text: JSON, JSON in JSON, Python, a header."""
        field = self.field()
        ((name, value),) = field.items()
        call = f'f({name.replace("-", "_")}="{value}")'
        return self.dice.choice([json.dumps(field), json.dumps(json.dumps(field)), repr(field), call])

    def any(self) -> Any:
        """Some data with secrets in it at some depth."""
        make: list[Callable[[], Any]] = [
            self.text, self.field, self.assigned,
            lambda: [1, {"a": {"b": [self.text(), self.field()]}}],
            lambda: {self.text(): 1, "deep": {"er": ({"est": self.field()},)}},
            lambda: {self.text(), self.text()},
            lambda: Model(note=self.text(), password=self.plain()),
            lambda: Data(note=[self.text()], api_key=self.plain()),
            lambda: self.text().encode(),
            lambda: [["Authorization", self.plain()], ("x-api-key", self.plain())],
            lambda: {"name": "api_key", "value": self.plain()},
            lambda: {"secrets": {"a": [self.plain()]}, "headers": self.field()},
            lambda: dspy.Example(note=self.text(), api_key=self.plain()),
        ]  # fmt: skip
        return self.dice.choice(make)()


class Leaky:
    """A plugin that raises what it sees, and tells of secrets of its own."""

    def __init__(self, deal: Dealer) -> None:
        self._deal = deal
        self._kinds = [type(f"Kind{number}", (Exception,), {}) for number in range(40)]

    @spanhook.hookimpl
    def span_start(self, span):
        raise self._deal.dice.choice(self._kinds)(self._deal.text())

    @spanhook.hookimpl
    def span_end(self, span):
        texts = {name: self._deal.text() for name in ("model", "response_model", "provider", "finish_reason")}
        return {
            **texts,
            "attributes": {self._deal.text(): self._deal.any(), **self._deal.field()},
            self._deal.text(): 1,
        }


def failing_functions(folder: Path, deal: Dealer, count: int) -> Iterator[Callable[[], None]]:
    """Functions with a secret in the line that raises, as it stands in a traceback."""
    lines = []
    for number in range(count):
        secret = deal.text().replace("\n", " ")
        lines.append(f"def f{number}():\n    raise LookupError({secret!r}, {deal.assigned()!r})  # {secret}")
    file = folder / "leaky.py"
    file.write_text("\n".join(lines))
    spec = importlib.util.spec_from_file_location("leaky", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return itertools.cycle([getattr(module, f"f{number}") for number in range(count)])


def run(tracer: spanhook.Tracer, model: LMServer, deal: Dealer, fail: Callable[[], None]) -> None:
    """One interaction with secrets in all of its places."""
    properties = {"note": deal.any(), deal.text(): 1, **deal.field()}
    user, convo, event = deal.text(), deal.text(), deal.text()
    with tracer.interaction(user, convo, event, properties=properties, event_id=deal.text()) as interaction:
        with tracer.span(deal.text(), data=deal.any(), api_key=deal.plain()) as span:
            span.outputs = [deal.any(), deal.any()]
            span.attributes = {deal.text(): deal.any(), **deal.field()}
        with pytest.raises(LookupError), tracer.span("fails"):
            fail()
        tool = dspy.Tool(lambda **given: given, name="call", args={"url": {}, "headers": {}, "password": {}})
        tool(url=deal.text(), headers=deal.field(), password=deal.plain())
        question, settings = f"{deal.text()} {deal.assigned()}", {"extra_headers": deal.field(), "user": deal.text()}
        model.script([{"answer": f"{deal.text()} {deal.assigned()}"}])
        with dspy.context(lm=model.lm(api_key=deal.plain()), adapter=dspy.ChatAdapter()):
            dspy.Predict("question -> answer")(question=question, config=settings)
    texts = {"comment": deal.text(), "after": deal.assigned(), "attachment_id": deal.text()}
    more = {"note": deal.any(), **deal.field()}
    tracer.track_signal(interaction.event_id, deal.text(), "edit", properties=more, **texts)
    tracer.track_signal(deal.text(), deal.text(), deal.text())  # type: ignore[arg-type]  # rejected, and logged
    tracer.identify(deal.text(), {"note": deal.text(), deal.text(): 1, **deal.field()})


def leaks(output: str) -> list[str]:
    """Where the canary still sings."""
    found = [match.start() for match in re.finditer(CANARY.lower(), output.lower())]
    return [output[max(0, at - 80) : at + 40] for at in found[:20]]


def raindrop_texts(server: RaindropServer) -> str:
    """All bytes that arrived, as text; a protocol buffer holds its strings as they are."""
    bodies = [gzip.decompress(r.body) if r.body[:2] == b"\x1f\x8b" else r.body for r in server.requests]
    return b"\n".join(bodies).decode("utf-8", "replace")


@pytest.mark.timeout(300)
def test_no_secret_gets_out(tmp_path, capsys, caplog):
    """Of 5,000: neither to the terminal, to the program's log, to Raindrop, to Opik, by OTLP, to a file, to a backend
    of someone else's, to a test, nor into our own log lines.
    """
    caplog.set_level(logging.DEBUG, "spanhook")
    deal = Dealer(20240501)
    memory = Memory()
    formats = ("tree", "json", "events")
    logs = {f"log_{format}": StructlogBackend(StructlogBackend.Options(format=format)) for format in formats}
    plugins = {"leaky": Leaky(deal), "memory": memory, **logs}
    fail = failing_functions(tmp_path, deal, 50)
    stack = ExitStack()
    opik, raindrop, receiver, model = map(
        stack.enter_context, (OpikServer(), RaindropServer(), OTLPServer(), LMServer())
    )
    with stack, structlog.testing.capture_logs() as events:
        tracer = spanhook.configure(
            {
                "tracing": {
                    "backends": ["opik", "raindrop", "otlp", "local"],
                    "extractors": ["history", "usage_attribute"],
                },
                "backends": {
                    "opik": options(opik),
                    "raindrop": {**raindrop.options, "tracing_enabled": True},
                    "otlp": receiver.options,
                    "local": {"path": str(tmp_path / "traces.db")},
                },
            },
            plugins=plugins,
        )
        with capture_spans() as captured:
            while deal.dealt < SECRETS:
                run(tracer, model, deal, next(fail))
        tracer.shutdown(60.0)
    outputs = {
        "terminal and JSON lines": capsys.readouterr().err,
        "log events": json.dumps(events, default=str),
        "opik": json.dumps([request.items for request in opik.requests]),
        "raindrop": raindrop_texts(raindrop),
        "otlp": repr(receiver.requests),
        "local": (tmp_path / "traces.db").read_bytes().decode("utf-8", "replace"),
        "another backend": repr([span.to_dict() for span in memory.spans]) + repr([memory.signals, memory.identities]),
        "capture_spans": repr([span.to_dict() for span in captured]),
        "our log": "\n".join(record.getMessage() for record in caplog.records),
    }
    assert {name: found for name, output in outputs.items() if (found := leaks(output))} == {}
    assert {name: "[redacted]" in output for name, output in outputs.items()} == dict.fromkeys(outputs, True)
    assert len(memory.spans) >= 8 * 30
