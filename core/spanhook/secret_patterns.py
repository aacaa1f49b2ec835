"""Finding secrets in a text by how they look, in time that grows in a straight line with the text.

Each pattern begins with one rare character, for which Python's `re` searches at the speed of `memchr`, and looks back
from there; what it matches is one run of characters, and no run is tried twice.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from spanhook.secret_names import is_secret_name

MARK = "[redacted]"
MIN_CHARS = 8  # of a text that may hold a secret
MAX_VALUE_CHARS = 4_000  # of a value in quotes

_ALONE = "(?<![A-Za-z0-9])"


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
        re.compile(r"J(?<=(?<![A-Za-z0-9_-])eyJ)[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]{6,})+(?:\.[A-Za-z0-9_-]+)*"),
    ),  # JWT
)
_PRIVATE_KEY = re.compile(
    r"(?<=-----BEGIN )[A-Z0-9 ]{0,40}PRIVATE KEY(?:(?!-----END)[A-Za-z0-9+/=\s\\:,-])*(?:-----END[A-Z0-9 ]*-----)?"
)
# Not the port of http://host:8080?mail=a@b.c
_URL_PASSWORD = re.compile(r"""://([^\s/:@"'<>\\]*):(?!\d{1,5}[?#])[^\s/"'<>\\]{1,1000}@""")

# `password = …`: the words that make us look, what may stand between the name and the value, and the value.
_STEMS = ("pass", "pwd", "secret", "token", "key", "auth", "cookie", "credential", "session")
_NAME = "[A-Za-z0-9_.-]"
_BEFORE = re.compile(_NAME + "{0,64}")
_AFTER = re.compile(_NAME + r"""{0,40}(\\*["'])?[\])]?[ \t]{0,3}(?:=>|:=|[:=]|>(?!=))[ \t]{0,3}""")
_AFTER_FLAG = re.compile(r"[a-z-]{0,40}( ) *")
_QUOTE = re.compile(r"""\\*["']""")
_BARE = re.compile(r"""[^\s"'\\,;&(){}\[\]<>]+""")
_HEADER_SCHEMES = ("bearer", "basic")
_SCHEME = re.compile(r"(?:bearer|basic|token|digest|apikey|negotiate)[ \t]+", re.IGNORECASE)
_CRUMBS = re.compile(r"""[^\s=;,"'\\]{1,100}=[^\r\n"'\\]+""")
_PLACEHOLDERS = frozenset(
    {"string", "str", "null", "none", "true", "false", "number", "integer", "object", "bearer", "basic"}
)
_CODE = re.compile(r"(?:self\.)?[a-z_]+[0-9]?(?:[._][A-Za-z_]+[0-9]?)+")  # request.headers, hash_password2
_CREDENTIAL = re.compile(r"[ \t]+([A-Za-z0-9._~+/=-]{7,}[A-Za-z0-9_~+/=-])")

_NO_VALUE = ("", *" \t\n,;:.)]}+%")
_HUMPS = re.compile("[a-z][A-Z]")
_RUN = re.compile("[A-Za-z0-9]{20}")
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def redacted(text: str) -> str:
    """`text` with a mark in place of each secret that its look gives away; the same object where there is none."""
    if len(text) < MIN_CHARS:
        return text
    for rare, pattern in _TOKENS:
        if rare in text:
            text = pattern.sub(_mark_if_random, text)
    for rare, pattern in _EXACT:
        if rare in text:
            text = pattern.sub(MARK, text)
    if "PRIVATE KEY" in text:
        text = _PRIVATE_KEY.sub(MARK, text)
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"://\1:{MARK}@", text)
    lowered = text.lower()
    if len(lowered) != len(text):  # a few letters become two
        lowered = text.translate(_ASCII_LOWER)
    places: list[tuple[int, int]] = []
    if ":" in text or "=" in text or ">" in text or "--" in text:
        for stem in _STEMS:
            if stem in lowered:
                places += _values(text, lowered, stem)
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
    is_random = digits >= 4 or (digits and token.upper() != token != token.lower()) or _RUN.search(token)
    return separator + MARK if is_random else match[0]


