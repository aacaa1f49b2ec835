"""The configuration's shape: the models behind `tracing.toml`. How it is found and read is in `files.py`."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import regex
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from spanhook.delivery.keeping import rule_of

ENV_PREFIX = "SPANHOOK_"
ENV_DELIMITER = "__"

CompileMode = Literal["full", "summary", "off"]

# What runs when nothing was chosen. The core names plugins here, and in `spanhook demo`, which shows the first backend
# as a tree; nowhere else.
DEFAULT_EXTRACTORS = ("history", "lm_usage", "usage_attribute", "finish_reason")
DEFAULT_BACKENDS = ("structlog",)


def listed(value: Any) -> Any:
    """An environment variable holds a list as `a,b`, or as JSON."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        with suppress(ValueError):
            return json.loads(value)
    return [name.strip() for name in value.split(",") if name.strip()]


def _one(value: Any) -> Any:
    """An environment variable holds one pattern, for a comma may be part of it."""
    return [value] if isinstance(value, str) else value


def _checked_pattern(pattern: str) -> str:
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise PydanticCustomError("pattern", "{why}", {"why": f"no valid regular expression: {error}"}) from None
    if compiled.match("", timeout=1.0):
        raise PydanticCustomError("pattern", "it matches the empty text, and so would match everywhere")
    return pattern


Patterns = Annotated[list[Annotated[str, AfterValidator(_checked_pattern)]], BeforeValidator(_one), NoDecode]


def _checked_rule(text: str) -> str:
    try:
        rule_of(text)
    except ValueError as error:
        raise PydanticCustomError("rule", "{reason}", {"reason": str(error)}) from None
    return text


def _none_if_empty(value: Any) -> Any:
    """A variable that is empty gives nothing; as a path it would be the working directory."""
    return None if isinstance(value, str) and not value.strip() else value


Folder = Annotated[Path, AfterValidator(lambda path: Path(os.path.expanduser(path)))]
Names = Annotated[list[str], BeforeValidator(listed), NoDecode]
Rules = Annotated[list[Annotated[str, AfterValidator(_checked_rule)]], BeforeValidator(listed), NoDecode]


class PluginOptions(BaseModel):
    """Base of a plugin's own options: unknown keys are errors, values don't change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)  # an input may be a secret


class TracingSettings(PluginOptions):
    """`[tracing]`: what is traced and where it goes."""

    enabled: bool = True
    """False: `configure` installs nothing and every call of the tracer does nothing."""

    instrument: Literal["all", "wrapped"] = "all"
    """"all": every DSPy call of the process; "wrapped": only the programs given to `tracer.wrap`."""

    service: str | None = None
    """The program's name, for backends that show one."""

    extractors: Names = Field(default=list(DEFAULT_EXTRACTORS))
    """Extractors by name. For each field of a span the first in the list that knows it wins."""

    backends: Names = Field(default=list(DEFAULT_BACKENDS))
    """Backends by name; each gets every span."""

    capture: Literal["full", "metadata"] = "full"
    """"metadata": no inputs, outputs, messages or errors' messages leave the process."""

    max_text_chars: int = Field(default=100_000, ge=1)
    """The longest string a span may hold, in characters; what is cut says so."""

    max_spans_per_trace: int = Field(default=200_000, ge=1)
    """How many spans of one trace go out; those beyond are counted as dropped, and the root says how many."""

    sample_rate: float = Field(default=1.0, ge=0.0, le=1.0)
    """The share of traces that is kept: whole traces, chosen by their id."""

    keep: Rules = Field(default=[])
    """Traces that are kept although `sample_rate` leaves them out: "error", "slow:5s", "cost:0.10"."""

    compile: CompileMode = "full"
    """"summary": of an optimizer's run its own span and its evaluations', with their sums; "off": nothing of it."""

    adapter_spans: bool = True
    """False: adapters' calls have no spans of their own; what they call hangs under the module."""

    strict: bool = False
    """True, for development and tests: a wrong identity, signal, interaction or span raises ValueError."""


class DeliverySettings(PluginOptions):
    """`[delivery]`: how finished spans get from the program's threads to the backends."""

    queue_spans: int = Field(default=20_000, ge=1)
    """How many items may wait for one backend; beyond it they are dropped, counted and reported."""

    queue_bytes: int = Field(default=64_000_000, ge=1)
    """How many bytes of content may wait for one backend, about."""

    batch_spans: int = Field(default=512, ge=1)
    """The most spans in one call of a backend's `emit`."""

    batch_bytes: int = Field(default=4_000_000, ge=1)
    """The most bytes of content in one call of a backend's `emit`, about; one span that is larger goes alone."""

    interval_s: float = Field(default=0.2, gt=0, le=60)
    """How long a finished span may wait for others to share a batch with, in seconds."""

    spool: Annotated[Folder | None, BeforeValidator(_none_if_empty)] = None
    """A directory that keeps finished spans until they are delivered: they outlast a crash and a long outage."""

    spool_bytes: int = Field(default=256_000_000, ge=1)
    """How many bytes of spans a process may keep there; beyond it the oldest are dropped, counted and reported."""

    spool_days: float = Field(default=7.0, gt=0, allow_inf_nan=False)
    """How long a span may stay there, in days."""

    exit_timeout_s: float = Field(default=5.0, ge=0, allow_inf_nan=False)
    """How long `shutdown` may take when the interpreter exits, in seconds."""


class RedactSettings(PluginOptions):
    """`[redact]`: what no backend may see."""

    enabled: bool = True
    """False: texts go out as they are, secrets too."""

    patterns: Patterns = Field(default=[])
    """Regular expressions beside the ones that are known; what they match is replaced by `[redacted]`."""

    fields: Names = Field(default=[])
    """Names beside the ones that are known: what such a field, argument or header holds is replaced, at any depth."""


class Sections(PluginOptions):
    """The sections of `tracing.toml`."""

    tracing: TracingSettings = TracingSettings()
    delivery: DeliverySettings = DeliverySettings()
    redact: RedactSettings = RedactSettings()
    backends: dict[str, dict[str, Any]] = Field(default_factory=dict, repr=False)
    """Options by backend: `[backends.NAME]`. They may hold secrets, so they are never printed."""
    extractors: dict[str, dict[str, Any]] = Field(default_factory=dict, repr=False)
    """Options by extractor: `[extractors.NAME]`."""


class Settings(BaseSettings, Sections):  # pyright: ignore[reportIncompatibleVariableOverride]
    """The whole configuration. Precedence: arguments given here, then `SPANHOOK_…` variables, then defaults."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )
