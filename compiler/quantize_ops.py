"""Quantising with PyTorch around kernels: tensors in few bits, and what makes them fit there better."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..ir.attributes import TensorType
from ..ir.core import Operation, Value
from ..ir.diagnostics import error
from ..ir.dialects.attn_storage import ProjectOp, QuantizeOp
from . import storage_math
from .torch_types import dtype_of_type


def quantize(op: Operation, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Codes, scale, and the zero where there is one, of x; see `QuantizeOp`."""
    quantized = QuantizeOp(op)
    return storage_math.quantize(tensors[0], quantized.format, _dtype(quantized.scale))


def subtract_mean(op: Operation, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """x (B, H, N, D) without its mean over positions, and the mean (B, H, 1, D); of no positions it is 0."""
    (x,), dtype = tensors, _dtype(op.results[1])
    mean = x.sum(2, keepdim=True, dtype=torch.promote_types(dtype, x.dtype)) / max(1, x.shape[2])
    return (x - mean).to(x.dtype), mean.to(dtype)


def project(op: Operation, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Rows of x (B, H, N, D) times the matrix of their head, in float32 at least; see `ProjectOp`."""
    (x, basis), attributes = tensors, ProjectOp(op)
    if attributes.transposed is not None:
        basis = basis.transpose(2, 3)
    if basis.shape[1] > 1:
        if basis.shape[1] * (group := attributes.group.value) != x.shape[1]:
            raise error(f"matrices of {basis.shape[1]} key heads do not fit {x.shape[1]} heads in groups of {group}")
        basis = basis.repeat_interleave(group, 1)
    wide = torch.promote_types(torch.float32, x.dtype)
    return [torch.matmul(x.to(wide), basis.to(wide)).to(_dtype(op.results[0]))]


def merge(op: Operation, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """out (B, H, M, E) and lse (B, H, M) over several sets of keys, from those over each."""
    outs, lses = tensors[::2], torch.stack(list(tensors[1::2]))
    lse = lses.logsumexp(0)
    weights = (lses - torch.where(lse == -torch.inf, 0, lse)).exp().unsqueeze(-1)
    total = torch.zeros_like(outs[0], dtype=weights.dtype)
    for out, weight in zip(outs, weights, strict=True):
        total += out * weight
    return [total.to(_dtype(op.results[0])), lse.to(_dtype(op.results[1]))]


def _dtype(value: Value) -> torch.dtype:
    assert isinstance(value.type, TensorType)
    return dtype_of_type(value.type.element)
