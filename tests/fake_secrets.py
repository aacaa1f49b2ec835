"""Made-up secrets of every kind that redaction knows, each with the same few characters in it to look for."""

from __future__ import annotations

import base64
import random
import string
from collections.abc import Callable

CANARY = "c4N4ryX9"  # in any case

_ALNUM = string.ascii_letters + string.digits


def _chars(dice: random.Random, count: int, alphabet: str = _ALNUM) -> str:
    """Characters at random around the canary."""
    before = dice.randrange(count - len(CANARY))
    text = "".join(dice.choices(alphabet, k=count - len(CANARY)))
    canary = CANARY if any(letter.islower() for letter in alphabet) else CANARY.upper()
    return text[:before] + canary + text[before:]


def _url_safe(dice: random.Random, count: int) -> str:
    return dice.choice(_ALNUM) + _chars(dice, count - 1, _ALNUM + "-_")


def _private_key(dice: random.Random) -> str:
    kind = dice.choice(["RSA ", "EC ", "OPENSSH ", "ENCRYPTED ", ""])
    lines = "\n".join(_chars(dice, 64, _ALNUM + "+/") for _ in range(dice.randrange(3, 12)))
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{lines}\n-----END {kind}PRIVATE KEY-----"


def _basic(dice: random.Random) -> str:
    """The credentials of a Basic header; the canary is in what they are made of, and in them."""
    while True:
        user = "".join(dice.choices(string.ascii_lowercase, k=3 * dice.randrange(2, 5) - 1))
        plain = f"{user}:".encode() + base64.b64decode(_chars(dice, 16, _ALNUM + "+/"))
        encoded = base64.b64encode(plain).decode()
        if CANARY in encoded:
            return f"Basic {encoded}"


# What gives itself away by its look, wherever it stands.
BY_LOOK: dict[str, Callable[[random.Random], str]] = {
    "OpenAI": lambda d: f"sk-{_chars(d, 48)}",
    "OpenAI project": lambda d: f"sk-proj-{_url_safe(d, d.randrange(60, 150))}",
    "Anthropic": lambda d: f"sk-ant-api03-{_url_safe(d, 95)}",
    "OpenRouter": lambda d: f"sk-or-v1-{_chars(d, 64, 'abcdef0123456789')}",
    "Google": lambda d: f"AIza{_url_safe(d, 35)}",
    "AWS": lambda d: f"{d.choice(['AKIA', 'ASIA'])}{_chars(d, 16, string.ascii_uppercase + string.digits)}",
    "GitHub": lambda d: f"gh{d.choice('pousr')}_{_chars(d, 36)}",
    "GitHub, fine-grained": lambda d: f"github_pat_{_chars(d, 22)}_{_chars(d, 59)}",
    "GitLab": lambda d: f"glpat-{_url_safe(d, 20)}",
    "Slack": lambda d: f"xox{d.choice('abpr')}-{d.randrange(10**11, 10**12)}-{_chars(d, 24)}",
    "HuggingFace": lambda d: f"hf_{_chars(d, 34)}",
    "Groq": lambda d: f"gsk_{_chars(d, 52)}",
    "Stripe": lambda d: f"{d.choice(['sk', 'rk'])}_live_{_chars(d, 24)}",
    "Raindrop": lambda d: f"rk_{_chars(d, 32)}",
    "SendGrid": lambda d: f"SG.{_url_safe(d, 22)}.{_url_safe(d, 43)}",
    "npm": lambda d: f"npm_{_chars(d, 36)}",
    "JWT": lambda d: f"eyJ{_url_safe(d, 33)}.eyJ{_url_safe(d, 60)}.{_url_safe(d, 43)}",
    "Bearer": lambda d: f"{d.choice(['Bearer', 'bearer', 'BEARER'])} {_chars(d, d.randrange(16, 60))}",
    "Basic": _basic,
    "URL": lambda d: f"{d.choice(['postgres', 'redis', 'https', 'amqp'])}://app:{_chars(d, 16)}@db.example.com:5432/x",
    "private key": _private_key,
}  # fmt: skip

# Names whose values are secrets whatever they look like.
NAMES = (
    "api_key", "apiKey", "API-KEY", "x-api-key", "X-Auth-Token", "access_token", "token", "github_token", "password",
    "dbPassword", "passwd", "client_secret", "secret", "Authorization", "Cookie", "set-cookie", "credentials",
    "private_key", "session_key", "aws_secret_access_key", "refreshToken", "passphrase", "OPIK_API_KEY",
)  # fmt: skip


def by_look(dice: random.Random) -> str:
    """A secret of one of the kinds."""
    return dice.choice(list(BY_LOOK.values()))(dice)


def plain(dice: random.Random) -> str:
    """A secret that looks like nothing, for a field of one of the names."""
    words = dice.sample(["hunter", "blue", "horse", "staple", "summer", "4711"], k=dice.randrange(1, 4))
    return f"{CANARY} {' '.join(words)}"
