"""`[backends.raindrop]`: what can be set, and what is refused when the configuration is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, PlainValidator, SecretStr
from raindrop import Raindrop

from spanhook import PluginOptions
from spanhook_backends.web import web_address

ENDPOINT = "https://api.raindrop.ai/v1/"
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class AppGit(PluginOptions):
    """`app_git` as a table: the program's revision, or how it is found. What is left out is looked for."""

    commit_sha: str | None = None
    commit_dirty: bool | None = None
    branch: str | None = None
    source_directory: str | None = None
    detect_branch: bool | None = None
    auto_detect: bool | None = None


def _key(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    if not (text.isascii() and text.isprintable()):
        raise ValueError("must be one line of ASCII characters")
    return value


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


def _slug(value: str) -> str:
    if not _SLUG.fullmatch(value):
        raise ValueError(
            "must be a project's slug: 1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end"
        )
    return value


def _url(value: str) -> str:
    parts = web_address(value, ENDPOINT)
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must be a URL without user, query and fragment; the key goes into api_key")
    return value


def _event_id(value: Any) -> Any:
    if value is None or callable(value) or (isinstance(value, str) and value.strip()):
        return value
    raise ValueError("must be a string that is not blank, or, from code, a function that makes one")


def _client(value: Any) -> Any:
    if value is None or isinstance(value, Raindrop):
        return value
    raise ValueError("only from code: a raindrop.Raindrop")


def _app_git(value: Any) -> Any:
    if isinstance(value, bool):
        return {} if value else None
    if isinstance(value, (dict, AppGit)):
        return value
    raise ValueError("must be true, false or a table")


Text = Annotated[str, AfterValidator(_text)]


class RaindropOptions(PluginOptions):
    """`[backends.raindrop]`."""

    api_key: Annotated[SecretStr, AfterValidator(_key)] | None = None
    """The project's write key. Without one nothing is sent to Raindrop: a warning says so, once."""

    user_id: Text | None = None
    """The user of what runs outside of `tracer.interaction(user_id=…)`. None: Raindrop gets "unknown"."""

    convo_id: Text | None = None
    """The conversation of what runs outside of `tracer.interaction(convo_id=…)`."""

    tracing_enabled: bool = True
    """Whether the LM and tool spans of an interaction go to Raindrop too, beside its event."""

    bypass_otel_for_tools: bool = True
    """Tool spans go straight to Raindrop, as LM spans always do. False: through OpenTelemetry's SDK, so that its
    variables (`OTEL_TRACES_SAMPLER`, `OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT`, `OTEL_SDK_DISABLED`) hold for them."""

    debug: bool = False
    """Shows what Raindrop's SDK logs, at every level and with the content of the events: for development."""

    project_id: Annotated[str, AfterValidator(_slug)] | None = None
    """The slug of the project that everything goes to. None: the default project of the key."""

    event_name: Text = "ai_generation"
    """What an event is called where the interaction has no `event`."""

    event_id: Annotated[str | Callable[[], str] | None, PlainValidator(_event_id)] = None
    """The event id of calls outside of `tracer.interaction`. From code it may be a function that makes one: it runs on
    the thread of each such call, when the call starts. None: the id that all backends share."""

    endpoint: Annotated[str, AfterValidator(_url)] | None = None
    """Where Raindrop is, if not at its own address."""

    tools: list[dict[str, Any]] | None = None
    """The tools that LM spans say they had (`ai.prompt.tools`). None: those that each call was really given."""

    app_git: Annotated[AppGit | None, BeforeValidator(_app_git)] = AppGit()
    """Whether Raindrop's SDK adds the program's git revision to events; a table sets it."""

    client: Annotated[Any, PlainValidator(_client)] = None
    """From code: a `raindrop.Raindrop` of your own. Its key and project count; it is flushed but never shut down."""

    @property
    def key(self) -> str:
        """The write key that counts; empty if there is none."""
        if self.client is not None:
            return self.client.write_key or ""
        return "" if self.api_key is None else self.api_key.get_secret_value().strip()

    @property
    def project(self) -> str | None:
        """The project that counts."""
        return self.project_id if self.client is None else self.client.project_id

    @property
    def base_url(self) -> str:
        """The endpoint, with a slash at its end."""
        return (self.endpoint or ENDPOINT).rstrip("/") + "/"

    @property
    def host(self) -> str:
        """Whom messages name."""
        return urlsplit(self.base_url).netloc

    @property
    def traces_url(self) -> str:
        """Where spans go: at the root of the endpoint's host, whatever its path."""
        parts = urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.netloc}/v1/traces"
