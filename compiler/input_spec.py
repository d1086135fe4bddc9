"""Reads `name=f16[2,8,s,64]`: a tensor argument by name, dtype and sizes, letters being dynamic."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..ir.diagnostics import CompileError, error
from .user_failure import in_one_line

if TYPE_CHECKING:
    import torch

DTYPES = ("f16", "bf16", "f32", "f64", "i1", "i8", "i32", "i64")
_SPEC = re.compile(r"\s*(?:(?P<name>[A-Za-z_]\w*)\s*=)?\s*(?P<dtype>\w+)\s*\[(?P<sizes>[^\[\]]*)\]\s*")
EXAMPLE_SIZES = (48, 40, 56, 24, 72, 80)
"""What dynamic sizes are while the program is captured: distinct, so that none is taken for another."""


@dataclass(frozen=True)
class InputSpec:
    """One tensor argument; `name` is None for a positional one, a str size is dynamic."""

    name: str | None
    dtype: str
    sizes: tuple[int | str, ...]

    def __str__(self) -> str:
        prefix = f"{self.name}=" if self.name else ""
        return f"{prefix}{self.dtype}[{','.join(map(str, self.sizes))}]"


def parse_input(text: str) -> InputSpec:
    """`text` as a specification; a CompileError says what is wrong with it and what is expected."""
    match = _SPEC.fullmatch(text)
    if match is None:
        raise _bad(text, "expected NAME=DTYPE[SIZE,...], such as q=f16[2,8,s,64]")
    if match["dtype"] not in DTYPES:
        raise _bad(text, f"unknown dtype '{match['dtype']}'; expected one of {', '.join(DTYPES)}")
    pieces = [p.strip() for p in match["sizes"].split(",")] if match["sizes"].strip() else []
    return InputSpec(match["name"], match["dtype"], tuple(_size(text, p) for p in pieces))


def _size(text: str, piece: str) -> int | str:
    if re.fullmatch(r"\d+", piece):
        return int(piece)
    if re.fullmatch(r"[A-Za-z_]\w*", piece):
        return piece
    raise _bad(text, f"size '{piece}' is neither a number nor a name of a dynamic size")


def _bad(text: str, why: str) -> CompileError:
    return error(f"cannot read input '{text}': {why}")


def dynamic_sizes(specs: Sequence[InputSpec]) -> dict[str, int]:
    """A size for each dynamic name, in order of appearance."""
    names = dict.fromkeys(size for spec in specs for size in spec.sizes if isinstance(size, str))
    if len(names) > len(EXAMPLE_SIZES):
        raise error(
            f"{len(names)} dynamic sizes are given ({', '.join(names)}), but at most {len(EXAMPLE_SIZES)} can be"
        )
    return dict(zip(names, EXAMPLE_SIZES, strict=False))


def make_inputs(
    specs: Sequence[InputSpec], *, seed: int = 0, largest_integer: int = 100
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Random tensors for `specs`: positional ones and those by name, dynamic sizes marked for Dynamo.

    Floats are normal with spread 1, integers lie in [0, `largest_integer`), booleans are fair.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    sizes = dynamic_sizes(specs)
    positional: list[torch.Tensor] = []
    named: dict[str, torch.Tensor] = {}
    for spec in specs:
        if spec.name in named:
            raise error(f"input '{spec.name}' is given twice")
        shape = [sizes[s] if isinstance(s, str) else s for s in spec.sizes]
        try:
            tensor = _random(spec.dtype, shape, generator, largest_integer)
        except (RuntimeError, TypeError, OverflowError) as problem:  # what PyTorch raises at sizes beyond all memory
            raise error(f"cannot make input '{spec}': {in_one_line(problem)}") from problem
        for axis, size in enumerate(spec.sizes):
            if isinstance(size, str):
                torch._dynamo.mark_dynamic(tensor, axis)  # pyright: ignore[reportPrivateUsage]
        if spec.name is None:
            positional.append(tensor)
        else:
            named[spec.name] = tensor
    return positional, named


def _random(dtype: str, shape: Sequence[int], generator: torch.Generator, largest: int) -> torch.Tensor:
    import torch

    if dtype == "i1":
        return torch.rand(*shape, generator=generator) < 0.5
    if dtype.startswith("i"):
        kind = {"i8": torch.int8, "i32": torch.int32, "i64": torch.int64}[dtype]
        return torch.randint(0, min(largest, 100 if dtype == "i8" else largest), tuple(shape), generator=generator).to(
            kind
        )
    kind = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64}[dtype]
    return torch.randn(*shape, generator=generator).to(kind)
