"""Finding secrets in a text by how they look, in time that grows in a straight line with the text.

Each pattern begins with one rare character, for which Python's `re` searches at the speed of `memchr`, and looks back
from there; what it matches is one run of characters, and no run is tried twice.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from spanhook.redaction.field_blocks import MARK, blocks
from spanhook.redaction.named_values import named_values
from spanhook.redaction.names import KNOWN, SecretNames

__all__ = ["MARK", "redacted"]

MIN_CHARS = 8  # of a text that may hold a secret
MAX_KEY_CHARS = 50_000  # of a private key

# What may stand before a token: anything but a letter or digit, except where that is the end of an escape, of JSON or
# Python (`\n`, `\x1b`, `\u0022`), of a URL (`%20`) or of a terminal's colour.
_ALONE = (
    r"(?:(?<![A-Za-z0-9])|(?<=\\[abfnrtv0])|(?<=\\x[0-9a-fA-F]{2})|(?<=\\u[0-9a-fA-F]{4})"
    r"|(?<=%[0-9a-fA-F]{2})|(?<=[0-9;\[]m))"
)
_ALONE_URL_SAFE = _ALONE.replace("(?<![A-Za-z0-9])", "(?<![A-Za-z0-9_-])")


def _prefixed(separator: str, *prefixes: str) -> tuple[str, re.Pattern[str]]:
    """A token with one of these prefixes; of it only the separator and what follows is matched."""
    begin = re.escape(separator)
    behind = "|".join(f"(?<={_ALONE}{prefix}{begin})" for prefix in prefixes)
    pattern = f"{begin}(?=[A-Za-z0-9][A-Za-z0-9_-]{{15}})(?:{behind})[A-Za-z0-9_-]+(?:[.][A-Za-z0-9_-]+)*"
    return separator, re.compile(pattern)


# They may also be the beginning of a plain name (`sk-estimator-doc-link`), so that what follows has to look random.
_TOKENS: tuple[tuple[str, re.Pattern[str]], ...] = (
    # OpenAI, Anthropic, OpenRouter, DeepSeek, Langfuse · Slack · GitLab · PyPI · Perplexity · xAI · Tavily · Nvidia
    _prefixed("-", "sk", "xox[a-z]", "xapp", "glpat", "pypi", "pplx", "xai", "tvly", "nvapi"),
    # GitHub · HuggingFace · Raindrop · Groq · npm · Stripe · Replicate · LangSmith · DigitalOcean · Shopify · Grafana ·
    # Notion · Figma · Supabase · Linear · Fireworks · Together · Jina
    _prefixed(
        "_", "gh[oprsu]", "github_pat", "hf", "rk", "gsk", "npm", "[prs]k_live", "[prs]k_test", "whsec", "r8",
        "lsv2_[ps][tk]", "do[opr]_v1", "shpat", "glsa", "glc", "ntn", "figd", "sbp", "lin_api", "fw", "tgp_v1", "jina",
    ),
    # SendGrid · Google OAuth · Vault
    _prefixed(".", "SG", "ya29", "hvs"),
)  # fmt: skip
_EXACT: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("z", re.compile(f"z(?<={_ALONE}AIz)a[A-Za-z0-9_-]{{30,}}")),  # Google
    ("I", re.compile(f"I(?<={_ALONE}A[KS]I)A[A-Z0-9]{{16}}(?![A-Za-z0-9])")),  # AWS
    (
        "J",
        re.compile(rf"J(?<={_ALONE_URL_SAFE}eyJ)[A-Za-z0-9_-]{{6,}}(?:\.[A-Za-z0-9_-]{{6,}})+(?:\.[A-Za-z0-9_-]+)*"),
    ),  # JWT
)
_PART = re.compile("[A-Za-z0-9]+")

_KEY_BEGIN = re.compile("-----BEGIN ([A-Z0-9 ]{0,40}PRIVATE KEY)")
_KEY_END = re.compile("-----END [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z0-9 ]{0,20}-----")
_KEY_BODY = re.compile(r"""[A-Za-z0-9+/=\s\\:,.()|>"'-]*""")  # where the end is missing
# Not the port of http://host:8080?mail=a@b.c, nor what a query holds.
_URL_PASSWORD = re.compile(r"""://([^\s/:?#@"'<>\\]*):(?!\d{1,5}[?#])[^\s/"'<>\\]{1,1000}@""")

_HEADER_SCHEMES = ("bearer", "basic")
_CREDENTIAL = re.compile(r"[ \t]+([A-Za-z0-9._~+/=-]{7,}[A-Za-z0-9_~+/=-])")
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def redacted(text: str, names: SecretNames = KNOWN) -> str:
    """`text` with a mark in place of each secret; the same object where there is none.

    Args:
        text: any.
        names: whose values are secrets.
    """
    if len(text) < MIN_CHARS and not names.stems:
        return text
    for rare, pattern in _TOKENS:
        if rare in text:
            text = pattern.sub(_mark_if_random, text)
    for rare, pattern in _EXACT:
        if rare in text:
            text = pattern.sub(MARK, text)
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"://\1:{MARK}@", text)
    lowered = text.lower()
    if len(lowered) != len(text):  # a few letters become two
        lowered = text.translate(_ASCII_LOWER)
    places = [*_private_keys(text), *blocks(text, names), *named_values(text, lowered, names)]
    for scheme in _HEADER_SCHEMES:
        if scheme in lowered:
            places += _credentials(text, lowered, scheme)
    if not places:
        return text
    parts, at = [], 0
    for start, end in sorted(places):
        if end > at:
            parts += [text[at : max(at, start)], MARK]
            at = end
    return "".join([*parts, text[at:]])


def _mark_if_random(match: re.Match[str]) -> str:
    separator, token = match[0][0], match[0][1:]
    digits = sum(map(str.isdigit, token))
    is_mixed = digits and token.upper() != token != token.lower()
    is_random = is_mixed or digits >= 16 or any(map(_is_random, _PART.findall(token)))
    return separator + MARK if is_random else match[0]


def _is_random(part: str) -> bool:
    """Whether it is neither a word nor a date nor a version."""
    return len(part) >= 20 or 4 <= sum(map(str.isdigit, part)) < len(part)


def _private_keys(text: str) -> Iterator[tuple[int, int]]:
    """Where private keys stand, whatever is in front of their lines."""
    if "PRIVATE KEY" not in text:
        return
    begin, end = _KEY_BEGIN.search(text), _KEY_END.search(text)
    while begin is not None:
        if end is not None and end.start() < begin.end():
            end = _KEY_END.search(text, begin.end())
        if end is not None and end.start() - begin.end() < MAX_KEY_CHARS:
            at = end.end()
        else:  # it was cut off
            body = _KEY_BODY.match(text, begin.end())
            at = begin.end() if body is None else body.end()
        yield begin.start(1), at
        begin = _KEY_BEGIN.search(text, at)


def _credentials(text: str, lowered: str, scheme: str) -> Iterator[tuple[int, int]]:
    """Where in `text` stands what follows the scheme of an Authorization header."""
    at = lowered.find(scheme)
    while at >= 0:
        credential = _CREDENTIAL.match(text, at + len(scheme))
        if credential is not None and _is_credential(scheme, credential[1]):
            yield credential.span(1)
        at = lowered.find(scheme, at + len(scheme))


def _is_credential(scheme: str, value: str) -> bool:
    if scheme == "bearer":
        return any(map(str.isdigit, value)) or len(value) >= 24
    try:
        return b":" in base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        return False
