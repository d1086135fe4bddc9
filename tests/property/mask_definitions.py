"""What each mask of attir.masks keeps, written as loops over queries and keys from the papers' words alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def matrix(queries: int, keys: int, keeps: Callable[[int, int], bool]) -> Array:
    return np.array([[keeps(m, n) for n in range(keys)] for m in range(queries)], bool).reshape(queries, keys)


def from_sets(queries: int, keys: int, seen: Callable[[int], set[int]]) -> Array:
    """By the set of keys that each query sees; keys that are not there are left out."""
    return matrix(queries, keys, lambda m, n: n in seen(m))


def window(queries: int, keys: int, left: int, right: int) -> Array:
    return from_sets(queries, keys, lambda m: set(range(m - left + 1, m + right)))


def dilated(queries: int, keys: int, count: int, step: int) -> Array:
    return from_sets(queries, keys, lambda m: {m + side * i * step for i in range(count) for side in (-1, 1)})


def documents(lengths: Sequence[int], queries: int, keys: int) -> Array:
    whole = np.zeros((sum(lengths), sum(lengths)), bool)
    first = 0
    for length in lengths:
        whole[first : first + length, first : first + length] = True
        first += length
    return whole[:queries, :keys]


def shards(heads: int, block: int, local: int, stride: int, size: int) -> Array:
    """Blocks of every head, then each block as many scores (head, m, n); the diagonal cuts the last ones."""
    count = -(-size // block)
    blocks = np.zeros((heads, count, count), bool)
    for h, i, j in product(range(heads), range(count), range(count)):
        blocks[h, i, j] = j <= i and (i - j < local or (j + h + 1) % stride == 0)
    return np.kron(blocks, np.ones((1, block, block), bool))[:, :size, :size] & np.tri(size, dtype=bool)


def rolled_groups(size: int, heads: int, length: int) -> Array:
    """LongLoRA: half of the heads are rolled by half a group, tokens of a group see each other."""
    found = np.zeros((heads, length, length), bool)
    for h in range(heads):
        tokens = np.arange(length) if h < heads // 2 else np.roll(np.arange(length), -(size // 2))
        for group in tokens.reshape(-1, size):
            found[h, group[:, None], group] = True
    return found


def cut_groups(size: int, heads: int, length: int) -> Array:
    """The same where half groups at both ends stay alone."""
    found = np.zeros((heads, length, length), bool)
    for h in range(heads):
        start = 0 if h < heads // 2 else size // 2 - size
        for first in range(start, length, size):
            found[h, max(first, 0) : first + size, max(first, 0) : first + size] = True
    return found


def axis_window(cell: int, length: int, window: int, stride: int, dilation: int, causal: bool) -> set[int]:
    """The cells of one axis that `cell` sees: a window moved step by step until it lies inside."""
    cells = list(range(cell % dilation, length, dilation))
    own = cells.index(cell)
    group = [i for i in range(len(cells)) if i // stride == own // stride]
    first_of_group = own - own % stride
    if causal:
        last = group[-1]
        return {cells[i] for i in range(last - window + 1, own + 1) if i >= 0}
    leader = min(first_of_group + stride // 2, len(cells) - 1)
    start = leader - window // 2
    while start < 0:
        start += 1
    while start + window > len(cells):
        start -= 1
    return set(cells[start : start + window])


def neighborhood(
    shape: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    causal: Sequence[bool],
) -> Array:
    cells = list(product(*map(range, shape)))
    number = {cell: i for i, cell in enumerate(cells)}
    found = np.zeros((len(cells), len(cells)), bool)
    for cell in cells:
        axes = [axis_window(*values) for values in zip(cell, shape, window, stride, dilation, causal, strict=True)]
        for other in product(*axes):
            found[number[cell], number[other]] = True
    return found


def tree(parents: Sequence[int], prefix: int) -> Array:
    found = np.zeros((len(parents), prefix + len(parents)), bool)
    found[:, :prefix] = True
    for node in range(len(parents)):
        ancestor = node
        while ancestor >= 0:
            found[node, prefix + ancestor] = True
            ancestor = parents[ancestor]
    return found


def lines(verticals: Sequence[int], slashes: Sequence[int], queries: int, keys: int) -> Array:
    return matrix(queries, keys, lambda m, n: n <= m and (n in verticals or m - n in slashes))
