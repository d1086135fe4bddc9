"""What planners may know of captured coordinates: the order of tokens that a program captures them from.

A hint of the attention, since its kernel is planned apart from the program around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..ir.attributes import DenseArrayAttr, DictAttr, IntegerAttr
from ..ir.core import Value
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.attn_tokens import TokenOrderOp

if TYPE_CHECKING:
    import numpy as np

    from ..ir.interpreter.attn_tokens import TokenOrder

NOTHING = -1
"""In place of the number of a result: a capture that is none."""


def note_order(attention: AttentionOp, orders: Sequence[TokenOrderOp], lengths: tuple[int, int]) -> None:
    """Write down which captures are results of `orders`, of rows and of keys, or of one for both.

    `lengths` are queries and keys to plan for.
    """
    order = orders[0]
    entries: dict[str, DenseArrayAttr | IntegerAttr] = {"grid": order.grid, "tile": order.tile}
    entries["inner"] = order.inner or DenseArrayAttr((1,) * order.axes)
    entries["dilation"] = DenseArrayAttr(order.dilations)
    for name, length in zip(("queries", "keys"), lengths, strict=True):
        entries[name] = IntegerAttr(length)
    for name, side in zip(("of_rows", "of_keys"), orders, strict=False):
        places = {result: i for i, result in enumerate(side.every)}
        entries[name] = DenseArrayAttr(tuple(places.get(c, NOTHING) for c in attention.captures))
    attention.tokens = DictAttr.of(entries)


@dataclass(frozen=True)
class KnownOrder:
    """The order behind the captures of an attention, and lengths to plan for."""

    order: TokenOrder
    queries: int
    keys: int
    of_rows: tuple[int, ...]
    of_keys: tuple[int, ...]

    @staticmethod
    def of(attention: AttentionOp) -> KnownOrder | None:
        """None where nothing is known."""
        if attention.tokens is None:
            return None
        # Numbers come as arrays, and small commands do not load numpy.
        from ..ir.interpreter.attn_tokens import TokenOrder

        arrays = {k: v.values for k, v in attention.tokens.items if isinstance(v, DenseArrayAttr)}
        numbers = {k: v.value for k, v in attention.tokens.items if isinstance(v, IntegerAttr)}
        order = TokenOrder(*(arrays[name] for name in ("grid", "tile", "inner", "dilation")))
        return KnownOrder(
            order, numbers["queries"], numbers["keys"], arrays.get("of_rows", ()), arrays.get("of_keys", ())
        )

    def captures(self, attention: AttentionOp, queries: int, keys: int) -> Mapping[Value, np.ndarray[Any, Any]]:
        """The captured tensors by the arguments of the mask region, for so many queries and keys."""
        arguments = attention.mask.block.arguments
        inside = arguments[len(arguments) - len(attention.captures) :]
        found: dict[Value, np.ndarray[Any, Any]] = {}
        for numbers, length in ((self.of_rows, queries), (self.of_keys, keys)):
            arrays = self.order.arrays(length) if any(n != NOTHING for n in numbers) else []
            found |= {value: arrays[n] for value, n in zip(inside, numbers, strict=False) if n != NOTHING}
        return found
