"""Which blocks of queries and keys a mask leaves anything in, for all batches and heads, without building the mask."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch.nn.functional import pad

from ..ir.core import Region, Value
from ..passes.mask_forms import MaskForms
from ..passes.number_math import Number
from ..passes.position_forms import Atom, B, H, M, N, atoms_of
from ..passes.tile_predicates import TileEvaluator
from .block_scores import split_axis
from .tensor_math import TensorMath, batches_and_heads

ELEMENTS_AT_ONCE = 1 << 20
"""How many positions are looked at one by one at a time; bounds memory, never the result."""

FEW_POSITIONS = 1 << 17
"""So many positions are all looked at, without asking for tiles first."""

MOST_SIZES = 64
"""For how many sizes tables are remembered."""


@dataclass(frozen=True)
class Sizes:
    """Of one call: batches, query heads, queries, keys; and how many queries and keys a block has."""

    batch: int
    heads: int
    queries: int
    keys: int
    rows: int
    block: int

    @property
    def query_blocks(self) -> int:
        return -(-self.queries // self.rows)

    @property
    def key_blocks(self) -> int:
        return -(-self.keys // self.block)


@dataclass(frozen=True)
class Live:
    """`table` (B or 1, H or 1, MB, NB) says which blocks hold a kept position, for each query head.

    `reach` holds for each block of queries how many of the first blocks of keys hold all live ones of any
    head; None where only the device knows. `mask` evaluates single positions.
    """

    sizes: Sizes
    table: torch.Tensor
    reach: tuple[int, ...] | None
    mask: MaskOfCall

    def of_key_heads(self, group: int) -> torch.Tensor:
        """(B or 1, K or 1, MB, NB): live for any head of a group."""
        if self.table.shape[1] == 1:
            return self.table
        return split_axis(self.table, 1, (-1, group)).any(dim=2)

    def rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Which keys these rows see: (B or 1, H or 1, len(rows), N)."""
        keys = torch.arange(self.sizes.keys, device=rows.device)
        return self.mask.kept(rows[:, None], keys[None])


