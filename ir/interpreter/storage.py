"""The meaning of numbers in few bits: how codes lie in bytes, and what number stands behind each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..diagnostics import op_error
from ..dialects.attn_storage import DequantizeOp
from ..storage import Storage
from .call import Array, Call, Handler


def unpack(stored: Array, storage: Storage, tokens: int) -> Array:
    """The codes (..., tokens, width) as int16 of a tensor of bytes (..., rows, columns); see `Storage`."""
    if not storage.packed:
        whole = stored.astype(np.int16)
        return whole if storage.signed else whole & 0xFF
    if storage.axis == "channels":
        return _unpack_last(stored, storage, storage.width)
    rows = storage.packed_size(storage.block)
    blocks = stored.reshape(*stored.shape[:-2], stored.shape[-2] // rows, rows, stored.shape[-1])
    codes = _unpack_last(blocks.swapaxes(-1, -2), storage, storage.block).swapaxes(-1, -2)
    return codes.reshape(*stored.shape[:-2], -1, stored.shape[-1])[..., :tokens, :]


def _unpack_last(stored: Array, storage: Storage, count: int) -> Array:
    """`count` codes of each last axis of bytes."""
    number, bytes_ = np.arange(count), stored.astype(np.int16) & 0xFF
    codes, first, low = np.zeros((*stored.shape[:-1], count), np.int16), 0, 0
    for part in storage.parts:
        size = storage.part_bytes(part, count)
        found = bytes_[..., first + number % size] >> (part * (number // size))
        codes |= ((found & ((1 << part) - 1)) << low).astype(np.int16)
        first, low = first + size, low + part
    return codes - np.int16(storage.bias)


def codes_at(stored: Array, storage: Storage, index: tuple[Array, Array, Array, Array]) -> Array:
    """The codes, or the floats, at positions (b, h, n, d) that broadcast to one shape."""
    b, h, n, d = index
    if not storage.packed:
        found = stored[b, h, n, d]
        if storage.kind != "int":
            return found
        return found.astype(np.int16) if storage.signed else found.astype(np.int16) & 0xFF
    along_tokens = storage.axis == "tokens"
    count, number = (storage.block, n % storage.block) if along_tokens else (storage.width, d)
    codes: Array = np.zeros((), np.int16)
    first, low = (n // storage.block * storage.packed_size(storage.block) if along_tokens else 0), 0
    for part in storage.parts:
        size = storage.part_bytes(part, count)
        place = first + number % size
        found = stored[(b, h, place, d) if along_tokens else (b, h, n, place)].astype(np.int16) & 0xFF
        codes = codes | (((found >> (part * (number // size))) & ((1 << part) - 1)) << low)
        first, low = first + size, low + part
    return codes - storage.bias


def scales_at(scale: Array, storage: Storage, index: tuple[Array, Array, Array, Array]) -> Array:
    """The scales (or zeros) of positions (b, h, n, d)."""
    b, h, n, d = index
    group = n // storage.tokens if storage.tokens else n * 0
    channel = d // storage.channels if storage.channels else d * 0
    return scale[b if scale.shape[0] > 1 else b * 0, h if scale.shape[1] > 1 else h * 0, group, channel]


def dequantize(call: Call) -> Sequence[Array]:
    """The numbers at the positions of a region, in f32 (f64 when precise)."""
    op = DequantizeOp(call.op)
    source, b, h, n, d, *scales = call.operands
    index, storage = (b, h, n, d), op.format
    _check_scales(op, storage, source, scales)
    numbers = codes_at(source, storage, index).astype(call.real)
    if scales:
        numbers = numbers * scales_at(scales[0], storage, index)
    return [numbers + scales_at(scales[1], storage, index) if len(scales) > 1 else numbers]


def _check_scales(op: DequantizeOp, storage: Storage, source: Array, scales: Sequence[Array]) -> None:
    """Fail where scales have other sizes than the tensor they belong to asks for."""
    if storage.packed and storage.axis == "tokens":
        tokens = source.shape[2] // storage.packed_size(storage.block) * storage.block
        least = tokens - storage.block + 1
    else:
        tokens = least = source.shape[2]
    groups = {storage.scale_sizes(n)[0] for n in (least, tokens)}
    for scale in scales:
        heads_fit = all(size in (1, whole) for size, whole in zip(scale.shape[:2], source.shape[:2], strict=True))
        if not heads_fit or not min(groups) <= scale.shape[2] <= max(groups) or (
            scale.shape[3] != storage.scale_sizes(1)[1]
        ):  # fmt: skip
            op_error(op.operation, f"{storage} of {source.shape} cannot have scales of {scale.shape}")


STORAGE: Mapping[str, Handler] = {"attn.dequantize": dequantize}
