"""The arithmetic of masks on tensors, on their device: many tiles, batches, heads at once, without waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..ir.core import Value
from ..passes.number_math import Number, NumberMath
from ..passes.position_forms import Atom, B, H, Linear
from ..passes.tile_predicates import TileEvaluator

Table = tuple[torch.Tensor, torch.Tensor]


@dataclass
class TensorMath(NumberMath):
    """Python integers or int64 tensors, which broadcast along (batch, head, ...).

    `captures` are the captured tensors by the region's arguments; `fixed` holds the batches (B, 1, 1, 1) and
    the heads (1, H, 1, 1); `sizes` says how many rows (M) and keys (N) there are.
    """

    captures: Mapping[Value, torch.Tensor]
    fixed: Mapping[int, torch.Tensor]
    sizes: Mapping[int, int]
    device: torch.device
    _tables: dict[tuple[Atom, int], Table | None] = field(default_factory=dict[tuple[Atom, int], Table | None])

    def least(self, x: Number, y: Number) -> Number:
        return self._extreme(torch.minimum, min, x, y)

    def greatest(self, x: Number, y: Number) -> Number:
        return self._extreme(torch.maximum, max, x, y)

    def _extreme(self, tensors: Number, numbers: Number, x: Number, y: Number) -> Number:
        if x is y:
            return x
        if isinstance(x, int) and isinstance(y, int):
            return numbers(x, y)
        return tensors(self._tensor(x), self._tensor(y))

    def _tensor(self, x: Number) -> torch.Tensor:
        return torch.full((), x, dtype=torch.int64, device=self.device) if isinstance(x, int) else x

    def select(self, condition: Number, x: Number, y: Number) -> Number:
        if isinstance(condition, bool):
            return x if condition else y
        return torch.where(condition, self._tensor(x), self._tensor(y))

    def load(self, atom: Atom, indices: Sequence[Number]) -> Number | None:
        source = self._source(atom)
        if source is None:
            return None
        if 0 in source.shape:
            return None
        places = tuple(
            max(0, min(x, size - 1)) if isinstance(x, int) else x.clamp(0, size - 1)
            for x, size in zip(indices, source.shape, strict=True)
        )
        return source[places].to(torch.int64)

    def extremes(self, atom: Atom, position: int, first: Number, last: Number) -> tuple[Number, Number] | None:
        key = (atom, position)
        if key not in self._tables:
            self._tables[key] = self._build(atom, position)
        tables = self._tables[key]
        if tables is None:
            return None
        level = (last - first + 1).to(torch.float64).log2().floor().to(torch.int64)
        other = last + 1 - (torch.ones_like(level) << level)
        batches, heads = (torch.arange(n, device=self.device) for n in tables[0].shape[1:3])
        place = (batches.reshape(-1, 1, 1, 1), heads.reshape(1, -1, 1, 1))
        least, greatest = tables
        low = torch.minimum(least[level, *place, first], least[level, *place, other])
        return low, torch.maximum(greatest[level, *place, first], greatest[level, *place, other])

    def _source(self, atom: Atom) -> torch.Tensor | None:
        assert atom.load is not None
        return self.captures.get(atom.load.source)

    def _build(self, atom: Atom, position: int) -> Table | None:
        """The extremes of 1, 2, 4, ... elements from each on, along (level, batch, head, position)."""
        if self._source(atom) is None:
            return None
        every = torch.arange(self.sizes[position], device=self.device)
        positions = {**{p: (x, x) for p, x in self.fixed.items()}, position: (every, every)}
        loaded = TileEvaluator(self, positions).interval(Linear(((atom, 1),)))
        if loaded.low is None or loaded.low is not loaded.high:
            return None
        found = self._tensor(loaded.low)
        found = found.reshape(*(1,) * (4 - found.ndim), *found.shape)
        least = greatest = found.expand(*found.shape[:3], len(every)).squeeze(2)
        lows, highs, width = [least], [greatest], 1
        while 2 * width <= len(every):
            least = torch.minimum(least, _moved(least, width))
            greatest = torch.maximum(greatest, _moved(greatest, width))
            lows.append(least)
            highs.append(greatest)
            width *= 2
        return torch.stack(lows), torch.stack(highs)


def _moved(x: torch.Tensor, width: int) -> torch.Tensor:
    """x[..., i + width] at i; the last elements stay."""
    return torch.cat([x[..., width:], x[..., x.shape[-1] - width :]], dim=-1)


def batches_and_heads(batch: int, heads: int, device: torch.device) -> dict[int, torch.Tensor]:
    """The positions B and H, each along an axis of its own."""
    return {
        B: torch.arange(batch, device=device).reshape(-1, 1, 1, 1),
        H: torch.arange(heads, device=device).reshape(1, -1, 1, 1),
    }
