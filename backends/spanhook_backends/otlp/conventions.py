"""The names that facts have in each of the two conventions.

This table decides all of them but two: what `identify` says of a user is in `convert.traits_of`, and what is inside of
a message in `messages`.

GenAI: OpenTelemetry's conventions for generative AI, which have left the `semantic-conventions` package (its last
release with them is 0.66b2, schema 1.44.0) for a repository of their own and have had no release there yet.
OpenInference: the package `openinference-semantic-conventions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

GENAI_VERSION = "open-telemetry/semantic-conventions-genai, after pull request 440 (cache_write), unreleased"
OPENINFERENCE_VERSION = "0.1.42"


class Fact(NamedTuple):
    """One fact of a span, and what it is called. None: the convention has no name for it."""

    name: str
    genai: str | None
    openinference: str | None


FACTS = (
    # every span
    Fact("operation", "gen_ai.operation.name", None),
    Fact("kind", None, "openinference.span.kind"),
    Fact("user", "user.id", "user.id"),
    Fact("conversation", "gen_ai.conversation.id", "session.id"),
    Fact("workflow", "gen_ai.workflow.name", None),
    Fact("agent", "gen_ai.agent.name", "agent.name"),
    Fact("prompt_version", None, "llm.prompt_template.version"),
    Fact("inputs", None, "input.value"),
    Fact("inputs_type", None, "input.mime_type"),
    Fact("outputs", None, "output.value"),
    Fact("outputs_type", None, "output.mime_type"),
    # LM calls
    Fact("provider", "gen_ai.provider.name", "llm.provider"),
    Fact("model", None, "llm.model_name"),
    Fact("request_model", "gen_ai.request.model", "llm.request.model_name"),
    Fact("response_model", "gen_ai.response.model", "llm.response.model_name"),
    Fact("input_tokens", "gen_ai.usage.input_tokens", "llm.token_count.prompt"),
    Fact("output_tokens", "gen_ai.usage.output_tokens", "llm.token_count.completion"),
    Fact("total_tokens", None, "llm.token_count.total"),
    Fact(
        "cached_input_tokens",
        "gen_ai.usage.cache_read.input_tokens",
        "llm.token_count.prompt_details.cache_read",
    ),
    Fact(
        "cache_write_input_tokens",
        "gen_ai.usage.cache_write.input_tokens",
        "llm.token_count.prompt_details.cache_write",
    ),
    Fact(
        "reasoning_output_tokens",
        "gen_ai.usage.reasoning.output_tokens",
        "llm.token_count.completion_details.reasoning",
    ),
    Fact("audio_input_tokens", "gen_ai.usage.audio.input_tokens", "llm.token_count.prompt_details.audio"),
    Fact("audio_output_tokens", "gen_ai.usage.audio.output_tokens", "llm.token_count.completion_details.audio"),
    Fact("finish_reasons", "gen_ai.response.finish_reasons", None),
    Fact("finish_reason", None, "llm.finish_reason"),
    Fact("first_token_s", "gen_ai.response.time_to_first_chunk", None),
    Fact("streamed", "gen_ai.request.stream", None),
    Fact("cost_usd", None, "llm.cost.total"),
    Fact("input_messages", "gen_ai.input.messages", "llm.input_messages"),
    Fact("output_messages", "gen_ai.output.messages", "llm.output_messages"),
    Fact("tool_definitions", "gen_ai.tool.definitions", "llm.tools"),
    Fact("parameters", None, "llm.invocation_parameters"),
    Fact("temperature", "gen_ai.request.temperature", None),
    Fact("top_p", "gen_ai.request.top_p", None),
    Fact("max_tokens", "gen_ai.request.max_tokens", None),
    Fact("max_completion_tokens", "gen_ai.request.max_tokens", None),
    Fact("n", "gen_ai.request.choice.count", None),
    Fact("seed", "gen_ai.request.seed", None),
    # tool calls
    Fact("tool", "gen_ai.tool.name", "tool.name"),
    Fact("tool_arguments", "gen_ai.tool.call.arguments", "tool.parameters"),
    Fact("tool_result", "gen_ai.tool.call.result", None),
    # signals: attributes of an event, and of the span that carries it
    Fact("signal", "gen_ai.evaluation.name", "trace.annotations.0.annotation.name"),
    Fact("signal_score", "gen_ai.evaluation.score.value", "trace.annotations.0.annotation.score"),
    Fact("signal_label", "gen_ai.evaluation.score.label", "trace.annotations.0.annotation.label"),
    Fact("signal_explanation", "gen_ai.evaluation.explanation", "trace.annotations.0.annotation.explanation"),
    Fact("signal_by", None, "trace.annotations.0.annotation.annotator_kind"),
)
SIGNAL_EVENT = "gen_ai.evaluation.result"
NUMBERED = ("llm.input_messages.", "llm.output_messages.", "llm.tools.")  # attributes of which there may be hundreds

_BY_NAME = {fact.name: fact for fact in FACTS}

# What DSPy calls a provider, where the GenAI conventions have another word for it.
GENAI_PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
OPENINFERENCE_PROVIDERS = {
    "azure_ai": "azure",
    "bedrock": "aws",
    "gemini": "google",
    "mistral": "mistralai",
    "vertex_ai": "google",
}


class Names:
    """The names of the conventions that were chosen."""

    def __init__(self, conventions: Literal["genai", "openinference", "both"]) -> None:
        self.genai = conventions != "openinference"
        self.openinference = conventions != "genai"
        pairs = {fact.name: self.pair(fact.name) for fact in FACTS}
        self._of = {fact: tuple(dict.fromkeys(filter(None, pair))) for fact, pair in pairs.items()}

    def of(self, fact: str) -> Sequence[str]:
        """What a fact is called: no name, one or two."""
        return self._of[fact]

    def pair(self, fact: str) -> tuple[str | None, str | None]:
        """What each convention calls it, for facts that have not the same value in both; None if it is not chosen."""
        names = _BY_NAME[fact]
        return (names.genai if self.genai else None), (names.openinference if self.openinference else None)
