"""Attention to some blocks of keys: `attir.compile(model, sparsity=attir.sparsity.select("quest", keep=0.1))`."""

from __future__ import annotations

from attir.compiler.estimators import Estimator
from attir.compiler.key_summaries import KeySummary
from attir.compiler.select_blocks import estimator_of
from attir.compiler.selection import Selection, select

__all__ = ["Estimator", "KeySummary", "Selection", "estimator_of", "select"]
