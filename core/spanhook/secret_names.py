"""Which names say that their value is a secret: `api_key`, `X-Auth-Token`, `dbPassword`; not `max_tokens`."""

from __future__ import annotations

import re
from functools import lru_cache

_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

_WORDS = frozenset({
    "password", "passwords", "passwd", "passphrase", "passcode", "pwd", "secret", "secrets", "credential",
    "credentials", "authorization", "cookie", "cookies", "apikey", "apikeys", "accesskey", "secretkey", "privatekey",
    "authtoken", "accesstoken", "refreshtoken", "sessiontoken", "bearer",
})  # fmt: skip
_KEYS = frozenset({
    "api", "access", "private", "secret", "encryption", "signing", "session", "master", "account", "write", "license",
    "auth", "ssh", "service", "subscription", "client", "shared", "admin", "deploy", "webhook", "storage",
})  # fmt: skip
_TOKEN_KINDS = frozenset({"access", "refresh", "auth", "api", "bearer", "session", "id", "bot", "oauth"})
_NO_SECRET_TOKENS = frozenset({
    "first", "next", "last", "per", "eos", "bos", "pad", "unk", "sep", "cls", "mask", "stop", "end", "start",
    "special", "each", "page", "continuation",
})  # fmt: skip
# What follows the word says that the value only tells of the secret: `password_min_length`, `api_key_name`.
_ABOUT = frozenset({
    "count", "counts", "limit", "length", "len", "size", "type", "types", "name", "names", "hint", "policy", "usage",
    "rate", "url", "uri", "endpoint", "expiry", "expires", "expiration", "format", "required", "enabled", "valid",
    "strength", "id", "ids", "index", "s", "seconds", "env", "description", "label", "field", "fields", "present",
    "path", "paths", "file", "source", "provider", "state", "manager", "error",
})  # fmt: skip
_SESSION_COOKIES = frozenset({"sessionid", "jsessionid", "phpsessid"})


@lru_cache(maxsize=5_000)
def is_secret_name(name: str) -> bool:
    """Whether a field, header, variable or option of this name holds a secret, judged by the words in it."""
    parts = [part.lower() for part in _PARTS.findall(name)]
    if not parts or parts[-1] in _ABOUT:
        return name.lower() in _SESSION_COOKIES
    if not _WORDS.isdisjoint(parts):
        return True
    last, before = parts[-1], parts[-2] if len(parts) > 1 else ""
    if last in ("auth", "pass"):
        return True
    if last == "tokens":
        return before in _TOKEN_KINDS
    for position, part in enumerate(parts):
        previous = parts[position - 1] if position else ""
        if part in ("key", "keys") and previous in _KEYS:
            return True
        if part == "token" and previous not in _NO_SECRET_TOKENS:
            following = parts[position + 1] if position + 1 < len(parts) else "value"
            if following in ("value", "secret", "string", "key"):
                return True
    return name.lower() in _SESSION_COOKIES
