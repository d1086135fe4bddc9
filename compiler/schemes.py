"""How the numbers of an attention are put in few bits: `Scheme`, by name or in parts, checked before anything runs."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, cast

from ..ir.diagnostics import error
from ..ir.storage import MAX_BITS, Storage

if TYPE_CHECKING:
    import torch

ROTATIONS = ("", "hadamard")
TENSORS: Mapping[str, str] = {
    "key_basis": "(K | 1, D, key_rank), or as many columns as channels are kept",
    "value_basis": "(K | 1, E, value_rank)",
    "pair_scales": "(K | 1, D), positive",
}
"""What a scheme may be given, with its shape: of K key heads, or one for all of them."""

KEY_GROUP, VALUE_GROUP, PRODUCT_GROUP = 64, 64, 64
"""Tokens of a group of keys and channels of one of values as in KIVI, and tokens of a block of products in floats."""


@dataclass(frozen=True)
class Scheme:
    """In which storage q, k and v of an attention enter its products, and what is done to them before.

    `query`, `key` and `value` are templates: their width becomes the site's, and None keeps an operand as it is. A
    query in few bits needs a key in the same: their codes are multiplied.

    Exact in real numbers, so that fewer bits cost less: `smooth` subtracts the mean of the keys; `rotate`
    "hadamard" rotates q and k, with `rotate_values` v too, and out back; the tensor "pair_scales" multiplies the
    channels of q and divides those of k.
    Lossy by themselves: `key_rank` and `value_rank` keep a subspace, with "key_basis" and "value_basis", and
    `channels` that many channels of the keys, with "key_basis" as `attir.quantization.channel_mask` gives it; 0
    keeps all. `tensors` has what is given by name; see `TENSORS`.
    """

    name: str
    query: Storage | None = None
    key: Storage | None = None
    value: Storage | None = None
    smooth: bool = False
    rotate: str = ""
    rotate_values: bool = False
    key_rank: int = 0
    value_rank: int = 0
    channels: int = 0
    tensors: tuple[tuple[str, torch.Tensor], ...] = ()

    def __post_init__(self) -> None:
        for name in ("query", "key", "value"):
            storage = getattr(self, name)
            if storage is not None and not isinstance(storage, Storage):
                raise error(f"'{name}' of a scheme must be a Storage or None, but is {storage!r}")
        if self.rotate not in ROTATIONS:
            raise error(f"unknown rotation {self.rotate!r}; expected {' or '.join(repr(r) for r in ROTATIONS)}")
        for name in ("smooth", "rotate_values"):
            if getattr(self, name) not in (True, False):
                raise error(f"'{name}' of a scheme must be True or False, but is {getattr(self, name)!r}")
        for name in ("key_rank", "value_rank", "channels"):
            size = getattr(self, name)
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise error(f"'{name}' of a scheme must be a whole number of at least 0, but is {size!r}")
        self._check_products()
        self._check_tensors()

    def _check_products(self) -> None:
        query, key = self.query, self.key
        for name, storage in (("q", query), ("k", key)):
            if storage is not None and storage.axis != "channels":
                raise error(f"only values may be packed along tokens, but {name} is {storage}")
        if query is None:
            return
        if key is None or (query.kind, query.bits, query.signed, query.zero) != (
            key.kind, key.bits, key.signed, key.zero
        ):  # fmt: skip
            raise error(
                f"codes of q and k are multiplied, so both must be of one kind, but q is {query} and k is {key}"
            )

    def _check_tensors(self) -> None:
        given = dict(self.tensors)
        for name in given:
            if name not in TENSORS:
                raise error(f"unknown tensor '{name}' of a scheme; expected {', '.join(TENSORS)}")
            if not hasattr(given[name], "dim"):
                raise error(f"'{name}' must be a tensor, but is {given[name]!r}")
        if self.key_rank and self.channels:
            raise error("key_rank and channels are two ways to keep a part of the keys; expected one of them")
        if self.rotate_values and self.value_rank:
            raise error("rotate_values and value_rank both change the basis of values; expected one of them")
        if self.rotate and (self.key_rank or self.channels):
            raise error("rotate and a part of the keys (key_rank, channels) both change their basis; expected one")
        self._check_bases(given)
        if "pair_scales" in given and given["pair_scales"].dim() != 2:
            raise error(f"'pair_scales' must be {TENSORS['pair_scales']}, but is {tuple(given['pair_scales'].shape)}")

    def _check_bases(self, given: Mapping[str, torch.Tensor]) -> None:
        wanted = {"key_basis": self.key_rank or self.channels, "value_basis": self.value_rank}
        for name, size in wanted.items():
            if name in given and not size:
                raise error(f"'{name}' is given, but no part of the {name.partition('_')[0]}s is asked for")
            if size and name not in given:
                raise error(f"a part of {size} channels needs the tensor '{name}' {TENSORS[name]}, which is not given")
            if name in given and (given[name].dim() != 3 or given[name].shape[2] != size):
                raise error(f"'{name}' must be {TENSORS[name]} of {size}, but is {tuple(given[name].shape)}")

    @property
    def exact(self) -> bool:
        """Whether the scheme changes nothing but roundings."""
        return not (self.query or self.key or self.value or self.key_rank or self.value_rank or self.channels)

    def __str__(self) -> str:
        """`int8: q and k int8, a scale for each token x all channels; keys minus their mean`."""
        told: dict[str, list[str]] = {}
        for name, storage in (("q", self.query), ("k", self.key), ("v", self.value)):
            if storage is not None:
                told.setdefault(str(storage), []).append(name)
        lines = [f"{' and '.join(names)} {storage}" for storage, names in told.items()]
        lines += ["keys minus their mean"] if self.smooth else []
        lines += ["channels of q and k scaled"] if any(name == "pair_scales" for name, _ in self.tensors) else []
        lines += [f"{self.rotate} rotation of q and k"] if self.rotate else []
        lines += ["hadamard rotation of values"] if self.rotate_values else []
        lines += [f"{self.key_rank} directions of keys"] if self.key_rank else []
        lines += [f"{self.channels} channels of keys"] if self.channels else []
        lines += [f"{self.value_rank} directions of values"] if self.value_rank else []
        return f"{self.name}: {'; '.join(lines) or 'exact'}"


def _of_keys(bits: int) -> Storage:
    return Storage(bits=bits, signed=False, zero=True, tokens=KEY_GROUP, channels=1)


def _of_values(bits: int) -> Storage:
    return Storage(bits=bits, signed=False, zero=True, tokens=1, channels=VALUE_GROUP)


_INT8, _FP8 = Storage(), Storage("f8E4M3FN")
_FP8_BLOCK = Storage("f8E4M3FN", tokens=PRODUCT_GROUP)

SCHEMES: Mapping[str, Scheme] = {
    "int8": Scheme("int8", query=_INT8, key=_INT8, smooth=True),
    "fp8": Scheme("fp8", query=_FP8_BLOCK, key=_FP8_BLOCK, value=Storage("f8E4M3FN", tokens=0), smooth=True),
    "kv8": Scheme("kv8", key=_INT8, value=_INT8),
    "kv_fp8": Scheme("kv_fp8", key=_FP8, value=_FP8),
    **{f"kv{n}": Scheme(f"kv{n}", key=_of_keys(n), value=_of_values(n)) for n in range(MAX_BITS - 1, 0, -1)},
}
"""By name. int8: SageAttention's products with a scale for each token (arXiv 2410.02367), which lose a quarter less
than with one for 64 tokens. fp8: products in 8-bit floats. kv8 and kv_fp8: keys and values with a scale for each token;
kv7 to kv1: as KIVI keeps them (arXiv 2402.02750)."""


def scheme(name: str | Scheme, **changes: Any) -> Scheme:
    """The scheme of that name, with some of its fields changed: `scheme("kv4", rotate="hadamard")`.

    `tensors` may be a mapping of names to tensors. Raises CompileError for what is unknown or does not fit together.
    """
    found = SCHEMES.get(name) if isinstance(name, str) else name
    if not isinstance(found, Scheme):
        raise error(f"unknown scheme {name!r}; expected {', '.join(SCHEMES)}")
    known = [field.name for field in fields(Scheme)]
    for field_name in changes:
        if field_name not in known:
            raise error(f"a scheme has no field '{field_name}'; it has {', '.join(known)}")
    if isinstance(tensors := changes.get("tensors"), Mapping):
        changes["tensors"] = tuple(cast("Mapping[str, torch.Tensor]", tensors).items())
    return replace(found, **changes)


def parse_scheme(text: str) -> Scheme | None:
    """What `--quantize` says: `kv4`, or `int8(smooth=False, rotate='hadamard')`; None for an empty text."""
    if not text.strip():
        return None
    if text.strip() == "auto":
        raise error("--quantize auto needs inputs to calibrate on: use attir.compile and attir.calibrate")
    try:
        body = ast.parse(text.strip(), mode="eval").body
        if isinstance(body, ast.Name):
            return scheme(body.id)
        if isinstance(body, ast.Call) and isinstance(body.func, ast.Name) and not body.args:
            changes = {k.arg: ast.literal_eval(k.value) for k in body.keywords if k.arg is not None}
            if len(changes) == len(body.keywords):
                return scheme(body.func.id, **changes)
    except (SyntaxError, ValueError) as problem:
        raise error(f"cannot read --quantize '{text}': {problem}") from problem
    raise error(f"cannot read --quantize '{text}': expected a scheme, as in kv4 or int8(smooth=False)")
