"""Masks as predicates over (batch, head, query, key) that combine with `&`, `|` and `~`.

A mask knows no sizes but those it was made for, and builds no matrix until `dense` is asked for. The
constructors are in `mask_constructors.py` and, for grids and trees, in `mask_grids.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

import torch

from ..ir.diagnostics import CompileError, error

Given = ParamSpec("Given")
Made = TypeVar("Made")

At: TypeAlias = tuple[Any, Any, Any, Any]
"""b, h, m and n: whole numbers, or tensors of them that broadcast against each other."""


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor that a mask reads, compared by identity: what it holds may change."""

    tensor: torch.Tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and other.tensor is self.tensor

    def __hash__(self) -> int:
        return id(self.tensor)


@dataclass(frozen=True)
class Need:
    """What a mask demands of a size: `name` is batch, heads, queries or keys; `at_most`, or exactly `size`."""

    name: str
    size: int
    at_most: bool = False

    def met(self, size: int) -> bool:
        return size <= self.size if self.at_most else size == self.size


@dataclass(frozen=True, repr=False)
class Mask:
    """Which keys a query sees: `mask(b, h, m, n)`, True where key `n` is kept for query `m` of head `h` in batch `b`.

    Positions are ints (the answer is then a bool) or tensors of integers that broadcast. A mask is also
    a `mask_mod` of flex_attention. Two masks are equal if they were made by the same constructor of equal
    numbers and the very same tensors.
    """

    rule: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    text: str = field(default="", compare=False)
    needs: tuple[Need, ...] = field(default=(), compare=False)

    def __call__(self, b: Any, h: Any, m: Any, n: Any) -> Any:
        values = [a.tensor if isinstance(a, Held) else a for a in self.arguments]
        kept = self.rule((b, h, m, n), *values)
        return bool(kept) if isinstance(m, int) and isinstance(n, int) and _is_number(b, h) else kept

    def __and__(self, other: Mask) -> Mask:
        """Keys that both keep."""
        return _combined(_both, "&", self, other)

    def __or__(self, other: Mask) -> Mask:
        """Keys that either keeps."""
        return _combined(_either, "|", self, other)

    def __invert__(self) -> Mask:
        """Keys that this mask drops."""
        return self.complement()

    def complement(self) -> Mask:
        """`~self`, for code inside a compiled function: Dynamo cannot trace the operator."""
        return Mask(_neither, (self,), f"~{_grouped(self)}")

    def __repr__(self) -> str:
        return self.text

    def __bool__(self) -> bool:
        raise error("a mask is neither true nor false; combine masks with &, | and ~ in place of 'and', 'or' and 'not'")

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The tensors it reads, each once."""
        found = {id(held.tensor): held.tensor for held in _held(self)}
        return tuple(found.values())

    def with_tensors(self, tensors: Sequence[torch.Tensor]) -> Mask:
        """The same mask on other tensors, in the order of `tensors`."""
        return _replaced(self, {id(old): new for old, new in zip(self.tensors, tensors, strict=True)})

    def to(self, device: torch.device | str) -> Mask:
        """The same mask with what it reads on `device`."""
        return self.with_tensors([t.to(device) for t in self.tensors]) if self.tensors else self

    @property
    def all_needs(self) -> tuple[Need, ...]:
        """What it and the masks it is made of demand of sizes."""
        return tuple(need for mask in _parts(self) for need in mask.needs)

    def check_sizes(self, *, batch: int, heads: int, queries: int, keys: int) -> None:
        """Raise CompileError where the mask was made for other sizes; `heads` are those of the queries."""
        sizes = {"batch": batch, "heads": heads, "queries": queries, "keys": keys}
        for mask in _parts(self):
            for need in mask.needs:
                if not need.met(sizes[need.name]):
                    most = "at most " if need.at_most else ""
                    raise error(
                        f"{mask} is for {most}{_counted(need.size, need.name)}, but there "
                        f"{'is' if sizes[need.name] == 1 else 'are'} {sizes[need.name]}"
                    )

    def dense(
        self,
        queries: int,
        keys: int,
        *,
        batch: int = 1,
        heads: int = 1,
        device: torch.device | str | None = None,
    ) -> torch.Tensor:
        """The mask as a bool tensor for `scaled_dot_product_attention(attn_mask=...)`, True where a key is kept.

        It is (queries, keys) with axes for heads and batch in front where they matter, so it broadcasts to
        (batch, heads, queries, keys). Made of arange and comparisons, it is never built inside a compiled
        attention. Raises CompileError for sizes that the mask was not made for.
        """
        self.check_sizes(batch=batch, heads=heads, queries=queries, keys=keys)
        b = torch.arange(batch, device=device).view(-1, 1, 1, 1)
        h = torch.arange(heads, device=device).view(-1, 1, 1)
        m, n = torch.arange(queries, device=device).view(-1, 1), torch.arange(keys, device=device)
        moved = self if device is None else self.to(device)
        kept = moved(b, h, m, n)
        return kept.expand(*kept.shape[:-2], queries, keys)


def made_once(build: Callable[Given, Made]) -> Callable[Given, Made]:
    """`build` with one result for equal arguments, so that equal masks hold the same tensors.

    Not while Dynamo traces: what it would keep is of that trace.
    """
    kept = lru_cache(maxsize=256)(build)

    def made(*given: Given.args, **named: Given.kwargs) -> Made:
        if torch.compiler.is_compiling():
            return build(*given, **named)
        return kept(*given, **named)  # pyright: ignore[reportArgumentType]

    return made


def wrong(text: str) -> CompileError:
    """The exception for a bad argument; raise it."""
    return error(text)


def whole(name: str, value: Any, least: int = 0) -> int:
    """`value`, a whole number not below `least`; CompileError says what `name` is otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise error(f"{name} must be a whole number, but is {_shown(value)}")
    if value < least:
        raise error(f"{name} must be at least {least}, but is {value}")
    return value


