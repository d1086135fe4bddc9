"""Attention problems to measure: families that differ in what kernels do, each at several sizes; always the same ones.

Which families no model is trained on stands in `cost_model/families.py`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from ..cost_model.dataset import CaseFields
from ..cost_model.families import DECODE, FEW, PREFILL, Family
from ..cost_model.problem import Sizes
from ..ir.attributes import FloatType
from .attention_cases import Captures, Case, Shape

T = TypeVar("T")

REGIME_DECK = (*(PREFILL,) * 11, *(FEW,) * 3, *(DECODE,) * 6)
DTYPE_DECK = (*("f32",) * 4, *("f16",) * 2, *("bf16",) * 2)
WIDTH_DECK = (32, 32, 40, 64, 64, 64, 64, 80, 96, 128, 128, 128, 192, 256)
VALUE_DECK = (*(0,) * 10, 64, 128)
"""0 for the width of keys."""

GROUP_DECKS: Mapping[str, tuple[int, ...]] = {
    PREFILL: (*(1,) * 8, 2, 2, 4, 4, 8), FEW: (1, 1, 2, 2, 2, 4, 4, 4, 8), DECODE: (*(1,) * 5, 2, 2, 4, 4, 4, 8),
}  # fmt: skip
FORM_DECKS: Mapping[str, tuple[str, ...]] = {
    PREFILL: (
        *("none",) * 5, *("causal",) * 7, *("window",) * 2, *("window128",) * 2, *("window512",) * 2,
        *("window1024",) * 2, *("alibi",) * 3, *("causal alibi",) * 2, *("softcap",) * 2, "causal softcap",
        *("bias",) * 3, "table", *("documents",) * 4, *("dropped",) * 3, *("lengths",) * 2, *("prefix",) * 2,
        *("sink window",) * 2, *("local",) * 2, *("relu",) * 2, *("tanh",) * 2,
    ),
    FEW: (*("none",) * 4, *("dropped",) * 2, *("alibi",) * 2, *("lengths",) * 2, "softcap", "tanh", "bias"),
    DECODE: (*("none",) * 6, *("dropped",) * 3, *("alibi",) * 2, *("lengths",) * 3, "softcap", "tanh", "relu", "bias"),
}  # fmt: skip
LENGTHS: Mapping[str, tuple[tuple[int, ...], ...]] = {
    PREFILL: ((64, 96, 128, 200, 256), (333, 384, 512, 777), (1000, 1024, 1536, 2048), (2049, 3000, 4096, 8192)),
    FEW: ((64, 100, 256, 500), (777, 1024, 2000), (4096, 5000, 8192)),
    DECODE: ((64, 200, 256, 500), (777, 1024, 2048), (3000, 4096, 8192), (10000, 16384, 32768)),
}
"""Keys, of which each family has one of each row."""

HEADS = (1, 2, 4, 8, 16, 32)
"""Batch times key heads."""

TABLE_LENGTH = 512
"""Keys and queries up to which the form "table" has entries."""

MOST_WORK, MOST_BYTES, MOST_CAPTURED = 1.5e9, 48 << 20, 8 << 20
"""Limits of one problem on a CPU: FLOPs of one call, bytes of keys and values, elements of captured tensors."""

SOFTMAX_WORK = 40
"""FLOPs that take as long as the softmax of one score."""


@dataclass(frozen=True)
class Scale:
    """How large problems are: `work` times what one core of a CPU does in 15 ms."""

    work: float = 1.0
    """FLOPs of one call, relatively to `MOST_WORK`."""

    memory: int = 1
    """Bytes and elements, relatively to `MOST_BYTES` and `MOST_CAPTURED`."""


@dataclass(frozen=True)
class TuningProblem:
    """One call of a family."""

    family: Family
    sizes: Sizes

    @property
    def key(self) -> tuple[str, str]:
        """What no other problem has."""
        return self.family.name, str(self.sizes)


class Decks:
    """Draws from sequences so that each entry comes once before any comes again."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self._left: dict[Sequence[Any], list[Any]] = {}

    def draw(self, deck: Sequence[T]) -> T:
        left = self._left.setdefault(deck, [])
        if not left:
            left += deck
            self.random.shuffle(left)
        return left.pop()


