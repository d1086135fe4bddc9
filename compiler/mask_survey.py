"""What a mask keeps for given sizes: counted score by score, and as tiles in the eyes of a kernel.

Looks at a band of queries at a time, so no matrix of queries times keys is held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..ir.core import Region, Value
from ..passes.count_tiles import AT_ONCE, tile_classes
from ..passes.mask_plan import MaskPlan
from .mask_algebra import Mask
from .mask_region import POSITIONS, mask_region

Array = np.ndarray[Any, np.dtype[Any]]
EMPTY, PARTIAL, FULL = range(3)
"""Classes of tiles: skipped, computed with the mask, computed without it."""

MOST_TILES = AT_ONCE


@dataclass(frozen=True)
class Survey:
    """A mask over `queries` x `keys` of one head, in tiles of `blocks` (queries, keys).

    `classes` holds for each tile what a kernel does with it (EMPTY, PARTIAL or FULL), `kept` how many
    scores of it are kept, `kept_rows` how many keys each query keeps.
    """

    queries: int
    keys: int
    blocks: tuple[int, int]
    classes: Array
    kept: Array
    kept_rows: Array
    plan: MaskPlan

    @property
    def areas(self) -> Array:
        """How many scores each tile has; those at the ends may be smaller."""
        rows, columns = (
            np.minimum(np.arange(0, count, block) + block, count) - np.arange(0, count, block)
            for count, block in zip((self.queries, self.keys), self.blocks, strict=True)
        )
        return rows[:, None] * columns

    def count(self, kind: int) -> int:
        return int((self.classes == kind).sum())


def survey(mask: Mask, queries: int, keys: int, blocks: tuple[int, int], head: int = 0, heads: int = 1) -> Survey:
    """Count what `mask` keeps in head `head` of `heads` of the first batch; there must be queries and keys."""
    mask.check_sizes(batch=1, heads=heads, queries=queries, keys=keys)
    region, tensors = mask_region(mask)
    captures: dict[Value, Array] = {
        argument: t.cpu().numpy() for argument, t in zip(region.block.arguments[POSITIONS:], tensors, strict=True)
    }
    may, must = tile_classes(region, queries, keys, *blocks, captures, h=head)
    counts, rows = list[Array](), list[Array]()
    for first in range(0, queries, blocks[0]):
        band = kept_band(mask, first, min(first + blocks[0], queries), keys, head)
        rows.append(band.sum(1))
        counts.append(np.add.reduceat(band.sum(0), np.arange(0, keys, blocks[1])))
    classes = np.where(must, FULL, np.where(may, PARTIAL, EMPTY))
    return Survey(queries, keys, blocks, classes, np.stack(counts), np.concatenate(rows), _plan(region))


def _plan(region: Region) -> MaskPlan:
    return MaskPlan.of(region)


def kept_band(mask: Mask, first: int, end: int, keys: int, head: int) -> Array:
    """What the queries [first, end) keep, as (queries, keys)."""
    m, n = torch.arange(first, end).view(-1, 1), torch.arange(keys)
    kept = mask(torch.tensor(0), torch.tensor(head), m, n)
    return kept.expand(end - first, keys).numpy()
