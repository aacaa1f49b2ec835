"""The program that `spanhook demo` traces: plain DSPy, with nothing of Spanhook in it."""

from __future__ import annotations

import dspy

ORDERS = {"5": "packed", "8": "lost in the mail", "17": "on its way"}


def order_status(order_id: str) -> str:
    """Look up where an order is."""
    return ORDERS.get(order_id, "unknown")


class SupportDesk(dspy.Module):  # type: ignore[misc]  # DSPy is untyped to mypy
    """Answers a customer in two steps: find the topic of the question, then an agent with a tool answers it.

    The examples ("demos") are what lets a model of 135 million parameters do this at all: with them it
    answers in the right shape, without them it does not. A large model needs none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.topic = dspy.Predict("question -> topic")
        self.topic.demos = [
            dspy.Example(question="The app crashes.", topic="bug"),
            dspy.Example(question="I was charged twice.", topic="billing"),
            dspy.Example(question="Where is order 5?", topic="delivery"),
        ]
        signature = "question -> answer"
        self.agent = dspy.ReAct(signature, tools=[order_status], max_iters=1)  # pyright: ignore[reportArgumentType]
        self.agent.react.demos = [
            dspy.Example(
                question="Where is order 5?",
                trajectory="",
                next_thought="I look up order 5.",
                next_tool_name="order_status",
                next_tool_args={"order_id": "5"},
            )
        ]
        self.agent.extract.predict.demos = [_answered(order_id) for order_id in ("5", "8")]

    def forward(self, question: str) -> dspy.Prediction:
        """Answer one question. Returns a prediction with `topic` and `answer`."""
        topic = self.topic(question=question).topic
        answer = self.agent(question=question).answer
        return dspy.Prediction(topic=topic, answer=answer)


def _answered(order_id: str) -> dspy.Example:
    """One example of the agent's last step: what the tool said, and the answer made of it."""
    status = ORDERS[order_id]
    return dspy.Example(
        question=f"Where is order {order_id}?",
        trajectory=(
            f"[[ ## thought_0 ## ]]\nI look up order {order_id}.\n\n"
            "[[ ## tool_name_0 ## ]]\norder_status\n\n"
            f'[[ ## tool_args_0 ## ]]\n{{"order_id": "{order_id}"}}\n\n'
            f"[[ ## observation_0 ## ]]\n{status}"
        ),
        reasoning=f"The tool says: {status}.",
        answer=f"Order {order_id} is {status}.",
    )
