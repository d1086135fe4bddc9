"""The meaning of `attn.select`, one pair of blocks at a time: how estimators weigh blocks, and what rules keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..diagnostics import op_error
from ..dialects.attn import SelectOp
from .call import Array, Call, Handler

Numbers = Mapping[str, Any]

ROUNDING = 1e-6
"""By so much of a block, a count of blocks is rounded down: 0.1 * 30 is 3."""

LARGEST = float(np.finfo(np.float32).max)
"""What is beyond counts as that, and so does what is not a number."""

ROUNDS, KEYS_A_CLUSTER = 4, 16
"""Of k-means, and of how many keys for each cluster centres are made."""


def select(call: Call) -> Sequence[Array]:
    """blocks as `SelectOp` defines them, estimated in float64."""
    op = SelectOp(call.op)
    q, k = (x.astype(np.float64) for x in call.operands[:2])
    group, numbers = op.group.value, op.numbers
    if q.shape[1] != k.shape[1] * group or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        op_error(op.operation, f"sizes do not fit in groups of {group}: q is {q.shape}, k is {k.shape}")
    kept = np.ones((q.shape[0], q.shape[1], q.shape[2], k.shape[2]), np.bool_)
    if not op.mask.empty:
        shape = kept.shape
        positions = [np.arange(n).reshape([-1 if i == axis else 1 for i in range(4)]) for axis, n in enumerate(shape)]
        (found,) = call.run(op.mask, [*positions, *call.operands[2:]])
        kept = np.broadcast_to(found, shape)
    given = call.operands[len(call.operands) - op.given.value :]
    sizes = Blocks(q.shape[2], k.shape[2], op.block_m.value, op.block_n.value)
    return [select_blocks(op.estimator.value, numbers, q, k, kept, op.scale.value, sizes, given)]


@dataclass(frozen=True)
class Blocks:
    """Queries and keys, and how many of them a block has."""

    queries: int
    keys: int
    rows: int
    block: int

    @property
    def row_parts(self) -> list[slice]:
        return [slice(i, min(i + self.rows, self.queries)) for i in range(0, self.queries, self.rows)]

    @property
    def key_parts(self) -> list[slice]:
        return [slice(i, min(i + self.block, self.keys)) for i in range(0, self.keys, self.block)]


def select_blocks(
    estimator: str, numbers: Numbers, q: Array, k: Array, kept: Array, scale: float, sizes: Blocks,
    given: Sequence[Array] = (),
) -> Array:  # fmt: skip
    """(B, K, MB, NB) from q (B, H, M, D), k (B, K, N, D) and the mask (B, H, M, N)."""
    batch, key_heads = k.shape[:2]
    group = q.shape[1] // key_heads
    found = np.zeros((batch, key_heads, len(sizes.row_parts), len(sizes.key_parts)), np.bool_)
    weights = importances(estimator, numbers, q, k, kept, scale, sizes, given)
    live = live_blocks(kept, sizes)
    for b, h, i in np.ndindex(*found.shape[:3]):
        heads = slice(h * group, (h + 1) * group)
        any_live: Array = np.any(live[b, heads, i], axis=0)
        found[b, h, i] = choose(over_group(weights[b, heads, i], live[b, heads, i]), any_live, numbers, sizes, i)
    return found


def live_blocks(kept: Array, sizes: Blocks) -> Array:
    """(B, H, MB, NB): which blocks hold a kept position."""
    rows = [[kept[:, :, r, n].any(axis=(2, 3)) for n in sizes.key_parts] for r in sizes.row_parts]
    shape = (len(sizes.row_parts), len(sizes.key_parts), *kept.shape[:2])
    return np.array(rows, np.bool_).reshape(shape).transpose(2, 3, 0, 1)


# --- estimates: the logarithm of what a block weighs, for each batch and query head


def importances(
    estimator: str, numbers: Numbers, q: Array, k: Array, kept: Array, scale: float, sizes: Blocks,
    given: Sequence[Array] = (),
) -> Array:  # fmt: skip
    """(B, H, MB, NB) in float64."""
    batch, heads = q.shape[:2]
    group = heads // max(1, k.shape[1])
    found = np.zeros((batch, heads, len(sizes.row_parts), len(sizes.key_parts)))
    if estimator == "pooled" and len(given) == 1:
        gate = given[0]
        return np.broadcast_to(gate if gate.shape[1] == heads else np.repeat(gate, group, axis=1), found.shape)
    for h in range(heads):
        same = k[:, h // group]
        for b in range(batch):
            own = OneHead(q[b, h], k[b, h // group], kept[b, h], scale, sizes, numbers, same, h // group, given)
            if found.size:
                with np.errstate(divide="ignore"):
                    found[b, h] = ESTIMATES[estimator](own)
    return found


@dataclass(frozen=True)
class OneHead:
    """q (M, D), k (N, D) and kept (M, N) of one batch and query head; `all_keys` (B, N, D) are those of all batches."""

    q: Array
    k: Array
    kept: Array
    scale: float
    sizes: Blocks
    numbers: Numbers
    all_keys: Array
    key_head: int
    given: Sequence[Array]

    def number(self, name: str, default: int) -> int:
        return int(self.numbers.get(name, default))

    def stand_ins(self, queries: int) -> list[Array]:
        """For each block of queries, the rows that stand for it: all (0), or the means of so many runs of rows.

        Blocks are not longer than the queries; behind the last row of all it is repeated.
        """
        size = min(self.sizes.rows, len(self.q))
        run = -(-size // queries) if queries else 1
        blocks: list[Array] = []
        for part in self.sizes.row_parts:
            numbers = np.minimum(part.start + np.minimum(np.arange(-(-size // run) * run), size - 1), len(self.q) - 1)
            blocks.append(self.q[numbers].reshape(-1, run, self.q.shape[1]).mean(axis=1))
        return blocks

    def largest(self, queries: Sequence[Array], keys: Sequence[Array]) -> Array:
        """scale * the largest product of what stands for each block of queries and of keys."""
        return np.array([[self.scale * (x @ y.T).max() for y in keys] for x in queries])


def quest(head: OneHead) -> Array:
    page = head.number("page", 0) or head.sizes.block
    found = np.empty((len(head.sizes.row_parts), len(head.sizes.key_parts)))
    for i, rows in enumerate(head.sizes.row_parts):
        for j, keys in enumerate(head.sizes.key_parts):
            bounds: list[float] = []
            for start in range(keys.start, keys.stop, page):
                part = head.k[start : min(start + page, keys.stop)]
                products = np.maximum(head.q[rows] * part.min(axis=0), head.q[rows] * part.max(axis=0))
                bounds.append(products.sum(axis=1).max())
            found[i, j] = head.scale * max(bounds)
    return found


def pooled(head: OneHead) -> Array:
    gates = head.given if len(head.given) == 2 else (np.eye(head.q.shape[1]),) * 2
    rows = [x @ gates[0] for x in head.stand_ins(head.number("queries", 1))]
    return head.largest(rows, [head.k[n].mean(axis=0, keepdims=True) @ gates[1] for n in head.sizes.key_parts])


def low_rank(head: OneHead) -> Array:
    if head.given:
        basis: Array = head.given[0][head.key_head]
    else:
        keys = head.all_keys.reshape(-1, head.k.shape[1])
        basis = np.linalg.eigh(keys.T @ keys)[1][:, ::-1][:, : head.number("rank", 0) or head.k.shape[1] // 2]
    rows = [x @ basis for x in head.stand_ins(head.number("queries", 4))]
    return head.largest(rows, [head.k[n] @ basis for n in head.sizes.key_parts])


def four_bits(x: Array) -> Array:
    """x as a factor times whole numbers from -7 to 7."""
    factor = float(np.abs(x).max()) / 7
    numbers: Array = np.round(x / factor) if factor else x
    return numbers * factor


def int4(head: OneHead) -> Array:
    rows = [np.array([four_bits(row) for row in x]) for x in head.stand_ins(head.number("queries", 8))]
    return head.largest(rows, [four_bits(head.k[n]) for n in head.sizes.key_parts])


def sampled(head: OneHead) -> Array:
    """See `sampled` of the rows that are looked at: columns, and what diagonals have more than them."""
    (queries, keys), sizes = head.kept.shape, head.sizes
    count = min(queries, head.number("queries", 64))
    spread = count // 2
    rest = queries - (count - spread)
    rows = [(2 * i + 1) * rest // (2 * spread) for i in range(spread)] + list(range(rest, queries))
    weights, seen = np.zeros((len(rows), keys)), head.kept[rows]
    for i, row in enumerate(rows):
        if seen[i].any():
            scores = np.where(seen[i], head.scale * (head.k @ head.q[row]), -np.inf)
            weights[i] = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    columns = weights.sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    total, times = np.zeros(queries + keys), np.zeros(queries + keys)
    for i, row in enumerate(rows):
        for n in range(keys):
            total[row - n + keys] += max(weights[i, n] - columns[n], 0.0)
            times[row - n + keys] += seen[i, n]
    diagonals = total / np.maximum(times, 1)
    positions = list(range(queries))
    found = np.empty((len(sizes.row_parts), len(sizes.key_parts)))
    for i, r in enumerate(sizes.row_parts):
        for j, c in enumerate(sizes.key_parts):
            slanted = sum(float(diagonals[m - n + keys]) for m in positions[r] for n in range(c.start, c.stop))
            found[i, j] = columns[c].sum() + slanted / (r.stop - r.start)
    return np.log(found)


def centroids(head: OneHead) -> Array:
    clusters = head.number("clusters", 64)
    sample = head.k[spread_evenly(len(head.k), min(len(head.k), KEYS_A_CLUSTER * clusters))]
    centres = k_means(sample, clusters - clusters // 2)
    distances = ((head.k - centres[nearest(head.k, centres)]) ** 2).sum(axis=1)
    centres = np.concatenate([centres, head.k[np.argsort(-distances, kind="stable")[: clusters // 2]]])
    of_keys = nearest(head.k, centres)
    rows = head.stand_ins(head.number("queries", 0))
    logits = head.largest(rows, [c[None] for c in centres])
    if head.number("levels", 1) == 2:
        coarse = k_means(centres, max(1, round(clusters**0.5)))
        parents = nearest(centres, coarse)
        of_coarse = head.largest(rows, [c[None] for c in coarse])
        counts = np.array([(parents[of_keys] == c).sum() for c in range(len(coarse))])
        for i in range(len(rows)):
            order = np.argsort(-(of_coarse[i] + np.log(counts)), kind="stable")
            light = order[-(-len(coarse) // 2) :]
            logits[i] = np.where(np.isin(parents, light), of_coarse[i, parents], logits[i])
    parts = head.sizes.key_parts
    return np.array([[np.log(np.exp(row[of_keys[n]] - row.max()).sum()) + row.max() for n in parts] for row in logits])


def spread_evenly(length: int, count: int) -> list[int]:
    return [i * length // count for i in range(count)]


def nearest(points: Array, centres: Array) -> Array:
    return ((points[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)


def k_means(points: Array, clusters: int) -> Array:
    centres = points[spread_evenly(len(points), min(clusters, len(points)))]
    for _ in range(ROUNDS):
        of_points = nearest(points, centres)
        means = [points[of_points == c].mean(axis=0) if (of_points == c).any() else x for c, x in enumerate(centres)]
        centres = np.array(means)
    return centres


ESTIMATES: Mapping[str, Callable[[OneHead], Array]] = {
    "quest": quest,
    "pooled": pooled,
    "low_rank": low_rank,
    "int4": int4,
    "sampled": sampled,
    "centroids": centroids,
}


# --- choices


def over_group(weights: Array, live: Array) -> Array:
    """The most that a block weighs for any head (heads, NB), as a share of what the head's live blocks weigh."""
    if len(weights) == 1:
        return weights[0]
    shares = np.full(weights.shape, -np.inf)
    for i, (row, alive) in enumerate(zip(weights, live, strict=True)):
        if alive.any():
            largest = row[alive].max()
            shares[i, alive] = row[alive] - largest - math.log(np.exp(row[alive] - largest).sum())
    return shares.max(axis=0)


