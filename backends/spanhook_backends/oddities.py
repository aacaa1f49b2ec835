"""What meets a value that nobody thought of."""

from __future__ import annotations

ODDITIES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What converting such a value may raise. It must not take the others of its batch with it."""
