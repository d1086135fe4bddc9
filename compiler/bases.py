"""Matrices that rows of q, k and v are multiplied by: rotations, subspaces, kept channels, scaled pairs of channels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import cast

import torch

from ..ir.diagnostics import error
from .schemes import Scheme

LAYOUTS = ("half", "interleaved")
ORTHONORMAL = 1e-3
"""So far the products of a basis' columns may be from 1 and 0."""


def bases(scheme: Scheme, width: int, value_width: int) -> Mapping[str, torch.Tensor]:
    """What `Quantize` takes as tensors, (1, K | 1, D, R) float64 by name, for q and k (.., D) and v (.., E).

    CompileError where the tensors of a scheme do not fit those widths.
    """
    given, found = dict(scheme.tensors), dict[str, torch.Tensor]()
    of_keys, of_values = given.get("key_basis"), given.get("value_basis")
    if of_keys is not None:
        of_keys = _checked("key_basis", of_keys, width)
    elif scheme.rotate:
        of_keys = hadamard(width)[None]
    if (scales := given.get("pair_scales")) is not None:
        scales = _checked_scales(scales, width)
        basis = torch.eye(width, dtype=torch.float64)[None] if of_keys is None else of_keys
        found["query_basis"], found["key_basis"] = scales[:, :, None] * basis, basis / scales[:, :, None]
    elif of_keys is not None:
        found["query_basis"] = found["key_basis"] = of_keys
    if of_values is not None:
        found["value_basis"] = _checked("value_basis", of_values, value_width)
    elif scheme.rotate_values:
        found["value_basis"] = hadamard(value_width)[None]
    return {name: basis[None].contiguous() for name, basis in found.items()}


def hadamard(width: int) -> torch.Tensor:
    """An orthogonal (width, width) float64 matrix: Hadamard matrices of the powers of two that make up the width."""
    blocks = list[torch.Tensor]()
    for power in (1 << bit for bit in reversed(range(width.bit_length())) if width >> bit & 1):
        block = torch.ones(1, 1, dtype=torch.float64)
        while block.shape[0] < power:
            block = torch.cat([torch.cat([block, block], 1), torch.cat([block, -block], 1)], 0)
        blocks.append(block / math.sqrt(power))
    whole, first = torch.zeros(width, width, dtype=torch.float64), 0
    for block in blocks:
        whole[first : first + block.shape[0], first : first + block.shape[0]] = block
        first += block.shape[0]
    return whole


def _checked(name: str, basis: torch.Tensor, width: int) -> torch.Tensor:
    """A given basis (K | 1, width, R) in float64; its columns must be orthonormal."""
    if basis.dim() != 3 or basis.shape[1] != width or not 1 <= basis.shape[2] <= width:
        raise error(f"'{name}' must be (key heads or 1, {width}, at most {width}), but is {tuple(basis.shape)}")
    exact = basis.detach().double()
    products = exact.transpose(1, 2) @ exact
    off = float((products - torch.eye(basis.shape[2], dtype=torch.float64, device=basis.device)).abs().max())
    if not off <= ORTHONORMAL:
        raise error(f"columns of '{name}' must be orthonormal, but their products are off by {off:.2g}")
    return exact


def _checked_scales(scales: torch.Tensor, width: int) -> torch.Tensor:
    if scales.dim() != 2 or scales.shape[1] != width:
        raise error(f"'pair_scales' must be (key heads or 1, {width}), but is {tuple(scales.shape)}")
    if not bool((torch.isfinite(scales) & (scales > 0)).all()):
        raise error("'pair_scales' must be positive and finite, but some are not")
    return scales.detach().double()


def key_basis(batches: Iterable[tuple[torch.Tensor, torch.Tensor]], rank: int) -> torch.Tensor:
    """(K, D, rank): the directions in which queries and keys of each head are largest, for a scheme's "key_basis".

    `batches` are samples of q (B, H, M, D) and k (B, K, N, D) as they enter the product, behind RoPE. What
    q · k loses is least where both lie in the kept subspace, so queries and keys count alike, each in units of its
    own size (Eigen Attention, arXiv 2408.05646). CompileError for a rank above D or samples that are not finite.
    """
    total: torch.Tensor | None = None
    for q, k in batches:
        _check_samples(q=q, k=k)
        moments = _moments(_by_key_head(q, k.shape[1])) + _moments(k.transpose(0, 1))
        total = moments if total is None else total + moments
    return _largest_directions(total, rank)


def value_basis(batches: Iterable[torch.Tensor], rank: int) -> torch.Tensor:
    """(K, E, rank): the directions in which values (B, K, N, E) of each head are largest, for "value_basis"."""
    total: torch.Tensor | None = None
    for v in batches:
        _check_samples(v=v)
        total = _moments(v.transpose(0, 1)) + (0 if total is None else total)
    return _largest_directions(total, rank)


