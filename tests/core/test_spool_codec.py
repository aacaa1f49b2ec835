"""Spans, identities and signals as they come back from the spool: the same, to the last bit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spanhook import Signal, Span, SpanError, Usage
from spanhook.delivery import codec, items
from spanhook.delivery.items import Identity

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_content = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(_content, _content, _texts, st.none() | _texts)
def test_a_span_is_the_same_after_a_restart(inputs, outputs, name, text):
    """To the last bit, whatever its content."""
    span = Span("0" * 32, "1" * 16, text, name, "lm", name, 1, 2**62, inputs, outputs, model=text, cost_usd=0.1 + 0.2)
    span.usage, span.error = Usage(3, cached_input_tokens=0), SpanError("E", text, name)
    span.cache_hit, span.attributes, span.sources = False, {name: outputs}, {"model": name}
    again = codec.decode(items.SPAN, codec.encode(span))
    assert isinstance(again, Span)
    assert repr(again.to_dict()) == repr(span.to_dict())
    assert again.usage == span.usage
    assert again.error == span.error


@given(
    st.dictionaries(_texts, _texts | st.integers(-(2**63) + 1, 2**63 - 1) | st.booleans()), _content, st.none() | _texts
)
def test_identities_and_signals_too(traits, content, text):
    """With the same types."""
    identity = Identity("u", traits)
    assert repr(codec.decode(items.IDENTITY, codec.encode(identity))) == repr(identity)
    signal = Signal("e", "s", "edit", 2**62, {"x": content}, text, text, text, "NEGATIVE")
    assert repr(codec.decode(items.SIGNAL, codec.encode(signal))) == repr(signal)
