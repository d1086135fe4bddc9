"""Attention as a person might write it: ALiBi and a sliding window, from first principles."""

from __future__ import annotations

import torch

WINDOW = 24


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Causal attention over the last `WINDOW` keys with a linear distance penalty per head.

    q, k, v are (batch, head, position, dimension); slopes is (head,). ALiBi: Press et al. 2022.
    """
    length = q.shape[-2]
    positions = torch.arange(length, device=q.device)
    distance = positions[:, None] - positions[None, :]
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    scores = scores - slopes[:, None, None] * distance
    visible = (distance >= 0) & (distance < WINDOW)
    return torch.softmax(scores.masked_fill(~visible, float("-inf")), dim=-1) @ v