def channel_mask(batches: Iterable[tuple[torch.Tensor, torch.Tensor]], channels: int) -> torch.Tensor:
    """(K, D, channels) of 0 and 1: the channels of each key head that scores depend on most, for "key_basis".

    Channel d counts as Σ q[d]² Σ k[d]² over the samples q (B, H, M, D) and k (B, K, N, D), as they enter the product
    (LeanK, arXiv 2508.02215, learns such a mask). `Scheme.channels` is to be the same number.
    """
    of_queries, of_keys = list[torch.Tensor](), list[torch.Tensor]()
    for q, k in batches:
        _check_samples(q=q, k=k)
        of_queries.append(_by_key_head(q, k.shape[1]).double().square().sum((1, 2)))
        of_keys.append(k.transpose(0, 1).double().square().sum((1, 2)))
    if not of_keys:
        raise error("calibration needs at least one batch, but there are none")
    weight = torch.stack(of_queries).sum(0) * torch.stack(of_keys).sum(0)
    _check_rank("channels", channels, weight.shape[1])
    kept = weight.topk(channels, dim=1).indices.sort(dim=1).values
    return torch.nn.functional.one_hot(kept, weight.shape[1]).transpose(1, 2).float().contiguous()


def pair_scales(k: torch.Tensor, layout: str = "half") -> torch.Tensor:
    """(K, D): factors for "pair_scales" that even out how large channels of keys (B, K, N, D) are.

    Both members of a pair that RoPE rotates get the same factor, so that scaling commutes with RoPE and could be
    part of the projections in front of it (FireQ, arXiv 2505.20839): √(largest |k| of the pair / geometric mean of
    that over pairs). `layout` says which channels are pairs: "half" has (d, d + D/2), "interleaved" (2 d, 2 d + 1).
    A pair without any size gets 1.
    """
    _check_samples(k=k)
    if layout not in LAYOUTS:
        raise error(f"unknown layout {layout!r}; expected {' or '.join(LAYOUTS)}")
    width = k.shape[3]
    if width % 2:
        raise error(f"pairs of channels need an even width, but it is {width}")
    largest = k.transpose(0, 1).double().abs().amax((1, 2))
    axis = 1 if layout == "half" else 2
    size = largest.reshape(-1, *((2, width // 2) if layout == "half" else (width // 2, 2))).amax(axis)
    used = size > 0
    logs = torch.where(used, size, 1).log()
    typical = logs.sum(1, keepdim=True) / used.sum(1, keepdim=True).clamp(min=1)
    factors = torch.where(used, ((logs - typical) / 2).exp(), 1)
    return torch.stack([factors, factors], axis).flatten(1).float()


def _by_key_head(q: torch.Tensor, key_heads: int) -> torch.Tensor:
    """Queries (B, H, M, D) as (K, B, group * M, D)."""
    batch, heads, rows, width = q.shape
    if heads % key_heads:
        raise error(f"query heads must be a multiple of key heads, but are {heads} and {key_heads}")
    return q.reshape(batch, key_heads, heads // key_heads * rows, width).transpose(0, 1)


def _moments(x: torch.Tensor) -> torch.Tensor:
    """Second moments (K, D, D) of rows (K, B, N, D), of trace 1."""
    rows = x.double().flatten(1, 2)
    moments = rows.transpose(1, 2) @ rows
    return moments / moments.diagonal(dim1=1, dim2=2).sum(1).clamp(min=torch.finfo(torch.float64).tiny)[:, None, None]


def _largest_directions(moments: torch.Tensor | None, rank: int) -> torch.Tensor:
    if moments is None:
        raise error("calibration needs at least one batch, but there are none")
    _check_rank("rank", rank, moments.shape[1])
    vectors = cast("torch.Tensor", torch.linalg.eigh(moments)[1])  # pyright: ignore[reportUnknownMemberType]
    return vectors[..., -rank:].flip(2).float().contiguous()


def _check_rank(name: str, rank: int, width: int) -> None:
    if not 1 <= rank <= width:
        raise error(f"{name} must be between 1 and the width {width}, but is {rank}")


def _check_samples(**samples: torch.Tensor) -> None:
    for name, x in samples.items():
        if x.dim() != 4 or not x.numel():
            raise error(
                f"samples of {name} must be (batch, heads, tokens, width) and not empty, but are {tuple(x.shape)}"
            )
        if not bool(torch.isfinite(x).all()):
            raise error(f"samples of {name} must be finite, but some numbers are not")
