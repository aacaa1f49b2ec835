"""Finding in a text the values of what is named like a secret: `password = "…"`, `"apiKey": "…"`.

Like all of redaction it takes time that grows in a straight line with the text: what was looked at once is not looked
at again, and every look has a bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from spanhook.redaction.field_blocks import MARK
from spanhook.redaction.names import SecretNames

MAX_VALUE_CHARS = 4_000  # of a text in quotes
MAX_DATA_CHARS = 100_000  # of a list or dict

# The words that make us look, what may stand around them in a name, and between the name and the value.
_STEMS = ("pass", "pwd", "secret", "token", "key", "auth", "cookie", "credential", "sess")
_NAME = r"[\w.-]"
_BEFORE = re.compile(_NAME + "{0,64}")
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[abfnrtv0])|%[0-9a-fA-F]{2}")
_AFTER = re.compile(_NAME + r"""{0,40}(?:(\\*["'])[\])]?)?[ \t]{0,40}(?:=>|:=|[:=](?!=)|>(?!=))[ \t]{0,40}""")
_AFTER_FLAG = re.compile(r"""[a-z-]{0,40}(?:( ) *|\\*["'], ?(?=\\*["']))""")
_TYPE = r"[A-Za-z_][\w.]{0,40}"
_ANNOTATION = re.compile(
    rf"""{_TYPE}(?:\[[^\[\]\n"'=]{{0,80}}\])?(?: ?\| ?{_TYPE}){{0,4}} {{0,9}}= {{0,9}}(?=\w?["'])"""
)

_PREFIX = """(?:[bBfFrRuU]{1,2}(?=["']))?"""
_QUOTED = re.compile(_PREFIX + r"""(?P<quote>(?P<one>\\*["'])(?:(?P=one){2})?)""")
_NEXT_QUOTED = re.compile(r"\s{0,40},\s{0,40}" + _QUOTED.pattern)
_TEXTS = re.compile(r"[\[(]\s{0,40}(?=" + _PREFIX + r"""\\*["'])""")
_DATA = re.compile(r"""[\[{]\s{0,40}(?=[\\"'\d\[{-])""")
_FLAT_DATA = re.compile(r"""(?:\[|\{\s{0,40}\\*["'][\w.-]{1,100}\\*["']:)\s{0,40}(?=[\\"'\d-])""")
_PIECE = re.compile(r"""(\\{0,16}["'])|[\[{]|[\]}]""")
_SCHEMA = re.compile(r"""type\\*["']:\s{0,9}\\*["'](?:string|integer|number|object|array|boolean|null)\b""")
_LOGPROB = re.compile(r"""\\*["'],\s{0,40}\\*["'](?:logprob|token_str|bytes)""")
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?(?![\w.-])")
_BARE = re.compile(r"""[^\s"'\\,;&(){}\[\]<>]+""")
_SCHEME = re.compile(r"(?:bearer|basic|token|digest|apikey|negotiate)[ \t]+", re.IGNORECASE)
_CRUMBS = re.compile(r"""[^\s=;,"'\\]{1,100}=[^\r\n"'\\]+""")
_PLACEHOLDERS = frozenset(
    {"string", "str", "null", "none", "true", "false", "number", "integer", "object", "bearer", "basic"}
)
_CODE = re.compile(r"(?:self\.)?[a-z_]+[0-9]?(?:[._][A-Za-z_]+[0-9]?)+")  # request.headers, hash_password2
_NO_VALUE = ("", *" \t\n,;:.)]}+%")
_HUMPS = re.compile("[a-z][A-Z]")

Place = tuple[int, int, bool]


def named_values(text: str, lowered: str, names: SecretNames) -> Iterator[tuple[int, int]]:
    """Where in `text` stands what is named like a secret.

    Args:
        text: any.
        lowered: the same in small letters, of the same length.
        names: which they are.
    """
    if ":" in text or "=" in text or ">" in text or "--" in text:
        for stem in (*_STEMS, *names.stems):
            at, done = lowered.find(stem), 0
            while at >= 0:
                if at >= done and (value := _value(text, at, at + len(stem), names)) is not None:
                    start, done, is_secret = value
                    if is_secret:
                        yield start, done
                at = lowered.find(stem, at + len(stem))


def _value(text: str, at: int, stem_end: int, names: SecretNames) -> Place | None:
    """Where the value of the name around `at` begins and ends and whether it is to be hidden; None if there is none."""
    after = _AFTER.match(text, stem_end)
    if after is None and "-" not in text[max(0, at - 64) : at]:
        return None
    before = _before(text, at)
    is_flag = before.startswith("--")
    if after is None and is_flag:
        after = _AFTER_FLAG.match(text, stem_end)
    if after is None or not names.has(name := _last(before + text[at : after.end()])):
        return None
    start, is_own, is_key = after.end(), names.has_own(name), after[1] is not None
    if after[0].rstrip().endswith(":") and (annotation := _ANNOTATION.match(text, start)):
        start = annotation.end()
    texts = _TEXTS.match(text, start)
    if opening := _QUOTED.match(text, start if texts is None else texts.end()):
        is_tag = after[0].endswith(">") and "=" not in after[0]
        if texts is None and (is_tag or (not is_key and text[opening.end() : opening.end() + 1] in _NO_VALUE)):
            return None  # it closes the string that the name is in: "Password: "
        return _quoted(text, opening, name, "" if texts is None else texts[0][0])
    if is_key and (found := _data(text, start, is_own=is_own)):
        return found
    if "cookie" in name.lower() and (crumbs := _CRUMBS.match(text, start)):
        return *crumbs.span(), True
    if scheme := _SCHEME.match(text, start):
        start = scheme.end()
    bare = _BARE.match(text, start)
    if bare is None:
        return None
    value, end = bare[0], bare.end()
    if _is_placeholder(value) or (is_flag and value.startswith("-")):
        return start, end, False
    is_asked = text[max(0, at - len(before) - 1)] in "?&"
    is_setting = is_flag or (after[0].endswith("=") and (is_asked or name.isupper()))
    is_code = text[end : end + 1] in ("(", "[") or value.startswith("$") or not value.strip(".*…")
    return start, end, not is_code and (is_setting or _is_bare_secret(value, is_own=is_own))


def _before(text: str, at: int) -> str:
    """What of a name stands before `at`, without the escape that it may follow: `%20password`."""
    head = _BEFORE.match(text[max(0, at - 64) : at][::-1])
    before = head[0][::-1] if head is not None else ""
    escape = _ESCAPE.match(text, at - len(before) - 1, at) if at > len(before) else None
    return before if escape is None else text[escape.end() : at]


def _last(name: str) -> str:
    """`password` of `self.db.password =`; and of a file's name its ending."""
    return name.rstrip(" \t:=>,)]\"'\\").rpartition(".")[2]


def _quoted(text: str, opening: re.Match[str], name: str, bracket: str) -> Place:
    """A value in quotes, or a list of such; a tuple of several is code."""
    start, quote = opening.end(), opening["quote"]
    end = _closing(text, quote, start)
    value = text[start:end]
    is_code = "{" in value and text[opening.start()] in "fFrR"
    is_secret = not (_is_placeholder(value) or is_code or (name == "token" and _LOGPROB.match(text, end)))
    while bracket and (following := _NEXT_QUOTED.match(text, end + len(quote))):
        quote, is_secret = following["quote"], is_secret and bracket == "["
        end = _closing(text, quote, following.end())
    return start, end, is_secret


def _closing(text: str, quote: str, start: int) -> int:
    """Where the quoted value that begins at `start` ends; it may hold quotes that are escaped once more."""
    line_end = text.find("\n", start, start + MAX_VALUE_CHARS) if len(quote) < 3 or quote[-2] == "\\" else -1
    limit = line_end if line_end >= 0 else start + MAX_VALUE_CHARS
    end = text.find(quote, start, limit)
    while end > start and text[end - 1] == "\\":
        end = text.find(quote, end + len(quote), limit)
    if end >= 0:
        return end
    bare = _BARE.match(text, start)  # it was cut, or is no quote after all
    return bare.end() if bare is not None else start


def _data(text: str, start: int, *, is_own: bool) -> Place | None:
    """A number, a list or a dict, as JSON has them. What is only known by its name may also tell of the secret."""
    if (number := _NUMBER.match(text, start)) is not None:
        return *number.span(), is_own or (len(number[0]) >= 4 and number[0].isdigit())
    if (_DATA if is_own else _FLAT_DATA).match(text, start) is None:
        return None
    depth, at, limit = 0, start, start + MAX_DATA_CHARS
    while (piece := _PIECE.search(text, at, limit)) is not None:
        at = piece.end()
        if piece[1] is not None:
            at = _closing(text, piece[1], at) + len(piece[1])
        else:
            depth += 1 if piece[0] in "[{" else -1
            if depth == 0:
                break
    end = min(at if depth == 0 else limit, len(text))
    return start, end, is_own or _SCHEMA.search(text, start, end) is None


def _is_placeholder(value: str) -> bool:
    """Whether a value only says what belongs there: `"string"`, `"${KEY}"`, `"..."`."""
    return (
        not value.strip(" .*…")
        or value.strip().lower() in _PLACEHOLDERS
        or value.startswith((MARK, "${", "{", "<", "%"))
    )


def _is_bare_secret(value: str, *, is_own: bool) -> bool:
    """Without quotes a value may be code or prose: `token = next(tokens)`, `Password: at least 8 characters`."""
    if _CODE.fullmatch(value):
        return False
    has_digit = any(map(str.isdigit, value))
    if is_own and has_digit:
        return True
    has_digit = has_digit and not value.isdigit() and not _NUMBER.fullmatch(value)
    return (len(value) >= 6 and has_digit) or len(value) >= 24 or len(_HUMPS.findall(value)) * 6 > len(value) >= 8