def _values(text: str, lowered: str, stem: str) -> Iterator[tuple[int, int]]:
    """Where in `text` stands what follows the names of secrets that have this in them."""
    done = 0
    for at in _places(lowered, stem):
        if at >= done and (value := _value(text, at, at + len(stem))) is not None:
            start, end, is_secret = value
            done = end  # what was looked at once is not looked at again
            if is_secret:
                yield start, end


def _credentials(text: str, lowered: str, scheme: str) -> Iterator[tuple[int, int]]:
    """Where in `text` stands what follows the scheme of an Authorization header."""
    for at in _places(lowered, scheme):
        credential = _CREDENTIAL.match(text, at + len(scheme))
        if credential is not None and _is_credential(scheme, credential[1]):
            yield credential.span(1)


def _places(text: str, needle: str) -> Iterator[int]:
    at = text.find(needle)
    while at >= 0:
        yield at
        at = text.find(needle, at + len(needle))


def _value(text: str, at: int, stem_end: int) -> tuple[int, int, bool] | None:
    """Where the value of the name around `at` begins and ends and whether it is to be hidden; None if there is none."""
    after = _AFTER.match(text, stem_end)
    if after is None and "-" not in text[max(0, at - 64) : at]:
        return None
    head = _BEFORE.match(text[max(0, at - 64) : at][::-1])
    before = head[0][::-1] if head is not None else ""
    is_flag = before.startswith("--")
    if after is None and is_flag:
        after = _AFTER_FLAG.match(text, stem_end)
    if after is None or not is_secret_name(name := _last(before + text[at : after.end()])):
        return None
    start = after.end()
    quote = _QUOTE.match(text, start)
    if quote is not None:
        if after[0].endswith(">") or (after[1] is None and text[quote.end() : quote.end() + 1] in _NO_VALUE):
            return None  # it closes the string that the name is in: "Password: "
        start, end = quote.end(), _closing(text, quote[0], quote.end())
        value = text[start:end]
        return start, end, not _is_placeholder(value)
    if "cookie" in name.lower() and (crumbs := _CRUMBS.match(text, start)):
        return *crumbs.span(), True
    if scheme := _SCHEME.match(text, start):
        start = scheme.end()
    bare = _BARE.match(text, start)
    if bare is None:
        return None
    value, end = bare[0], bare.end()
    is_asked = text[max(0, at - len(before) - 1)] in "?&"
    is_setting = is_flag or (after[0].endswith("=") and (is_asked or name.isupper()))
    is_code = text[end : end + 1] in ("(", "[") or value.startswith("$") or not value.strip(".*…")
    return start, end, not is_code and (is_setting or _is_bare_secret(value))


def _last(name: str) -> str:
    """`password` of `self.db.password =`; and of a file's name its ending."""
    return name.rstrip(" \t:=>)]\"'\\").rpartition(".")[2]


def _closing(text: str, quote: str, start: int) -> int:
    """Where the quoted value that begins at `start` ends; it may hold quotes that are escaped once more."""
    line_end = text.find("\n", start, start + MAX_VALUE_CHARS)
    limit = line_end if line_end >= 0 else start + MAX_VALUE_CHARS
    end = text.find(quote, start, limit)
    while end > start and text[end - 1] == "\\":
        end = text.find(quote, end + len(quote), limit)
    if end >= 0:
        return end
    bare = _BARE.match(text, start)  # it was cut, or is no quote after all
    return bare.end() if bare is not None else start


def _is_placeholder(value: str) -> bool:
    """Whether a value in quotes only says what belongs there: `"string"`, `"${KEY}"`, `"..."`."""
    return (
        not value.strip(" .*…")
        or value.strip().lower() in _PLACEHOLDERS
        or value.startswith((MARK, "${", "{", "<", "%"))
    )


def _is_bare_secret(value: str) -> bool:
    """Without quotes a value may be code or prose: `token = next(tokens)`, `Password: at least 8 characters`."""
    if _CODE.fullmatch(value):
        return False
    has_digit = any(map(str.isdigit, value)) and not value.isdigit()
    return (len(value) >= 6 and has_digit) or len(value) >= 24 or len(_HUMPS.findall(value)) * 6 > len(value) >= 8


def _is_credential(scheme: str, value: str) -> bool:
    if scheme == "bearer":
        return any(map(str.isdigit, value)) or len(value) >= 24
    try:
        return b":" in base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        return False
