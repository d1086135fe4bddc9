"""What a dialect is: a name, its ops, and whether ops beyond those are allowed."""

from __future__ import annotations

from dataclasses import dataclass, field

from .define import Op


@dataclass(frozen=True)
class Dialect:
    """`open_` dialects accept ops nobody declared; the others refuse them."""

    name: str
    ops: tuple[type[Op], ...]
    open_: bool = False
    by_name: dict[str, type[Op]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {op.op_name: op for op in self.ops})