def wholes(name: str, values: Any, least: int = 0) -> tuple[int, ...]:
    """A list of whole numbers as a tuple."""
    if not isinstance(values, list | tuple | range):
        raise error(f"{name} must be a list of whole numbers, but is {_shown(values)}")
    return tuple(whole(f"{name}[{i}]", v, least) for i, v in enumerate(cast("Sequence[Any]", values)))


def indices(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """`tensor`, which must hold whole numbers."""
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
        raise error(f"{name} must be a tensor of integers, but is of {tensor.dtype}")
    return tensor


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of {value.dtype} with shape {tuple(value.shape)}"
    return repr(value)


def _counted(size: int, name: str) -> str:
    return f"a batch of {size}" if name == "batch" else f"{size} {name.removesuffix('s') if size == 1 else name}"


def _is_number(*positions: Any) -> bool:
    return all(isinstance(p, int) for p in positions)


# --- combinations ----------------------------------------------------------------------------


def _both(at: At, x: Mask, y: Mask) -> Any:
    return x(*at) & y(*at)


def _either(at: At, x: Mask, y: Mask) -> Any:
    return x(*at) | y(*at)


def _neither(at: At, x: Mask) -> Any:
    kept = x(*at)
    return ~kept if isinstance(kept, torch.Tensor) else not kept


def _combined(rule: Callable[..., Any], sign: str, x: Mask, y: Any) -> Mask:
    if not isinstance(y, Mask):
        raise error(f"only masks combine with masks, but the right side of '{sign}' is {_shown(y)}")
    return Mask(rule, (x, y), f"{_grouped(x, rule)} {sign} {_grouped(y, rule)}")


def _grouped(mask: Mask, inside: Callable[..., Any] | None = None) -> str:
    """Its text, in brackets where the sign around it binds more strongly."""
    combined = mask.rule in (_both, _either) and mask.rule is not inside
    return f"({mask})" if combined else str(mask)


def _parts(mask: Mask) -> Iterator[Mask]:
    """The mask and all masks it is made of."""
    yield mask
    for argument in mask.arguments:
        if isinstance(argument, Mask):
            yield from _parts(argument)


def _held(mask: Mask) -> Iterator[Held]:
    for part in _parts(mask):
        yield from (a for a in part.arguments if isinstance(a, Held))


def _replaced(mask: Mask, new: dict[int, torch.Tensor]) -> Mask:
    def changed(argument: Any) -> Any:
        if isinstance(argument, Held):
            return Held(new[id(argument.tensor)])
        return _replaced(argument, new) if isinstance(argument, Mask) else argument

    return replace(mask, arguments=tuple(map(changed, mask.arguments)))
