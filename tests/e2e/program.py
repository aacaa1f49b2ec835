"""What is traced in the end-to-end tests: an agent whose tool fails, the same call twice, a stream, and a user's word.

The model is real and small: what it says is of no matter, that it answers in the right shape is.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import dspy

import spanhook
from spanhook import Span
from spanhook.cli.demo_model import DemoModel
from spanhook.cli.demo_program import SupportDesk
from spanhook.testing import capture_spans

QUESTION = "Where is order 17?"
USER, CONVERSATION = "e2e-user", "e2e-conversation"
COMMENT = "Wrong order!"


@dataclass
class Sent:
    """What a receiver should have: the spans, as they were captured beside the backend, and the interaction's id."""

    spans: list[Span] = field(default_factory=list)
    event_id: str = ""

    @property
    def trace_id(self) -> str:
        """The interaction's trace."""
        return next(span.trace_id for span in self.spans if span.event_id == self.event_id)

    def of_kind(self, kind: str) -> list[Span]:
        """Its spans of a kind."""
        return [span for span in self.spans if span.kind == kind]


def order_status(order_id: str) -> str:
    """Look up where an order is."""
    raise LookupError(f"no order {order_id}")


def run(model: DemoModel, tracer: spanhook.Tracer) -> Sent:
    """Run everything in one interaction, and send the user's word on it."""
    desk = SupportDesk()
    desk.agent = dspy.ReAct("question -> answer", tools=[order_status], max_iters=1)
    old = SupportDesk().agent
    desk.agent.react.demos, desk.agent.extract.predict.demos = old.react.demos, old.extract.predict.demos
    lm = dspy.LM(f"openai/{model.name}", api_base=model.url, api_key="x", max_tokens=64, temperature=0.0)
    tracer.identify(USER, {"plan": "pro"})
    sent = Sent()
    with (
        capture_spans(tracer) as sent.spans,
        dspy.context(lm=lm, adapter=dspy.JSONAdapter()),
        tracer.interaction(user_id=USER, convo_id=CONVERSATION, event="support") as interaction,
    ):
        desk(question=QUESTION)
        desk.topic(question=QUESTION)  # the same call again: from the cache
        asyncio.run(_streamed(desk.topic))
    sent.event_id = interaction.event_id
    tracer.track_signal(sent.event_id, "thumbs_down", "feedback", comment=COMMENT, sentiment="NEGATIVE")
    return sent


async def _streamed(predictor: dspy.Predict) -> None:
    stream = dspy.streamify(predictor, is_async_program=False)
    async for _ in stream(question="The app crashes. Why?"):
        pass
