"""Backends whose options and constructors go wrong in every way, for entry points of `tests/core/conftest.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, Field, HttpUrl, SecretStr, field_validator

import spanhook

closed: list[Any] = []


class Plain:
    """Takes no options."""

    @spanhook.hookimpl
    def emit(self, spans: Sequence[spanhook.Span]) -> None: ...

    @spanhook.hookimpl
    def shutdown(self, timeout: float) -> None:
        closed.append(self)


class Keyed(Plain):
    """Has options that pydantic checks, one that it checks itself, and a constructor that tells its key."""

    class Options(spanhook.PluginOptions):
        api_key: SecretStr
        port: int = Field(default=1, ge=1)
        mode: str = "a"
        names: tuple[str, ...] = ()

        @field_validator("mode")
        @classmethod
        def check(cls, value: str) -> str:
            if len(value) > 3:
                raise ValueError(f"no mode {value}")
            assert value != "bad", "Not a good one"
            return value

    def __init__(self, options: Options) -> None:
        if options.port == 13:
            raise RuntimeError(f"can't reach port 13 with {options.api_key.get_secret_value()}")
        if options.port == 14:
            raise spanhook.ConfigError(["region: needed for port 14", "zone: too"])
        if options.port == 16:
            raise spanhook.ConfigError(["mode: not for port 16", "ODD_REGION: no such region"])
        if options.port == 15:
            BaseModel.model_validate(options.api_key.get_secret_value())


class Telling:
    """Tells its secrets in all that it raises, and what is no secret."""

    class Login(BaseModel):
        password: SecretStr

    class Options(spanhook.PluginOptions):
        api_key: str
        login: Telling.Login
        url: HttpUrl

    def __init__(self, options: Options) -> None:
        secrets = f"{options.api_key} {options.login.password.get_secret_value().upper()}"
        self._said = f"{secrets} is wrong at {options.url}"
        self.went_down = False

    @spanhook.hookimpl
    def span_end(self) -> None:
        raise RuntimeError(self._said)

    @spanhook.hookimpl
    def emit(self, spans: Sequence[spanhook.Span]) -> None:
        if not self.went_down:
            self.went_down = True
            raise spanhook.RetryLater(self._said, after_s=0.0)
        raise RuntimeError(self._said)

    @spanhook.hookimpl
    def shutdown(self, timeout: float) -> None:
        raise OSError(self._said)


class Loose(Plain):
    """Its options are a plain model, which pydantic would let ignore what it doesn't know."""

    class Retry(BaseModel):
        tries: int = 1
        codes: list[int] = []

    class Step(spanhook.PluginOptions):
        size: int = Field(default=1, alias="Size")

    class Options(BaseModel):
        level: int = Field(default=1, validation_alias=AliasChoices("level", "depth"))
        retry: Loose.Retry | None = None
        steps: list[Loose.Step] = []
        by_name: Annotated[dict[str, Loose.Retry], Field(default={})]
        free: dict[str, Any] = {}
        either: Loose.Retry | dict[str, int] = {}


class Greedy(Plain):
    """Asks for what there is not."""

    def __init__(self, options: Any, tracing: Any, client: Any) -> None: ...


class Reader:
    """An extractor."""

    @spanhook.hookimpl
    def span_end(self) -> None: ...
