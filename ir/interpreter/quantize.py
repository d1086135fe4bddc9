"""The meaning of operations that put tensors in few bits, and of those that make them fit there better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..attributes import Type
from ..dialects.attn_storage import ProjectOp, QuantizeOp
from ..storage import FLOATS, Storage
from .call import Array, Call, Handler
from .rounding import FLOATS_OF_8_BITS, round_array

LARGEST: Mapping[str, float] = {
    **{kind: limits[2] for kind, limits in FLOATS_OF_8_BITS.items()},
    "f16": float(np.finfo(np.float16).max),
    "bf16": float.fromhex("0x1.fep127"),
    "f32": float(np.finfo(np.float32).max),
}
"""The largest number of each kind of float."""


def quantize(call: Call) -> Sequence[Array]:
    """Codes, scales and zeros as `QuantizeOp` defines them, in float32 (float64 when precise)."""
    op = QuantizeOp(call.op)
    storage, type_ = op.format, op.scale.type
    codes, *scales = quantized(call.operands[0].astype(call.real), storage, type_, call.precise)
    return [pack(codes, storage) if storage.kind == "int" else codes, *scales]


def quantized(x: Array, storage: Storage, scale_type: Type, precise: bool = False) -> list[Array]:
    """Codes that are not packed yet, scale, and zero where there is one, of x (B, H, N, width)."""
    tokens, width = x.shape[2:]
    groups, channels = storage.scale_sizes(tokens)
    size, breadth = storage.tokens or tokens, storage.channels or width
    heads = x.shape[:2] if storage.heads else (1, 1)
    scale = np.zeros((*heads, groups, channels), x.dtype)
    zero, codes = np.zeros_like(scale), np.zeros_like(x)
    for g, c in np.ndindex(groups, channels):
        place = (..., slice(g * size, (g + 1) * size), slice(c * breadth, (c + 1) * breadth))
        part = x[place]
        if not part.size:
            continue
        step, start = _range(part, storage, scale_type, precise)
        usable = np.isfinite(step) & (step != 0)
        units = (part - start) / np.where(usable, step, x.dtype.type(np.inf))
        codes[place] = _codes(np.where(np.isnan(units), 0, units), storage)
        scale[:, :, g, c], zero[:, :, g, c] = step[:, :, 0, 0], start[:, :, 0, 0]
    return [codes, scale, zero] if storage.zero else [codes, scale]


def _range(part: Array, storage: Storage, scale_type: Type, precise: bool) -> tuple[Array, Array]:
    """Scale and zero of one group of every head, rounded to their type."""
    axes, real = (2, 3) if storage.heads else (0, 1, 2, 3), part.dtype.type
    largest, least = part.max(axis=axes, keepdims=True), part.min(axis=axes, keepdims=True)

    def rounded(numbers: Array) -> Array:
        return round_array(numbers, scale_type, precise).astype(part.dtype)

    if storage.zero:
        step = rounded((largest - least) / real(storage.greatest - storage.least))
        return step, rounded(least - real(storage.least) * step)
    if storage.kind == "int" and not storage.signed:
        size: Array = np.maximum(largest, real(0))
        size[least == -np.inf] = np.inf
    else:
        size = np.maximum(largest, -least)
    step: Array = size / real(storage.greatest if storage.kind == "int" else LARGEST[storage.kind])
    if storage.kind != "int" and storage.bits > 8:
        step = np.maximum(step, real(1))
    return rounded(step), np.zeros(step.shape, real)


def _codes(units: Array, storage: Storage) -> Array:
    """Numbers in units of their scale as codes in range."""
    if storage.kind == "int":
        return np.clip(np.rint(units), storage.least, storage.greatest)
    largest = LARGEST[storage.kind]
    return round_array(np.clip(units, -largest, largest), FLOATS[storage.kind]).astype(units.dtype)


def pack(codes: Array, storage: Storage) -> Array:
    """The bytes of codes (..., tokens, width), as int8; see `Storage`."""
    whole = codes.astype(np.int64)
    if not storage.packed:
        return (whole & 0xFF).astype(np.uint8).view(np.int8)
    biased = whole + storage.bias
    if storage.axis == "channels":
        return _packed_last(biased, storage)
    tokens, block = codes.shape[-2], storage.block
    blocks = -(-tokens // block)
    full = np.zeros((*codes.shape[:-2], blocks * block, codes.shape[-1]), np.int64)
    full[..., :tokens, :] = biased
    split = full.reshape(*codes.shape[:-2], blocks, block, codes.shape[-1])
    packed = _packed_last(split.swapaxes(-1, -2), storage).swapaxes(-1, -2)
    return packed.reshape(*codes.shape[:-2], storage.stored_tokens(tokens), codes.shape[-1])


def _packed_last(codes: Array, storage: Storage) -> Array:
    """The bytes of each last axis of unsigned codes."""
    count, low = codes.shape[-1], 0
    packed, first = np.zeros((*codes.shape[:-1], storage.packed_size(count)), np.int64), 0
    for part in storage.parts:
        size = storage.part_bytes(part, count)
        for number in range(count):
            bits = (codes[..., number] >> low) & ((1 << part) - 1)
            packed[..., first + number % size] |= bits << (part * (number // size))
        first, low = first + size, low + part
    return packed.astype(np.uint8).view(np.int8)


def subtract_mean(call: Call) -> Sequence[Array]:
    """x without its mean over positions, and the mean; of no positions it is 0."""
    x = call.operands[0].astype(call.real)
    tokens = x.shape[2]
    mean = x.sum(axis=2, keepdims=True, dtype=np.float64) / max(1, tokens)
    kept = round_array(mean, call.op.results[1].type, call.precise).astype(call.real)
    return [x - kept, kept]


def project(call: Call) -> Sequence[Array]:
    """Rows times the matrix of their head."""
    op, (x, basis) = ProjectOp(call.op), (data.astype(call.real) for data in call.operands)
    if op.transposed is not None:
        basis = basis.swapaxes(2, 3)
    if basis.shape[1] > 1:
        basis = np.repeat(basis, op.group.value, axis=1)
    return [np.matmul(x, basis)]


def merge(call: Call) -> Sequence[Array]:
    """out and lse over all sets of keys."""
    outs, lses = call.operands[::2], [part.astype(call.real) for part in call.operands[1::2]]
    largest: Array = np.max(lses, axis=0)
    shift: Array = np.where(largest == -np.inf, call.real(0), largest)
    weights = [np.exp(part - shift) for part in lses]
    total: Array = np.sum(weights, axis=0)
    lse: Array = np.log(total) + shift
    safe = np.where(total == 0, call.real(1), total)
    out: Array = np.sum([o.astype(call.real) * w[..., None] for o, w in zip(outs, weights, strict=True)], axis=0)
    return [out / safe[..., None], lse]


QUANTIZE: Mapping[str, Handler] = {
    "attn.quantize": quantize,
    "attn.subtract_mean": subtract_mean,
    "attn.project": project,
    "attn.merge": merge,
}
