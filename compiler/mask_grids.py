"""Masks of tokens that are no sequence: cells of a grid in 1, 2 or 3 dimensions, nodes of a tree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import prod
from operator import mul
from typing import Any, cast

import torch

from .mask_algebra import At, Held, Mask, Need, made_once, whole, wholes, wrong
from .mask_constructors import at_least, at_most


def neighborhood(
    shape: int | Sequence[int],
    window: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    causal: bool | Sequence[bool] = False,
) -> Mask:
    """Generalised neighbourhood attention on a grid of `shape` cells (NATTEN, 2403.04690; GNA, 2504.16922).

    Tokens are the cells in row-major order, and every argument has one entry for each of 1 to 3 axes, or one
    for all. Along an axis of L cells a query sees `window` cells around its own (for even windows one more
    before it than behind); at the borders the window moves inside, so that every query keeps exactly
    prod(window) keys.

    - `stride`: queries in groups of `stride` cells share the window of the one in the middle of the group
      (right of the middle for even strides). stride = window gives blocks.
    - `dilation`: windows of every `dilation`-th cell; window * dilation must not exceed L.
    - `causal`: no cell behind the query's own; the window ends with the last query of the group, and what
      lies before the border is missing.
    """
    grid = _sizes("shape", shape, None)
    if len(grid) not in (1, 2, 3):
        raise wrong(f"a grid has 1, 2 or 3 axes, but shape {grid} has {len(grid)}")
    windows, strides, dilations = (
        _sizes(name, value, len(grid))
        for name, value in (("window", window), ("stride", stride), ("dilation", dilation))
    )
    ordered = _flags("causal", causal, len(grid))
    for axis, (length, w, s, d) in enumerate(zip(grid, windows, strides, dilations, strict=True)):
        if w * d > length:
            apart = f" with dilation {d} spans {w * d} cells" if d > 1 else ""
            raise wrong(f"a window of {w}{apart} does not fit axis {axis} of {length} cells")
        if s > w:
            raise wrong(f"a stride of {s} on axis {axis} is larger than the window of {w}: keys would never be seen")
    text = f"neighborhood({grid}, {windows}"
    text += "".join(
        f", {name}={values}"
        for name, values, usual in (("stride", strides, 1), ("dilation", dilations, 1), ("causal", ordered, False))
        if any(v != usual for v in values)
    )
    needs = (Need("queries", prod(grid)), Need("keys", prod(grid)))
    return Mask(_neighborhood, (grid, windows, strides, dilations, ordered), f"{text})", needs)


def _sizes(name: str, value: Any, count: int | None) -> tuple[int, ...]:
    """One size for each axis."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (whole(name, value, 1),) * (count or 1)
    sizes = wholes(name, value, 1)
    if count is not None and len(sizes) != count:
        raise wrong(f"{name} {sizes} has {len(sizes)} entries for the {count} axes of the grid")
    return sizes


def _flags(name: str, value: Any, count: int) -> tuple[bool, ...]:
    given = cast("Sequence[Any]", value) if isinstance(value, list | tuple) else (value,) * count
    values = tuple(given)
    if not all(isinstance(v, bool) for v in values):
        raise wrong(f"{name} must be True or False for each axis, but is {value!r}")
    if len(values) != count:
        raise wrong(f"{name} {values} has {len(values)} entries for the {count} axes of the grid")
    return values


def _neighborhood(
    at: At,
    shape: tuple[int, ...],
    window: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    causal: tuple[bool, ...],
) -> Any:
    _, _, m, n = at
    places = zip(_coordinates(m, shape), _coordinates(n, shape), strict=True)
    kept: Any = None
    for (q, k), length, w, s, d, ordered in zip(places, shape, window, stride, dilation, causal, strict=True):
        near = _near(q, k, length, w, s, d, ordered)
        kept = near if kept is None else kept & near
    return kept


def _coordinates(token: Any, shape: tuple[int, ...]) -> list[Any]:
    """The cell of a token, row-major: the last axis is the fastest."""
    steps = [*accumulate(reversed(shape[1:]), mul, initial=1)][::-1]
    places = [token // step if step > 1 else token for step in steps]
    return [places[0], *(place % size for place, size in zip(places[1:], shape[1:], strict=True))]


def _near(q: Any, k: Any, length: int, window: int, stride: int, dilation: int, causal: bool) -> Any:
    """Whether cell `k` of one axis is in the window of cell `q`."""
    same, last = None, length - 1
    if dilation > 1:
        # Cells of one remainder are an axis of their own, the first ones a cell longer than the others.
        last = length // dilation - 1 if length % dilation == 0 else (length - 1 - q % dilation) // dilation
        same = q % dilation == k % dilation
        q, k = q // dilation, k // dilation
    leader = q
    if stride > 1:
        leader = at_most(q // stride * stride + (stride - 1 if causal else stride // 2), last)
    if causal:
        kept = (k <= q) & (leader - k < window)
    else:
        first = at_most(at_least(leader - window // 2, 0), last - (window - 1))
        kept = (first <= k) & (k < first + window)
    return kept if same is None else kept & same


def tree(parents: Sequence[int], prefix: int = 0) -> Mask:
    """A node of a tree of drafted tokens sees its ancestors and itself (SpecInfer, 2305.09781).

    `parents[i]` is the number of the node that i follows, -1 for roots. Queries are the nodes; keys are
    `prefix` tokens of context, which every node sees, and then the nodes. Read from three tables, of
    which none is of nodes times nodes.
    """
    nodes, prefix = _parents(parents), whole("prefix", prefix)
    place, opens, closes = _intervals(nodes, prefix)
    text = f"tree({list(nodes)}, {prefix})" if prefix else f"tree({list(nodes)})"
    needs = (Need("queries", len(nodes)), Need("keys", prefix + len(nodes)))
    return Mask(_tree, (Held(place), Held(opens), Held(closes)), text, needs)


def _parents(parents: Any) -> tuple[int, ...]:
    found = wholes("parents", parents, -1)
    if not found:
        raise wrong("a tree needs at least one node, but parents is empty")
    for node, parent in enumerate(found):
        if parent >= len(found):
            raise wrong(f"parents[{node}] is {parent}, but the tree has only {len(found)} nodes")
    return found


@made_once
def _intervals(parents: tuple[int, ...], prefix: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The number of each node when children follow their parents, and the numbers below each key, first and last.

    Keys of the prefix have all nodes below them.
    """
    children: dict[int, list[int]] = {node: [] for node in range(-1, len(parents))}
    for node, parent in enumerate(parents):
        children[parent].append(node)
    first, work = [0] * len(parents), children[-1][::-1]
    order: list[int] = []
    while work:
        node = work.pop()
        first[node] = len(order)
        order.append(node)
        work += reversed(children[node])
    if len(order) < len(parents):
        lost = min(set(range(len(parents))) - set(order))
        raise wrong(f"node {lost} has no root among its ancestors: parents must not form a cycle, and roots have -1")
    last = list(first)
    for node in reversed(order):
        if parents[node] >= 0:
            last[parents[node]] = max(last[parents[node]], last[node])
    tables = (first, [0] * prefix + first, [len(parents) - 1] * prefix + last)
    place, opens, closes = (torch.tensor(table, dtype=torch.int32) for table in tables)
    return place, opens, closes


def _tree(at: At, place: torch.Tensor, opens: torch.Tensor, closes: torch.Tensor) -> Any:
    _, _, m, n = at
    return (opens[n] <= place[m]) & (place[m] <= closes[n])
