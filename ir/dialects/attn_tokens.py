"""Ops of the `attn` dialect that put tokens of a grid into another order, and back."""

from __future__ import annotations

from ..attributes import DenseArrayAttr, StringAttr, TensorType, Type, i32
from ..define import Constraint, Hint, Op, Operand, OptionalProp, Prop, Result, VariadicResult
from ..diagnostics import op_error

TOKENS_AXIS = 2
"""Of q, k, v, the output (batch, head, position, dimension) and the log-sum-exp (batch, head, position)."""


def _has_tokens(type_: Type) -> bool:
    return isinstance(type_, TensorType) and type_.rank in (3, 4)


TOKENS = Constraint("a tensor of rank 3 or 4 (batch, head, position, ...)", _has_tokens)
ORDER = Constraint(
    "a tensor of i32 of rank 1", lambda t: isinstance(t, TensorType) and t.element == i32 and t.rank == 1
)


class TokenOrderOp(Op, name="attn.token_order", pure=True):
    """The order of the tokens of a grid in which those of a small box stand side by side.

        %order, %y, %x = "attn.token_order"(%q) <{grid = array<i64: 64>, tile = array<i64: 8, 8>}> : (...) -> (...)

    Token n of the N of `tokens` (its third axis) lies at the coordinates that n has as a number whose lower
    digits have the sizes `grid`, outermost first: for `grid = [H, W]` at (n // (H * W), n // W % H, n % W). The
    outermost axis is as long as N needs, its last part maybe cut short. Tokens are sorted by:

    - their residues: the coordinates modulo `dilation` (1 everywhere where left out); within a class of
      equal residues places are the coordinates divided by the dilation;
    - whole boxes of `tile` places an axis come first, in row-major order, then what does not fill a box: for each
      axis, outermost first, the slab that is left over there, in boxes as thin as the slab and longer by as much
      along the last of the other axes;
    - inside a box, by the boxes of `inner` places that it is made of, where there are any, then row-major.

    `order` (N) holds which token stands at each place. Behind it, in that order, come the coordinates along each
    axis (N), then for each axis that has a dilation the places and the residues along it (N). All are i32.
    `reason` says why the order was chosen.
    """

    tokens = Operand(TOKENS)
    grid, tile = Prop(DenseArrayAttr), Prop(DenseArrayAttr)
    inner, dilation = OptionalProp(DenseArrayAttr), OptionalProp(DenseArrayAttr)
    reason = Hint(StringAttr)
    order, every = Result(ORDER), VariadicResult()

    @property
    def axes(self) -> int:
        return len(self.grid.values) + 1

    @property
    def dilations(self) -> tuple[int, ...]:
        """Of each axis, 1 where there is none."""
        return self.dilation.values if self.dilation is not None else (1,) * self.axes

    def verify(self) -> None:
        for name in ("grid", "tile", "inner", "dilation"):
            attr: DenseArrayAttr | None = getattr(self, name)
            wanted = self.axes - (name == "grid")
            if attr is not None and (len(attr.values) != wanted or any(x < 1 for x in attr.values)):
                op_error(self.operation, f"{name} must be {wanted} positive sizes, but is {attr}")
        if self.inner is not None and any(t % i for t, i in zip(self.tile.values, self.inner.values, strict=True)):
            op_error(self.operation, f"inner {self.inner} must divide tile {self.tile}")
        count = 1 + self.axes + 2 * sum(d > 1 for d in self.dilations)
        if len(self.every) != count:
            op_error(self.operation, f"must have {count} results, but has {len(self.every)}")
        for result in self.every:
            if result.type != self.order.type:
                op_error(self.operation, f"results must all be {self.order.type}, but one is {result.type}")
        _verify_length(self, self.tokens.type, self.order.type)


class GatherTokensOp(Op, name="attn.gather_tokens", pure=True):
    """out[b, h, i] = x[b, h, order[i]]: tokens in another order, of which `order` names each once."""

    x, order, out = Operand(TOKENS), Operand(ORDER), Result(TOKENS)

    def verify(self) -> None:
        _verify_moved(self, self.x.type, self.order.type, self.out.type)


class ScatterTokensOp(Op, name="attn.scatter_tokens", pure=True):
    """out[b, h, order[i]] = x[b, h, i]: the inverse of `attn.gather_tokens`."""

    x, order, out = Operand(TOKENS), Operand(ORDER), Result(TOKENS)

    def verify(self) -> None:
        _verify_moved(self, self.x.type, self.order.type, self.out.type)


def _verify_moved(op: Op, x: Type, order: Type, out: Type) -> None:
    if out != x:
        op_error(op.operation, f"result must be {x}, but is {out}")
    _verify_length(op, x, order)


def _verify_length(op: Op, x: Type, order: Type) -> None:
    assert isinstance(x, TensorType) and isinstance(order, TensorType)
    tokens, length = x.shape[TOKENS_AXIS], order.shape[0]
    if tokens != length and isinstance(tokens, int) and isinstance(length, int):
        op_error(op.operation, f"an order of {length} tokens does not fit the {tokens} of {x}")


TOKEN_OPS: tuple[type[Op], ...] = (TokenOrderOp, GatherTokensOp, ScatterTokensOp)
