"""Which names say that their value is a secret: `api_key`, `X-Auth-Token`, `dbPassword`; not `max_tokens`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WORD = re.compile(r"[^\W_]+")

_WORDS = frozenset({
    "password", "passwords", "passwd", "passphrase", "passcode", "pwd", "secret", "secrets", "credential",
    "credentials", "authorization", "cookie", "cookies", "apikey", "apikeys", "accesskey", "secretkey", "privatekey",
    "authtoken", "accesstoken", "refreshtoken", "sessiontoken", "bearer",
})  # fmt: skip
_WORD_ENDS = ("password", "passwd", "passphrase", "apikey")  # PGPASSWORD, dbpassword
_KEYS = frozenset({
    "api", "access", "private", "secret", "encryption", "signing", "session", "master", "account", "write", "license",
    "auth", "ssh", "service", "subscription", "client", "shared", "admin", "deploy", "webhook", "storage", "functions",
    "openai", "anthropic", "azure", "gemini", "google", "groq", "mistral", "cohere", "aws", "stripe", "pinecone",
})  # fmt: skip
_PASSES = frozenset({
    "user", "db", "database", "smtp", "mail", "email", "ftp", "ssh", "http", "proxy", "admin", "root", "login", "sudo",
    "postgres", "pg", "mysql", "mongo", "redis", "rabbitmq", "ldap", "account", "basic",
})  # fmt: skip
_TOKEN_KINDS = frozenset({"access", "refresh", "auth", "api", "bearer", "session", "id", "bot", "oauth"})
_NO_SECRET_TOKENS = frozenset({
    "first", "next", "last", "per", "eos", "bos", "pad", "unk", "sep", "cls", "mask", "stop", "end", "start",
    "special", "each", "page", "continuation", "input", "output", "prompt", "completion", "reasoning", "cached",
    "audio", "image", "text", "word", "predicted", "target", "best",
})  # fmt: skip
_AMOUNTS = frozenset({"max", "min", "num", "n", "total", "avg", "mean", "per"})  # max_new_token, cost_per_input_token
# What follows the word says that the value only tells of the secret: `password_min_length`, `api_key_name`.
_ABOUT = frozenset({
    "count", "counts", "limit", "length", "len", "size", "type", "types", "name", "names", "hint", "policy", "usage",
    "rate", "url", "uri", "endpoint", "expiry", "expires", "expiration", "format", "required", "enabled", "valid",
    "strength", "id", "ids", "index", "s", "seconds", "env", "description", "label", "field", "fields", "present",
    "path", "paths", "file", "source", "provider", "state", "manager", "error", "stdin",
})  # fmt: skip
_SESSION_COOKIES = frozenset({"sessionid", "jsessionid", "phpsessid"})


@lru_cache(maxsize=5_000)
def is_secret_name(name: str) -> bool:
    """Whether a field, header, variable or option of this name holds a secret, judged by the words in it."""
    parts = [part.lower() for part in _PARTS.findall(name)]
    if not parts or parts[-1] in _ABOUT:
        return name.lower() in _SESSION_COOKIES
    if not _WORDS.isdisjoint(parts) or any(part.endswith(_WORD_ENDS) for part in parts):
        return True
    last, before = parts[-1], parts[-2] if len(parts) > 1 else ""
    if last == "auth" or (last == "pass" and before in _PASSES):
        return True
    if last == "tokens":
        return before in _TOKEN_KINDS
    for position, part in enumerate(parts):
        previous = parts[position - 1] if position else ""
        if part in ("key", "keys") and previous in _KEYS:
            return True
        if part == "token" and previous not in _NO_SECRET_TOKENS and _AMOUNTS.isdisjoint(parts[:position]):
            following = parts[position + 1] if position + 1 < len(parts) else "value"
            if following in ("value", "secret", "string", "key"):
                return True
    return name.lower() in _SESSION_COOKIES


class SecretNames:
    """The names that are known, and the user's own.

    Args:
        own: the user's fields, in any spelling.
    """

    def __init__(self, own: Iterable[str] = ()) -> None:
        own = list(own)
        self._own = frozenset(map(_plain, own)) - {""}
        words = (_WORD.findall(_HUMP.sub("_", name)) for name in own)
        self.stems = tuple(sorted({max(found, key=len).lower() for found in words if found}))
        """A word of each field of the user's: where it is not, its name is not."""

    def has(self, name: str) -> bool:
        """Whether what has this name is to be hidden."""
        return is_secret_name(name) or self.has_own(name)

    def has_own(self, name: str) -> bool:
        """Whether it is one of the user's fields."""
        return bool(self._own) and (_plain(name) in self._own or _plain(name.rpartition(".")[2]) in self._own)


def _plain(name: str) -> str:
    """A field's name however it is written: `X-Patient-Id`, `xPatientId` and `x_patient_id` are one."""
    return "".join(filter(str.isalnum, name.lower()))


KNOWN = SecretNames()
