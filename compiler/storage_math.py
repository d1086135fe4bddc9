"""Tensors in few bits with PyTorch, on any device: `Storage` as functions. Knows no operation and no kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch.nn.functional import pad as pad_ends

from ..ir.diagnostics import error
from ..ir.storage import Storage

KINDS: Mapping[str, torch.dtype] = {
    "int": torch.int8, "f8E4M3FN": torch.float8_e4m3fn, "f8E5M2": torch.float8_e5m2, "f16": torch.float16,
    "bf16": torch.bfloat16, "f32": torch.float32,
}  # fmt: skip
"""The dtype of a stored tensor by the kind of its numbers."""

NUMBERS_AT_ONCE = 1 << 18
"""How many numbers a processor's cache holds through the steps of quantising them."""


def pack(codes: torch.Tensor, storage: Storage) -> torch.Tensor:
    """The stored int8 tensor of whole-number `codes` (B, H, N, width), of any integer type; see `Storage`.

    Codes out of range keep their lowest bits. Rows that fill up the last block along tokens hold zero bits.
    """
    _check_width("codes", codes, storage.width)
    if not storage.packed:
        return codes.to(torch.uint8).view(torch.int8)
    bits = (codes + storage.bias).to(torch.uint8)
    if storage.axis == "channels":
        return _pack_axis(bits, storage, 3).view(torch.int8)
    batch, heads, tokens, width = codes.shape
    blocks = -(-tokens // storage.block)
    full = pad_ends(bits, (0, 0, 0, blocks * storage.block - tokens))
    packed = _pack_axis(full.reshape(batch, heads, blocks, storage.block, width), storage, 3)
    return packed.reshape(batch, heads, storage.stored_tokens(tokens), width).view(torch.int8)


def unpack(stored: torch.Tensor, storage: Storage, tokens: int | None = None) -> torch.Tensor:
    """The codes (B, H, N, width) of a stored integer tensor, int16; `tokens` cuts the last block along tokens."""
    _check_width("stored", stored, storage.stored_width)
    if not storage.packed:
        whole = stored if storage.signed else stored.view(torch.uint8)
        return whole[:, :, :tokens].to(torch.int16)
    raw = stored.view(torch.uint8)
    if storage.axis == "channels":
        return _unpack_axis(raw[:, :, :tokens], storage, 3, storage.width).to(torch.int16) - storage.bias
    batch, heads, rows, width = stored.shape
    size = storage.packed_size(storage.block)
    if rows % size:
        raise error(f"{storage} must have blocks of {size} rows of bytes, but has {rows} rows")
    codes = _unpack_axis(raw.reshape(batch, heads, rows // size, size, width), storage, 3, storage.block)
    codes = codes.reshape(batch, heads, rows // size * storage.block, width)
    return codes[:, :, :tokens].to(torch.int16) - storage.bias


def quantize(x: torch.Tensor, storage: Storage, scale_dtype: torch.dtype | None = None) -> tuple[torch.Tensor, ...]:
    """(codes, scale), and the zeros where the storage has them, of x (B, H, N, width); `QuantizeOp` has the rule.

    Scales and zeros are (B | 1, H | 1, G, C) in `scale_dtype`, float32 unless given. All is computed in float32, or
    in float64 if x is.
    """
    _check_width("x", x, storage.width)
    batch, heads, tokens, width = x.shape
    if not x.is_cuda and storage.heads and heads > 1 and batch * tokens * width and x.numel() > NUMBERS_AT_ONCE:
        step = max(1, NUMBERS_AT_ONCE // (batch * tokens * width))
        parts = [_quantize(x[:, i : i + step], storage, scale_dtype) for i in range(0, heads, step)]
        return tuple(torch.cat(same, 1) for same in zip(*parts, strict=True))
    return _quantize(x, storage, scale_dtype)


def _quantize(x: torch.Tensor, storage: Storage, scale_dtype: torch.dtype | None) -> tuple[torch.Tensor, ...]:
    wide, dtype = (x if x.dtype == torch.float64 else x.float()), scale_dtype or torch.float32
    grouped = _grouped(wide, storage)
    scale, zeros = _scales(grouped, storage, dtype)
    reals = [t.to(wide.dtype)[:, :, :, None, :, None] for t in (scale, *zeros)]
    numbers = grouped - reals[1] if zeros else grouped
    # a group whose scale says nothing, 0, inf or nan, has codes 0
    numbers = numbers / torch.where(torch.isfinite(reals[0]) & (reals[0] != 0), reals[0], math.inf)
    numbers = numbers.nan_to_num_(0, math.inf, -math.inf).flatten(4)[..., : storage.width].flatten(2, 3)
    codes = _codes(numbers[:, :, : x.shape[2]], storage)
    return (pack(codes, storage) if storage.kind == "int" else codes, scale, *zeros)


def dequantize(
    stored: torch.Tensor,
    storage: Storage,
    *scales: torch.Tensor,
    tokens: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """The numbers (B, H, N, width) in `dtype` behind a stored tensor: code * scale + zero, computed in float32.

    `scales` are the scale and, where the storage has one, the zero; none for a float without a scale.
    """
    codes = unpack(stored, storage, tokens) if storage.kind == "int" else stored[:, :, :tokens]
    _check_width("stored", codes, storage.width)
    real = torch.float64 if dtype == torch.float64 else torch.float32
    numbers = codes.to(real)
    if scales:
        numbers *= spread(scales[0].to(real), storage, numbers.shape[2])
    if len(scales) > 1:
        numbers += spread(scales[1].to(real), storage, numbers.shape[2])
    return numbers.to(dtype)


def spread(scales: torch.Tensor, storage: Storage, tokens: int) -> torch.Tensor:
    """Scales (..., G, C) as a tensor that broadcasts to (..., tokens, width)."""
    wanted = storage.scale_sizes(tokens)
    if tuple(scales.shape[2:]) != wanted:
        raise error(f"{storage} of {tokens} tokens must have scales (..., {wanted[0]}, {wanted[1]}), but has "
                    f"{tuple(scales.shape)}")  # fmt: skip
    if storage.tokens > 1 and scales.shape[2] > 1:
        scales = scales.repeat_interleave(storage.tokens, 2)[:, :, :tokens]
    if storage.channels > 1 and scales.shape[3] > 1:
        scales = scales.repeat_interleave(storage.channels, 3)[..., : storage.width]
    return scales


def _pack_axis(bits: torch.Tensor, storage: Storage, axis: int) -> torch.Tensor:
    """Bytes of unsigned codes along an axis: those of each part, in which neighbours lie in neighbouring bytes."""
    count, low, parts = bits.shape[axis], 0, list[torch.Tensor]()
    for part in storage.parts:
        size = storage.part_bytes(part, count)
        found = (bits >> low) & ((1 << part) - 1)
        packed = found.narrow(axis, 0, size).clone()
        for first in range(size, count, size or 1):
            slot = found.narrow(axis, first, min(size, count - first))
            packed.narrow(axis, 0, slot.shape[axis]).bitwise_or_(slot << (part * (first // size)))
        parts.append(packed)
        low += part
    return torch.cat(parts, axis)


def _unpack_axis(raw: torch.Tensor, storage: Storage, axis: int, count: int) -> torch.Tensor:
    """`count` unsigned codes from bytes along an axis."""
    codes, first, low = None, 0, 0
    for part in storage.parts:
        size = storage.part_bytes(part, count)
        found = raw.narrow(axis, first, size)
        slots = [(found >> shift) & ((1 << part) - 1) for shift in range(0, 8, part)]
        numbers = torch.cat(slots, axis).narrow(axis, 0, count) << low
        codes = numbers if codes is None else codes | numbers
        first, low = first + size, low + part
    assert codes is not None
    return codes


def _grouped(x: torch.Tensor, storage: Storage) -> torch.Tensor:
    """x as (B, H, groups of tokens, tokens of one, groups of channels, channels of one), the last of each repeated."""
    batch, heads, tokens, width = x.shape
    groups, channels = storage.scale_sizes(tokens)
    size, breadth = storage.tokens or tokens, storage.channels or width
    if tokens and tokens != groups * size:
        x = torch.cat([x, x[:, :, -1:].expand(-1, -1, groups * size - tokens, -1)], 2)
    if width != channels * breadth:
        x = torch.cat([x, x[..., -1:].expand(-1, -1, -1, channels * breadth - width)], 3)
    return x.reshape(batch, heads, groups, size, channels, breadth)


def _scales(
    grouped: torch.Tensor, storage: Storage, dtype: torch.dtype
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """The scale of each group, and its zero if there is one, as `QuantizeOp` defines them."""
    batch, heads, groups, _, channels, _ = grouped.shape
    if not grouped.numel():
        shape = (batch, heads, groups, channels) if storage.heads else (1, 1, groups, channels)
        nothing = grouped.new_zeros(shape, dtype=dtype)
        return nothing, (nothing,) * storage.zero
    axes = (3, 5) if storage.heads else (0, 1, 3, 5)
    largest, least = grouped, grouped
    for axis in (a for a in reversed(axes) if grouped.shape[a] > 1):
        largest, least = largest.amax(axis, keepdim=True), least.amin(axis, keepdim=True)
    largest, least = largest.squeeze(5).squeeze(3), least.squeeze(5).squeeze(3)
    if storage.zero:
        scale = ((largest - least) / (storage.greatest - storage.least)).to(dtype)
        return scale, ((least - storage.least * scale.to(least.dtype)).to(dtype),)
    if storage.kind == "int" and not storage.signed:
        # minus infinity would go unseen
        size = torch.where(least == -math.inf, math.inf, largest.clamp(min=0))
    else:
        size = torch.maximum(largest, -least)
    scale = size / largest_code(storage)
    return (scale if storage.kind == "int" or storage.bits == 8 else scale.clamp(min=1)).to(dtype), ()


def largest_code(storage: Storage) -> float:
    """What the largest |x| of a group becomes, where there is no zero."""
    return storage.greatest if storage.kind == "int" else torch.finfo(KINDS[storage.kind]).max


def _codes(numbers: torch.Tensor, storage: Storage) -> torch.Tensor:
    """Numbers in units of their scale as codes in range, integers in one byte each."""
    if storage.kind != "int":
        largest = largest_code(storage)
        return numbers.clamp(-largest, largest).to(KINDS[storage.kind])
    whole = numbers.round_().clamp_(storage.least, storage.greatest)
    return whole.to(torch.int8 if storage.signed else torch.uint8)


def _check_width(name: str, x: torch.Tensor, width: int) -> None:
    if x.dim() != 4 or x.shape[3] != width:
        raise error(f"{name} must be (batch, heads, tokens, {width}), but is {tuple(x.shape)}")
