"""A cache in few bits as its definition says, group by group in float64: what quantised caches are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from attir.compiler.schemes import Scheme, scheme
from attir.ir.attributes import f32
from attir.ir.interpreter.quantize import quantized
from attir.ir.storage import Storage


def stored_and_read(x: torch.Tensor, template: Storage) -> torch.Tensor:
    """x (B, H, N, width) in float64 as it is after it was stored, with scales that are not rounded."""
    width = x.shape[3]
    storage = replace(template, width=width, channels=min(template.channels, width))
    codes, *scales = quantized(x.numpy(), storage, f32, precise=True)
    group, breadth = storage.tokens, storage.channels or width
    spread = [np.repeat(np.repeat(s, group, 2), breadth, 3)[:, :, : x.shape[2], :width] for s in scales]
    return torch.as_tensor(codes * spread[0] + (spread[1] if storage.zero else 0.0))


@dataclass
class SimulatedCache:
    """Keeps each number as it is read; groups of tokens get into the next storage when all of them are old enough."""

    name: str
    sinks: int = 0
    recent: int = 0
    ages: Mapping[int, str] = field(default_factory=dict[int, str])
    tensors: list[torch.Tensor] = field(default_factory=list[torch.Tensor])
    level: dict[int, int] = field(default_factory=dict[int, int])

    def append(self, k: torch.Tensor, v: torch.Tensor) -> None:
        new = [k.double(), v.double()]
        self.tensors = [torch.cat(pair, 2) for pair in zip(self.tensors, new, strict=True)] if self.tensors else new
        schemes = [(max(0, self.recent), scheme(self.name))]
        schemes += [(max(age, self.recent), scheme(name)) for age, name in sorted(self.ages.items())]
        size = max(storage.tokens for _, s in schemes for storage in (s.key, s.value) if storage is not None)
        behind = self.tensors[0].shape[2] - self.sinks
        for group in range(max(0, behind // size)):
            youngest = behind - (group + 1) * size
            wanted = sum(youngest >= age for age, _ in schemes)
            if wanted > self.level.get(group, 0):
                self.level[group] = wanted
                first = self.sinks + group * size
                self._store(first, first + size, schemes[wanted - 1][1])

    def _store(self, first: int, last: int, chosen: Scheme) -> None:
        for x, storage in zip(self.tensors, (chosen.key, chosen.value), strict=True):
            assert storage is not None
            x[:, :, first:last] = stored_and_read(x[:, :, first:last].clone(), storage)

    def update(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append, and all keys and values; an empty cache gives what it was given."""
        empty = not self.tensors or not self.tensors[0].shape[2]
        self.append(k, v)
        return (k.double(), v.double()) if empty else (self.tensors[0].clone(), self.tensors[1].clone())