def families(seed: int = 0) -> Iterator[Family]:
    """Families without end, none twice, balanced from the first on."""
    decks, seen = Decks(f"families {seed}"), set[Family]()
    while True:
        regime = decks.draw(REGIME_DECK)
        width = decks.draw(WIDTH_DECK)
        value_width = decks.draw(VALUE_DECK) or width
        drawn = decks.draw(DTYPE_DECK), width, value_width, decks.draw(GROUP_DECKS[regime])
        family = Family(*drawn, regime, decks.draw(FORM_DECKS[regime]))
        if family not in seen:
            seen.add(family)
            yield family


def problems_of(family: Family, scale: Scale = Scale()) -> list[TuningProblem]:
    """The family at short, medium and long sizes; those left out that would take too long or too much memory."""
    decks, found = Decks(f"sizes of {family.name}"), list[TuningProblem]()
    queries = queries_of(family)
    for lengths in LENGTHS[family.regime]:
        keys = decks.random.choice([n for n in lengths if family.form != "table" or n <= TABLE_LENGTH] or [0])
        fitting = [sizes for heads in HEADS if (sizes := _sizes(family, heads, queries or keys, keys, scale))]
        if keys and fitting:
            found.append(TuningProblem(family, decks.random.choice(fitting)))
    return found


def queries_of(family: Family) -> int:
    """How many queries calls have, which kernels for few are made for; 0 for as many as keys."""
    if family.regime == DECODE:
        return 1
    if family.regime == PREFILL:
        return 0
    most = 8 if family.group == 1 else min(15, 64 // family.group)
    return random.Random(f"queries of {family.name}").randint(2, most)


def _sizes(family: Family, heads: int, queries: int, keys: int, scale: Scale) -> Sizes | None:
    """The sizes with so many key heads, some of them as batches; None if they are too large."""
    batch = random.Random(f"batch of {family.name} {heads} {keys}").choice([b for b in (1, 2, 4) if heads % b == 0])
    sizes = Sizes(batch, heads // batch * family.group, heads // batch, queries, keys)
    width, case = family.width + family.value_width, case_of(family)
    captured = sizes.heads * queries * keys if family.form == "bias" else 0
    if captured > MOST_CAPTURED * scale.memory or 4 * heads * keys * width > MOST_BYTES * scale.memory:
        return None
    scores = sizes.batch * sizes.heads * queries * keys * kept_share(case, sizes)
    return sizes if scores * (2 * width + SOFTMAX_WORK) <= MOST_WORK * scale.work else None


def kept_share(case: Case, sizes: Sizes) -> float:
    """The part of all scores that the mask keeps, from up to 32 rows."""
    if case.rule.keep is None:
        return 1.0
    m = torch.linspace(0, sizes.queries - 1, min(32, sizes.queries)).round().to(torch.int64)[:, None]
    kept = case.rule.keep(m, torch.arange(sizes.keys)[None, :], usual_captures(case, shape_of(sizes)))
    return float(kept.double().mean())


# --- from what records hold to what is run


def fields_of(family: Family) -> CaseFields:
    """What a record says of the program."""
    return CaseFields(family.dtype, family.width, family.value_width, family.group, family.form)


def case_of(found: CaseFields | Family) -> Case:
    """The program of a record or a family; without log-sum-exp."""
    value_width = None if found.value_width == found.width else found.value_width
    return Case(FloatType(found.dtype), found.width, value_width, found.group, found.form, lse=False)


def shape_of(sizes: Sizes) -> Shape:
    """Sizes as tensors are made of."""
    return Shape(sizes.batch, sizes.heads, sizes.key_heads, sizes.queries, sizes.keys)


def tensors_of(
    found: CaseFields | Family, sizes: Sizes, device: str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Captures]:
    """q, k, v and the captured tensors of a call; always the same."""
    case, shape = case_of(found), shape_of(sizes)
    q, k, v, _ = replace(case, form="none").tensors(shape, device=device)
    return q, k, v, tuple(x.to(device) for x in usual_captures(case, shape))


def usual_captures(case: Case, shape: Shape) -> Captures:
    """Captured tensors as models have them, where those for tests are rougher: whole documents, padding at the end."""
    captures = case.rule.capture(shape, torch.Generator().manual_seed(0))
    if case.form == "documents":
        return tuple(ids.sort(-1).values for ids in captures)
    if case.form == "dropped":
        return tuple((torch.arange(shape.keys) < 3 * shape.keys // 4).expand_as(kept).clone() for kept in captures)
    return captures
