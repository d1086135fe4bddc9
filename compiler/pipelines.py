"""The orders in which passes run."""

from __future__ import annotations

RAISE: tuple[str, ...] = ("canonicalize", "raise-attention")
"""From the captured graph to attn.attention."""
