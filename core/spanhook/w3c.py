"""W3C Trace Context and Baggage as text: `traceparent` and `baggage` headers, read and written. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

MAX_BAGGAGE_BYTES = 8_192  # of the specification; what is beyond need not be passed on, and is not read
MAX_BAGGAGE_MEMBERS = 64
MAX_TRACESTATE_CHARS = 8_192
MAX_VALUE_CHARS = 1_000  # of an id in baggage

_SAMPLED, _RANDOM = 0x01, 0x02

# Version 00 ends here; a later one may go on after another hyphen.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SHARE = re.compile(r"[0-9](\.[0-9]{1,20})?(e-[0-9]{1,3})?", re.ASCII)
_UNESCAPED = "!#$&'()*+-./:<=>?@[]^_`{|}~"  # of baggage-octet, without what divides members and the percent sign


def traceparent_of(trace_id: str, span_id: str, *, sampled: bool, random: bool) -> str:
    """A `traceparent` of version 00."""
    return f"00-{trace_id}-{span_id}-{sampled * _SAMPLED | random * _RANDOM:02x}"


def read_traceparent(text: str) -> tuple[str, str, bool, bool]:
    """The trace id, the span id, and whether `sampled` and `random` are set.

    Raises:
        ValueError: it is none, with the reason. The reason never holds the text: that came from outside.
    """
    text = text.strip(" \t")
    found = _TRACEPARENT.fullmatch(text)
    if found is None:
        raise ValueError("not of the form 00-TRACE_ID-SPAN_ID-FLAGS, in lower-case hex digits")
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff":
        raise ValueError("version ff, which there is none of")
    if version == "00" and rest is not None:
        raise ValueError("longer than version 00 is")
    if not int(trace_id, 16) or not int(span_id, 16):
        raise ValueError("an id that is all zeros")
    bits = int(flags, 16)
    # Of a version that we don't know, the specification lets us take the sampled flag alone.
    return trace_id, span_id, bool(bits & _SAMPLED), version == "00" and bool(bits & _RANDOM)


def read_baggage(text: str, keys: Iterable[str]) -> dict[str, str]:
    """The values of `keys` in a `baggage` header; of a key that is there twice, the first.

    Raises:
        ValueError: it is beyond the limits of the specification, or a value can't be used.
    """
    if len(text) > MAX_BAGGAGE_BYTES or text.count(",") >= MAX_BAGGAGE_MEMBERS:
        raise ValueError(f"more than {MAX_BAGGAGE_MEMBERS} members or {MAX_BAGGAGE_BYTES} bytes")
    wanted, values = frozenset(keys), dict[str, str]()
    for key, member in _members(text):
        if key in wanted and key not in values:
            value = unquote(member.partition(";")[0].partition("=")[2].strip(" \t"), errors="replace")
            if not fits(value):
                raise ValueError(f"{key} is blank, too long, or has control characters")
            values[key] = value
    return values


def fits(value: str) -> bool:
    """Whether a value can be an id in baggage."""
    return bool(value.strip()) and len(value) <= MAX_VALUE_CHARS and not _CONTROL.search(value)


def read_share(text: str | None) -> float | None:
    """A share above 0, up to 1; None if it is none."""
    share = float(text) if text is not None and _SHARE.fullmatch(text) else 0.0
    return share if 0 < share <= 1 else None


def is_tracestate(text: str) -> bool:
    """Whether a `tracestate` is worth passing on."""
    return bool(text) and len(text) <= MAX_TRACESTATE_CHARS and text.isascii() and text.isprintable()


def add_baggage(text: str, values: Mapping[str, str], prefix: str) -> str:
    """`text` with `values` in place of the members whose keys begin with `prefix`; all others stay as they are.

    Raises:
        ValueError: there is no room for them.
    """
    kept = [member for key, member in _members(text) if not key.startswith(prefix)]
    added = [f"{key}={quote(value, _UNESCAPED, errors='replace')}" for key, value in values.items()]
    joined = ",".join([*kept, *added])
    if len(joined) > MAX_BAGGAGE_BYTES or len(kept) + len(added) > MAX_BAGGAGE_MEMBERS:
        raise ValueError(f"no room in {MAX_BAGGAGE_MEMBERS} members and {MAX_BAGGAGE_BYTES} bytes")
    return joined


def _members(text: str) -> Iterator[tuple[str, str]]:
    """Each member by its key."""
    for member in text.split(","):
        if member := member.strip(" \t"):
            yield member.partition("=")[0].strip(" \t"), member


def header_values(headers: Any, wanted: Iterable[str]) -> dict[str, list[str]]:
    """The values of headers by their lower-case names.

    Takes what servers and queues have: a mapping or pairs, names in any case or as WSGI's `HTTP_…`, text or bytes, one
    value or a list of them. What is no text is left out.
    """
    found: dict[str, list[str]] = {name: [] for name in wanted}
    pairs = headers.items() if hasattr(headers, "items") else headers
    for name, value in pairs:
        if (known := header_name(name)) in found:
            for one in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(one, bytes):
                    found[known].append(one.decode("latin-1"))
                elif isinstance(one, str):
                    found[known].append(one)
    return found


def header_name(name: Any) -> str:
    """A header's name in lower case, whatever server it comes from."""
    if isinstance(name, bytes):
        name = name.decode("latin-1")
    if not isinstance(name, str):
        return ""
    return name.removeprefix("HTTP_").lower()
