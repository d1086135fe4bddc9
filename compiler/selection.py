"""Which blocks of keys a model may leave out: `attir.sparsity.select(...)`, checked before anything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ..ir.diagnostics import error

if TYPE_CHECKING:
    import torch

Number: TypeAlias = int | float | str

KEYS_AT_ONCE = 16
"""The least number of keys that a kernel's tile holds: blocks are made of whole tiles."""

RULES = ("top_k", "threshold", "cumulative")

ESTIMATORS: Mapping[str, Mapping[str, int]] = {
    "quest": {"page": 0},
    "pooled": {},
    "low_rank": {"rank": 0, "queries": 4},
    "int4": {"queries": 8},
    "sampled": {"queries": 64},
    "centroids": {"clusters": 64, "levels": 1},
}
"""Every estimator with its own parameters and their defaults; 0 stands for what the sizes say."""

GIVEN: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "pooled": (("gate_q", "gate_k"), ("gate",)),
    "low_rank": (("basis",),),
}
"""Tensors that an estimator takes, if they are given: those of one tuple, together."""


@dataclass(frozen=True)
class Selection:
    """A choice of blocks of `block` keys for each block of `rows` queries; made by `select`.

    `parameters` are the estimator's own numbers, `tensors` what it was given, both by name.
    """

    estimator: str
    keep: float = 0.1
    block: int = 64
    rows: int = 64
    sinks: int = 1
    local: int = 4
    rule: str = "top_k"
    threshold: float = 0.0
    mass: float = 1.0
    append_only: bool = False
    parameters: tuple[tuple[str, int], ...] = ()
    tensors: tuple[tuple[str, torch.Tensor], ...] = ()

    def __post_init__(self) -> None:
        _one_of("estimator", self.estimator, tuple(ESTIMATORS))
        _one_of("rule", self.rule, RULES)
        _fraction("keep", self.keep)
        _fraction("mass", self.mass)
        if not 0 <= self.threshold <= 1:
            raise error(f"threshold must be in [0, 1], but is {self.threshold!r}")
        for name in ("block", "rows"):
            size = _whole(name, getattr(self, name), KEYS_AT_ONCE)
            if size % KEYS_AT_ONCE:
                raise error(
                    f"{name}={size} does not divide into tiles of {KEYS_AT_ONCE}: expected a multiple of {KEYS_AT_ONCE}"
                )
        if self.append_only not in (True, False):
            raise error(f"append_only must be True or False, but is {self.append_only!r}")
        _whole("sinks", self.sinks, 0)
        _whole("local", self.local, 0)
        own = dict(self.parameters)
        if (page := own.get("page", 0)) and self.block % page:
            raise error(f"page={page} does not divide block={self.block}")
        if own.get("levels", 1) not in (1, 2):
            raise error(f"levels must be 1 or 2, but is {own['levels']}")

    @property
    def numbers(self) -> dict[str, Number]:
        """Everything but the sizes of blocks and tensors, by name: what `attn.select` has as parameters."""
        common = ("keep", "sinks", "local", "rule", "threshold", "mass")
        kept = {"append_only": 1} if self.append_only else {}
        return {**{name: getattr(self, name) for name in common}, **kept, **dict(self.parameters)}

    def __str__(self) -> str:
        """`top_k 10 % of blocks of 64 keys for 64 queries, by quest (page=16); 1 first and 4 local always`."""
        kept = {"top_k": f"{100 * self.keep:g} %", "threshold": f"those above {self.threshold:g} of the largest"}
        what = kept.get(self.rule, f"the fewest with {100 * self.mass:g} % of the estimated weight")
        own = ", ".join(f"{name}={value}" for name, value in self.parameters if value)
        return (
            f"{what} of blocks of {self.block} keys for {self.rows} queries, by {self.estimator}"
            f"{f' ({own})' if own else ''}; {self.sinks} first and {self.local} local always"
        )