@dataclass(frozen=True)
class MaskOfCall:
    """A mask and what one call captured; `lead` is (B or 1, H or 1), whether it differs between batches and heads."""

    forms: MaskForms
    math: TensorMath
    lead: tuple[int, int]

    def tiles(self, rows: tuple[Number, Number], keys: tuple[Number, Number]) -> tuple[torch.Tensor, torch.Tensor]:
        """Whether tiles, given by first and last rows and keys along two axes, keep anything, and everything."""
        positions = {**{p: (x, x) for p, x in self.math.fixed.items()}, M: rows, N: keys}
        found = TileEvaluator(self.math, positions).truth(self.forms.condition)
        shape = (*self.lead, *(max(x, y) for x, y in zip(rows[0].shape, keys[0].shape, strict=True)))
        return self._table(found.may, shape), self._table(found.must, shape)

    def kept(self, rows: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Whether positions along two axes are kept; where the mask cannot be read, they count as kept."""
        return self.tiles((rows, rows), (keys, keys))[0]

    def _table(self, found: Number, shape: Sequence[int]) -> torch.Tensor:
        if isinstance(found, bool):
            return torch.full(tuple(shape), found, device=self.math.device)
        return found.expand(*shape)


@dataclass(eq=False)
class LiveBlocks:
    """Finds the live blocks of calls under one mask; `region` is a mask region, empty if all is kept.

    What follows from sizes alone is found once for each. On the CPU the tables are exact, and everywhere
    for few positions; else a block counts as live where captured tensors leave it open, so that nothing waits
    for the device.
    """

    region: Region
    _known: dict[tuple[Sizes, torch.device], Live] = field(default_factory=dict[tuple[Sizes, torch.device], Live])

    @cached_property
    def forms(self) -> MaskForms:
        return MaskForms.of(self.region)

    @cached_property
    def _atoms(self) -> list[Atom]:
        return list(atoms_of(self.forms.condition))

    @cached_property
    def captured(self) -> Mapping[Value, int]:
        """Which captures the mask reads."""
        read = {atom.load.source for atom in self._atoms if atom.load is not None}
        arguments = [] if self.region.empty else self.region.block.arguments[4:]
        return {a: i for i, a in enumerate(arguments) if a in read}

    def find(self, sizes: Sizes, captures: Sequence[torch.Tensor], device: torch.device) -> Live:
        """The live blocks of a call; `captures` are those of the region."""
        if self.captured:
            mask = self.of_call(sizes, captures, device)
            return _find(sizes, mask)
        if (found := self._known.get((sizes, device))) is None:
            on_host = _exact(sizes, self.of_call(sizes, (), torch.device("cpu")))
            found = Live(sizes, on_host.table.to(device), on_host.reach, self.of_call(sizes, (), device))
            if len(self._known) >= MOST_SIZES:
                self._known.clear()
            self._known[sizes, device] = found
        return found

    def of_call(self, sizes: Sizes, captures: Sequence[torch.Tensor], device: torch.device) -> MaskOfCall:
        """The mask of a call, for single positions and for tiles; `captures` are those of the region."""
        read = {a: captures[i].to(device) for a, i in self.captured.items()}
        fixed = batches_and_heads(sizes.batch, sizes.heads, device)
        positions = {p for atom in self._atoms for p in atom.positions}
        lead = (sizes.batch if B in positions else 1, sizes.heads if H in positions else 1)
        return MaskOfCall(self.forms, TensorMath(read, fixed, {M: sizes.queries, N: sizes.keys}, device), lead)


def _find(sizes: Sizes, mask: MaskOfCall) -> Live:
    if 0 < math.prod((*mask.lead, sizes.queries, sizes.keys)) <= FEW_POSITIONS:
        return _by_position(sizes, mask)
    return _exact(sizes, mask) if mask.math.device.type == "cpu" else _certain(sizes, mask)


def _by_position(sizes: Sizes, mask: MaskOfCall) -> Live:
    """With every position looked at, as is quick for a step of decoding."""
    device = mask.math.device
    kept = mask.kept(torch.arange(sizes.queries, device=device)[:, None], torch.arange(sizes.keys, device=device)[None])
    kept = pad(kept, (0, -sizes.keys % sizes.block, 0, -sizes.queries % sizes.rows))
    live = kept.view(*mask.lead, sizes.query_blocks, sizes.rows, sizes.key_blocks, sizes.block).any(dim=5).any(dim=3)
    return Live(sizes, live, _reach(live) if device.type == "cpu" else None, mask)


def _exact(sizes: Sizes, mask: MaskOfCall) -> Live:
    """With each block looked at that the predicate leaves open."""
    rows, keys, may, must = _first_look(sizes, mask)
    live = must.clone()
    for sampled in (True, False):
        row_block, key_block = (may & ~live).any(dim=1).any(dim=0).nonzero(as_tuple=True)
        inside = _inside(rows, row_block, sampled), _inside(keys, key_block, sampled)
        places = inside[0].shape[1], inside[1].shape[1]
        step = max(1, ELEMENTS_AT_ONCE // max(1, places[0] * places[1]))
        for start in range(0, len(row_block), step):
            part = slice(start, start + step)
            row = inside[0][part, :, None].expand(-1, *places).flatten(1)
            key = inside[1][part, None, :].expand(-1, *places).flatten(1)
            live[:, :, row_block[part], key_block[part]] |= mask.kept(row, key).any(dim=-1)
    return Live(sizes, live, _reach(live), mask)


def _certain(sizes: Sizes, mask: MaskOfCall) -> Live:
    """All blocks that the predicate does not rule out."""
    may = _first_look(sizes, mask)[2]
    return Live(sizes, may.contiguous(), None, mask)


Ranges = tuple[torch.Tensor, torch.Tensor]


def _first_look(sizes: Sizes, mask: MaskOfCall) -> tuple[Ranges, Ranges, torch.Tensor, torch.Tensor]:
    """The first and last rows and keys of the blocks, and what the predicate says of the blocks."""
    rows = _ranges(sizes.queries, sizes.rows, mask.math.device)
    keys = _ranges(sizes.keys, sizes.block, mask.math.device)
    if 0 in (sizes.query_blocks, sizes.key_blocks):
        nothing = torch.zeros(
            (*mask.lead, sizes.query_blocks, sizes.key_blocks), dtype=torch.bool, device=rows[0].device
        )
        return rows, keys, nothing, nothing
    may, must = mask.tiles((rows[0][:, None], rows[1][:, None]), (keys[0][None], keys[1][None]))
    return rows, keys, may, must


def _ranges(length: int, size: int, device: torch.device) -> Ranges:
    first = torch.arange(0, length, size, device=device)
    return first, (first + size).clamp(max=length) - 1


def _inside(ranges: Ranges, chosen: torch.Tensor, sampled: bool) -> torch.Tensor:
    """Positions in the chosen blocks: some at the ends and in the middle, or all; those past the end are the last."""
    first, last = ranges[0][chosen, None], ranges[1][chosen, None]
    if sampled:
        return torch.cat([first, torch.minimum(first + 1, last), (first + last) // 2, last], dim=1)
    widest = int((ranges[1] - ranges[0]).amax()) + 1 if len(ranges[0]) else 0
    return torch.minimum(first + torch.arange(widest, device=first.device), last)


def _reach(table: torch.Tensor) -> tuple[int, ...]:
    """For each block of queries, how many of the first blocks of keys hold every live one."""
    if table.shape[-1] == 0:
        return (0,) * table.shape[-2]
    count = torch.arange(1, table.shape[-1] + 1, device=table.device)
    return tuple(int(x) for x in (table.any(dim=1).any(dim=0) * count).amax(dim=-1))
