"""A decoder layer as Llama has it, for the time of a whole model's part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class LayerSize:
    """Tokens of the one sequence, heads, and the width of each."""

    length: int = 4096
    heads: int = 8
    width: int = 128

    @property
    def title(self) -> str:
        return f"layer of {self.heads} heads of {self.width} S{self.length}"


class Layer(nn.Module):
    """Norm, attention with rotary positions, norm, gated MLP; (batch, length, heads * width) in and out."""

    def __init__(self, sizes: LayerSize, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads, self.width = sizes.heads, sizes.width
        size = self.heads * self.width
        self.first_norm, self.second_norm = nn.RMSNorm(size), nn.RMSNorm(size)
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.out = nn.Linear(size, size, bias=False)
        self.up = nn.Linear(size, 6 * size, bias=False)
        self.down = nn.Linear(3 * size, size, bias=False)
        self.to(device=device, dtype=dtype)

    def forward(self, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        batch, length, size = x.shape
        parts = self.qkv(self.first_norm(x)).view(batch, length, 3, self.heads, self.width)
        q, k, v = (parts[:, :, i].transpose(1, 2) for i in range(3))
        q, k = (y * cosine + rotated(y) * sine for y in (q, k))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, size))
        gate, up = self.up(self.second_norm(x)).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)


def rotated(x: torch.Tensor) -> torch.Tensor:
    """The halves of the last axis change places, the one that comes first negated."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def layer_inputs(size: LayerSize, device: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """x (1, length, heads * width), and cosines and sines (length, width)."""
    length, heads, width = size.length, size.heads, size.width
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, device=device) / width)
    angles = torch.arange(length, device=device)[:, None] * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    x = torch.randn(1, length, heads * width, device=device, dtype=dtype)
    return x, angles.cos().to(dtype), angles.sin().to(dtype)
