"""What a prediction is about: one call of one attention, and the tiles that a schedule visits in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..ir.diagnostics import error
from .resources import AttentionShape


@dataclass(frozen=True)
class Sizes:
    """The sizes of one call: batch, query heads, key heads, queries and keys."""

    batch: int = 1
    heads: int = 8
    key_heads: int = 8
    queries: int = 1024
    keys: int = 1024

    @staticmethod
    def parse(text: str) -> Sizes:
        """From `batch x heads x key heads x queries x keys`, as `str` writes them: "1x32x8x1x4096"."""
        parts = text.split("x")
        if len(parts) != len(Sizes.__dataclass_fields__) or not all(p.isdecimal() for p in parts):
            raise error(f"sizes must be BATCHxHEADSxKEY_HEADSxQUERIESxKEYS, such as 1x32x8x1x4096, but are '{text}'")
        return Sizes(*map(int, parts))

    def __str__(self) -> str:
        return "x".join(map(str, (self.batch, self.heads, self.key_heads, self.queries, self.keys)))

    @property
    def group(self) -> int:
        """Query heads for each key head."""
        return self.heads // max(1, self.key_heads)

    @property
    def bucket(self) -> Sizes:
        """The sizes that stand for these in plans: lengths and batch times heads rounded up to powers of two.

        Few queries stay as they are, since tiles are made for them.
        """
        queries = self.queries if self.queries <= FEW_QUERIES else _power_of_two(self.queries)
        heads = _power_of_two(self.batch * self.key_heads)
        return Sizes(1, heads * self.group, heads, queries, _power_of_two(self.keys))


FEW_QUERIES = 8
"""Queries up to which each number has a bucket of its own."""


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


@dataclass(frozen=True)
class CaptureLoad:
    """A load of an element of captured tensor number `capture` in a "score", "weight" or "mask" region.

    `positions` are the letters of what the element varies with: b, h, m, n. It takes `bytes` of memory.
    """

    region: str
    capture: int
    positions: str
    bytes: int


@dataclass(frozen=True)
class Problem:
    """One call of one attention, for the cost model.

    `element` is the type of out ("f32"); `shape` has the widths, and what an element loads. `score_ops` and
    `mask_ops` count the operations of the regions for one score by name ("math.exp2"), `row_ops` those of the regions
    that read elements of q, k, v and out. `mask` is the kind of its plan: "none", "bounds", "pieces", "tiles" or
    "opaque". `widths` are those of keys and of values as they lie in memory, `loads` the elements of captured tensors
    that regions read. `changes_output` says that a region does; of the `largest` score alone nothing is summed.
    `tables` are the loads of a mask whose extremes over tiles a kernel before the main one finds out.
    """

    sizes: Sizes
    shape: AttentionShape
    element: str = "f32"
    mask: str = "none"
    score_ops: Mapping[str, int] = field(default_factory=dict[str, int])
    mask_ops: Mapping[str, int] = field(default_factory=dict[str, int])
    row_ops: Mapping[str, int] = field(default_factory=dict[str, int])
    has_lse: bool = False
    widths: tuple[int, int] = (0, 0)
    loads: tuple[CaptureLoad, ...] = ()
    changes_output: bool = False
    largest: bool = False
    tables: tuple[CaptureLoad, ...] = ()


@dataclass(frozen=True)
class Visits:
    """What the programs of one call visit, all batches and heads together.

    `programs` are tiles of rows, before keys are split. `full` tiles have `block_n` keys and no test of the mask,
    `cut` tiles have `edge` keys and are tested. `looked` tiles were looked at to find out which they are. `heaviest`
    is the largest number of keys that one program visits. `exact` says that every tile was counted; else some rows
    were tried.

    Keys are split over `splits` programs for each tile of rows. Of the keys in cut tiles, `cut_keys` exist;
    `full_pairs` and `cut_pairs` count pairs of a row and a key in visited tiles that both exist. `steps` are turns of
    the loops. On CPUs `tested` tiles of `tested_keys` and `tested_pairs` were asked whether the mask keeps any score.
    Lists have `list_rows` entries, and all programs together go through `steps_listed` numbers of tiles.
    """

    programs: int
    full: float
    cut: float
    looked: float = 0.0
    heaviest: float = 0.0
    exact: bool = True
    splits: int = 1
    cut_keys: float = 0.0
    full_pairs: float = 0.0
    cut_pairs: float = 0.0
    steps: float = 0.0
    tested: float = 0.0
    tested_keys: float = 0.0
    tested_pairs: float = 0.0
    list_rows: int = 0
    steps_listed: float = 0.0
