"""How a kernel finds its tensors: the layout of the one block of numbers that is its argument."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.attributes import TensorType
from ...ir.core import Value
from .values import View
from .writer import POINTER, Ssa, Writer

COUNTER_SLOTS = 1
"""What lies before the tensors in a kernel's arguments: the work counter."""


def tensor_views(w: Writer, tensors: Sequence[Value], unit_strides: bool) -> list[View]:
    """The kernel's arguments: an address, sizes and strides for each tensor, one after the other.

    With `unit_strides` the last axis of those that are read or written in tiles has stride 1.
    """
    views: list[View] = []
    slot = COUNTER_SLOTS
    arguments = Ssa("%arguments", POINTER)

    def number(at: int, name: str) -> Ssa:
        return w.load(w.at(arguments, at, "i64"), "i64", hint=name)

    for tensor in tensors:
        type_, name = tensor.type, tensor.name_hint or "tensor"
        assert isinstance(type_, TensorType)
        rank = type_.rank
        address = number(slot, f"{name}_address")
        pointer = w.op(f"llvm.inttoptr {address.name} : i64 to {POINTER}", POINTER, name)
        sizes = [
            w.index(d) if isinstance(d, int) else number(slot + 1 + i, f"{name}_size{i}")
            for i, d in enumerate(type_.shape)
        ]
        strides = [number(slot + 1 + rank + i, f"{name}_stride{i}") for i in range(rank)]
        if unit_strides and rank > 1 and in_tiles(tensor):
            strides[-1] = w.index(1)
        views.append(View(pointer, str(type_.element), tuple(sizes), tuple(strides)))
        slot += 1 + 2 * rank
    return views


def in_tiles(value: Value) -> bool:
    """Whether a tensor is read or written in tiles, not element by element."""
    return any(
        user.name in ("tile.load", "tile.load_codes", "tile.store")
        or (user.name in ("tile.slice", "tile.group_rows") and in_tiles(user.result))
        for user in value.users
    )
