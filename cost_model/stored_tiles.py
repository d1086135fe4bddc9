"""What tiles of keys or values need that lie in memory as codes, beside what tiles of their numbers do."""

from __future__ import annotations

from dataclasses import dataclass

UNPACKING = 3.0
"""Instructions that make a number of a code: take its bits out, put them into a float, pack two of them."""

SCALING = 2.0
"""Instructions more where a tile's scales are not applied to scores or weights: widen, multiply and add at once."""


@dataclass(frozen=True)
class StoredTiles:
    """The codes of keys or of values, as one program reads them.

    A key's codes take `row_bytes` where they are loaded; its numbers have a `width`. They are `unpacked` in registers
    before products read them, and `scaled` there where scales are not applied elsewhere. Its own scales take
    `scale_bytes`, those that all keys of a tile share `shared_bytes`. Tiles must lie in groups of `group` keys, 0 for
    any.
    """

    row_bytes: int
    width: int
    unpacked: bool = True
    scaled: bool = False
    scale_bytes: int = 0
    shared_bytes: int = 0
    group: int = 0

    def loaded_bytes(self, keys: int) -> int:
        """What a tile of so many keys has under way: codes and scales."""
        return keys * (self.row_bytes + self.scale_bytes) + self.shared_bytes

    def numbers_bytes(self, keys: int, element_bytes: int) -> int:
        """What the numbers of a tile take on their way from registers to a product."""
        return keys * self.width * element_bytes if self.unpacked else 0

    def instructions(self, numbers: float) -> float:
        """Those that make so many numbers of their codes."""
        return numbers * (UNPACKING + SCALING * self.scaled) if self.unpacked else 0.0

    def suits(self, keys: int) -> bool:
        """Whether a tile of so many keys lies in one group."""
        return self.group == 0 or self.group % keys == 0
