"""What the planner for GPUs must know of q, k and v in few bits, and which of them a device has no form for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..cost_model.devices import Device
from ..cost_model.resources import padded_width
from ..cost_model.stored_tiles import StoredTiles
from ..ir.attributes import i8, is_float8
from ..ir.diagnostics import op_error
from ..ir.dialects.attn import AttentionOp
from ..ir.storage import BYTE, Storage
from .head_pieces import HeadPieces, plain_storage

SCALE_BYTES = 4
SOFTWARE_FLOAT8 = "f8E5M2"
"""The kind of 8-bit floats that every GPU reads: the upper half of f16."""


@dataclass(frozen=True)
class StoredOperands:
    """The storages of q, k and v that are read as tiles of codes; None for what is not."""

    query: Storage | None
    key: Storage | None
    value: Storage | None

    @staticmethod
    def of(attention: AttentionOp) -> StoredOperands:
        query, key, value = (plain_storage(attention, name) for name in ("query", "key", "value"))
        return StoredOperands(query, key, value)

    @property
    def in_words(self) -> str:
        """Which operands are codes; empty where none is."""
        stored = {"q": self.query, "k": self.key, "v": self.value}
        return ", ".join(f"{name} is stored as {storage}" for name, storage in stored.items() if storage is not None)

    @property
    def products_of_codes(self) -> str:
        """The elements of both factors of q kᵀ where those are codes, "i8" or "f8"; else empty."""
        query, key = self.query, self.key
        if query is None or key is None or _several_scales(query) or _several_scales(key):
            return ""
        if query.element == key.element == i8 and all(map(lies_as_read, (query, key))):
            return "i8"
        return "f8" if query.element == key.element and is_float8(key.element) else ""

    def key_tiles(self, pieces: HeadPieces) -> StoredTiles | None:
        if self.key is None:
            return None
        outside = not _several_scales(self.key)
        return _tiles(self.key, pieces.keys, scaled=not outside, unpacked=not self.products_of_codes)

    def value_tiles(self, pieces: HeadPieces) -> StoredTiles | None:
        if self.value is None or not pieces.values:
            return None
        outside = self.value.tokens == 0 and not self.value.zero
        return _tiles(self.value, pieces.values, scaled=not outside, unpacked=not self.float8_values)

    @property
    def float8_values(self) -> bool:
        """Whether weights of 8 bits multiply values as they are stored."""
        value = self.value
        return value is not None and self.products_of_codes == "f8" and is_float8(value.element) and value.tokens == 0

    def check(self, attention: AttentionOp, device: Device) -> None:
        """Fail where a device has no form for what is stored, or for the product of codes."""
        for name, storage in (("query", self.query), ("key", self.key), ("value", self.value)):
            kind = "" if storage is None else storage.kind
            if is_float8_kind(kind) and kind != SOFTWARE_FLOAT8 and "f8" not in device.elements:
                op_error(
                    attention.operation,
                    f"'{name}' is stored as {storage}, but {device.name} has no 8-bit floats of that kind; expected "
                    f"integers or {SOFTWARE_FLOAT8}",
                )
        if (element := self.products_of_codes) and element not in device.elements:
            op_error(
                attention.operation,
                f"q and k are stored as {self.query} and {self.key}, but {device.name} has no tensor cores for "
                f"products of {element}; expected {', '.join(device.elements)}",
            )


def values_by_column(attention: AttentionOp) -> bool:
    """Whether values are 8-bit floats that enter a product as they are; tensor cores take these as columns alone."""
    if is_float8(attention.shapes[0].element):
        return True
    own_weights = attention.weight.empty and attention.empty_score is None
    return own_weights and StoredOperands.of(attention).float8_values


def lies_as_read(storage: Storage) -> bool:
    """Whether tiles are read as they lie in memory: signed bytes, and floats."""
    return storage.kind != "int" or (storage.bits == BYTE and storage.signed)


def is_float8_kind(kind: str) -> bool:
    return kind.startswith("f8")


def _several_scales(storage: Storage) -> bool:
    """Whether numbers of one token differ in more than their codes, so that scores cannot be scaled instead."""
    return storage.zero or 0 < storage.channels < storage.width


def _tiles(storage: Storage, pieces: Sequence[int], *, scaled: bool, unpacked: bool) -> StoredTiles:
    numbers, bytes_ = 1 + storage.zero, 0 if storage.kind == "int" else sum(pieces) * storage.element_bits // BYTE
    for part in storage.parts if storage.kind == "int" else ():
        size = storage.part_bytes(part, storage.width)
        planes = all(piece <= size and size % piece == 0 for piece in pieces)
        # Channels that share a byte with others of their tile have it loaded once each.
        bytes_ += size if planes else sum(pieces)
    groups = storage.scale_sizes(1)[1]
    differ = 0 < storage.channels < storage.width
    spread = differ and any(piece > storage.channels for piece in pieces)
    # Each piece loads its own, though some may be those of its neighbour.
    own = numbers * SCALE_BYTES * (padded_width(storage.width) if spread else max(groups, len(pieces)))
    shared = storage.tokens != 1
    return StoredTiles(
        bytes_, sum(pieces), unpacked, scaled,
        0 if shared else own, own if shared else 0,
        storage.tokens if storage.tokens > 1 else 0,
    )  # fmt: skip
