"""What a choice of key blocks costs beside the attention it saves, in multiply-adds for each score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """The sizes of one head's attention, and of an estimate for it, in a call with `heads` of all batches.

    `queries` and `keys` of `width` and `value_width` channels, in blocks of `rows` and `block`; `own` are the
    estimator's own parameters.
    """

    queries: int
    keys: int
    width: int
    value_width: int
    rows: int
    block: int
    own: Mapping[str, int]
    heads: int = 1

    @property
    def dense(self) -> float:
        """The products of dense attention."""
        return float(self.queries) * self.keys * (self.width + self.value_width)

    @property
    def query_blocks(self) -> int:
        return -(-self.queries // self.rows)

    @property
    def key_blocks(self) -> int:
        return -(-self.keys // self.block)


def _quest(x: Estimate) -> float:
    pages = -(-x.keys // (x.own.get("page", 0) or x.block))
    return 2.0 * x.queries * pages * x.width


def _pooled(x: Estimate) -> float:
    return float(x.query_blocks) * x.key_blocks * x.width + (x.queries + x.keys) * x.width


def _low_rank(x: Estimate) -> float:
    rank = min(x.own.get("rank", 0) or -(-x.width // 2), x.width)
    return float(x.query_blocks) * _means(x) * x.keys * rank + (x.queries + 2 * x.keys) * x.width * rank


def _int4(x: Estimate) -> float:
    return float(x.query_blocks) * _means(x) * x.keys * x.width


def _means(x: Estimate) -> int:
    """How many rows or means stand for a block of queries."""
    return min(x.rows, x.own.get("queries", 0) or x.rows)


def _sampled(x: Estimate) -> float:
    return float(min(x.queries, x.own.get("queries", 64))) * x.keys * x.width


def _centroids(x: Estimate) -> float:
    clusters = x.own.get("clusters", 64)
    return float(x.queries + 4 * x.keys) * clusters * x.width


ESTIMATES: Mapping[str, Callable[[Estimate], float]] = {
    "quest": _quest,
    "pooled": _pooled,
    "low_rank": _low_rank,
    "int4": _int4,
    "sampled": _sampled,
    "centroids": _centroids,
}
"""Multiply-adds of each estimator, with a summary made anew."""

FIXED = 5e7
"""Multiply-adds that take as long as the operations of a choice do on almost nothing: half a millisecond of a core."""

SCATTERED = 1.15
"""How much longer a listed block takes than one of many in a row: its tiles are found one by one."""


def share_of_dense(estimator: str, kept: float, estimate: Estimate) -> float:
    """The predicted time of estimate, choice and attention on the fraction `kept`, as a share of dense attention."""
    work = ESTIMATES[estimator](estimate) + FIXED / max(1, estimate.heads)
    return min(1.0, kept * SCATTERED) + work / max(1.0, estimate.dense)