def select(
    estimator: str,
    *,
    keep: float = 0.1,
    block: int = 64,
    rows: int = 64,
    sinks: int = 1,
    local: int = 4,
    rule: str = "",
    threshold: float | None = None,
    mass: float | None = None,
    append_only: bool = False,
    **own: Any,
) -> Selection:
    """Attend only to the blocks of keys that `estimator` finds important; lossy, so only on request.

    Keys come in blocks of `block`, queries in blocks of `rows` (both multiples of 16); heads that share keys
    share a choice, and a step of decoding is one block of queries. Of the blocks that the model's own mask
    leaves, each block of queries keeps by `rule`

    - "top_k": the fraction `keep` in (0, 1], rounded up; 1 is dense attention;
    - "threshold": those whose estimated weight is at least `threshold` of the largest one's, in [0, 1];
    - "cumulative": the fewest whose estimated weights sum to `mass` in (0, 1];

    and always the first `sinks` blocks and those within `local` of the diagonal's. The rule follows from
    which of `keep`, `threshold` and `mass` is given. Estimators, with parameters of their own:

    - "quest": upper bounds from the least and greatest of each channel on `page` keys (Quest, arXiv 2406.10774);
    - "pooled": products of mean queries and mean keys (as MoBA, NSA); with `gate_q`, `gate_k` (D, R) weights
      in front, or `gate` (B, K, query blocks, key blocks) in place of it (SeerAttention, arXiv 2410.13276);
    - "low_rank": products in the `rank` (0: half) main directions of the keys, or in `basis` (K, D, rank) (Loki,
      arXiv 2406.02542);
    - "int4": products of 4-bit keys and queries, of `queries` rows of a block (SALE, arXiv 2505.24179);
    - "sampled": columns and diagonals of the exact scores of `queries` rows (MInference, arXiv 2407.02490);
    - "centroids": products with `clusters` centres of the keys, in one or two `levels` (Squeezed
      Attention, arXiv 2411.09688).

    With `append_only` you promise that keys which a call has seen stay as they are for as long as their memory
    lives, as in a cache that is allocated once and passed as `cache[:, :, :length]`: a step of decoding then
    summarises new keys alone.

    Raises CompileError for anything unknown, fractions outside of (0, 1], and block sizes that do not divide.
    """
    _one_of("estimator", estimator, tuple(ESTIMATORS))
    given = [name for name, value in (("threshold", threshold), ("mass", mass)) if value is not None]
    if len(given) > 1:
        raise error("threshold and mass are two rules; expected one of them")
    wanted = {"threshold": "threshold", "mass": "cumulative"}[given[0]] if given else "top_k"
    if rule and rule != wanted:
        needs = {"threshold": "threshold=", "cumulative": "mass="}.get(rule, "keep=")
        _one_of("rule", rule, RULES)
        raise error(f"rule '{rule}' needs {needs}, but {f'{given[0]}=' if given else 'none'} is given")
    parameters, tensors = _own(estimator, own)
    return Selection(
        estimator, keep, block, rows, sinks, local, wanted, threshold or 0.0, 1.0 if mass is None else mass,
        append_only, parameters, tensors,
    )  # fmt: skip


def _own(
    estimator: str, own: Mapping[str, Any]
) -> tuple[tuple[tuple[str, int], ...], tuple[tuple[str, torch.Tensor], ...]]:
    """The estimator's own numbers, with defaults, and tensors, by name."""
    numbers, together = ESTIMATORS[estimator], GIVEN.get(estimator, ())
    tensors = tuple(name for names in together for name in names)
    for name in own:
        if name not in (*numbers, *tensors):
            known = ", ".join((*numbers, *tensors)) or "none"
            raise error(f"estimator '{estimator}' has no parameter '{name}'; it has {known}")
    for name in tensors:
        if name in own and not hasattr(own[name], "shape"):
            raise error(f"'{name}' must be a tensor, but is {own[name]!r}")
    given = tuple(name for name in tensors if name in own)
    if given and given not in together:
        expected = " or ".join(" and ".join(names) for names in together)
        raise error(f"estimator '{estimator}' takes {expected}, but {' and '.join(given)} is given")
    found = [
        (name, _whole(name, own.get(name, default), 0 if default == 0 else 1)) for name, default in numbers.items()
    ]
    return tuple(sorted(found)), tuple((name, own[name]) for name in given)


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise error(f"unknown {name} {value!r}; expected {', '.join(known)}")


def _fraction(name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1 or math.isnan(value):
        raise error(f"{name} must be a fraction in (0, 1], but is {value!r}")


def _whole(name: str, value: object, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise error(f"{name} must be a whole number of at least {least}, but is {value!r}")
    return value