def choose(weights: Array, live: Array, numbers: Numbers, sizes: Blocks, number: int) -> Array:
    """Which blocks of keys the block of queries `number` keeps, from logarithms of their weights."""
    alive = [int(j) for j in np.nonzero(live)[0]]
    if not alive:
        return live.copy()
    weights = np.clip(np.nan_to_num(weights.astype(np.float64), nan=np.inf), -LARGEST, LARGEST)
    rows, ahead = sizes.row_parts[number], max(0, sizes.keys - sizes.queries)
    begin, end = (min((m + ahead) // sizes.block, alive[-1]) for m in (rows.start, rows.stop - 1))
    local, sinks = int(numbers.get("local", 4)), int(numbers.get("sinks", 1))
    near = {j for j in alive if local and begin - local < j < end + local}
    always = near | set(alive[:sinks])
    order = sorted(alive, key=lambda j: (j not in always, -float(weights[j]), j))
    match numbers.get("rule", "top_k"):
        case "top_k":
            count = math.ceil(float(numbers.get("keep", 0.1)) * len(alive) - ROUNDING)
            chosen = set(order[: max(count, len(always))])
        case "threshold":
            least = float(numbers.get("threshold", 0.0))
            largest = max(float(weights[j]) for j in alive)
            chosen = always | {j for j in alive if least == 0 or weights[j] >= largest + math.log(least)}
        case _:
            chosen = always | _fewest(weights, order, float(numbers.get("mass", 1.0)))
    return np.array([j in chosen for j in range(len(live))])


def _fewest(weights: Array, order: Sequence[int], mass: float) -> set[int]:
    """The first of `order` that together have the share `mass` of all weight."""
    if mass >= 1:
        return set(order)
    shares = np.exp(weights[list(order)] - weights[list(order)].max())
    before = np.cumsum(shares) - shares
    return {j for j, x in zip(order, before, strict=True) if x < mass * shares.sum()}


SELECT: Mapping[str, Handler] = {SelectOp.op_name: select}
