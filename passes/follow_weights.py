"""Follows the weights of a softmax forwards to the products with values that they enter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.attributes import Dim
from ..ir.core import Operation, Value
from ..ir.dialects.aten import AtenOp
from .contraction import ADDING, is_product, product_of
from .einsum import Einsum
from .index_function import tensor_type
from .index_rules import RULES
from .softmax_shift import REDUCTIONS
from .views import RESHAPES

NOT_ATTENTION = "not attention: "
PASSING = frozenset((*RULES, "nan_to_num", "isnan"))
"""Operators that compute each element from single elements."""


@dataclass(frozen=True)
class Weighted:
    """A product of weights with values: `einsum` has the weights first.

    `lead`, `row` and `key` are the letters of the weights' axes, `column` that of the values' own.
    """

    operation: Operation
    weights: Value
    einsum: Einsum
    lead: str
    row: str
    key: str
    column: str

    def sizes(self, letters: str) -> tuple[Dim, ...]:
        """The sizes of axes of the weights."""
        shape = tensor_type(self.weights).shape
        return tuple(shape[self.einsum.left.index(c)] for c in letters)


def weighted_products(weights: Value) -> Sequence[Weighted] | str:
    """Every product that `weights` enter, if nothing else needs them; else why they must exist."""
    products: dict[Operation, Value] = {}
    others: dict[Operation, None] = {}
    reached, work = {weights}, [weights]
    while work:
        value = work.pop()
        for user in value.users:
            if user.name == "aten._assert_tensor_metadata":
                continue
            if _hides_rows(user, value):
                return f"{NOT_ATTENTION}the rows of the softmax are not the rows of a product"
            if is_product(user):
                products[user] = value
            elif _passes(user):
                work += [r for r in user.results if r not in reached]
                reached.update(user.results)
            else:
                others[user] = None
    if others:
        return _needs_weights([*others, *products])
    if not products:
        return f"{NOT_ATTENTION}nothing is computed from the attention weights"
    found: list[Weighted] = []
    for product, value in products.items():
        weighted = _weighted(product, value, reached)
        if isinstance(weighted, str):
            return weighted
        found.append(weighted)
    return found


def _passes(op: Operation) -> bool:
    if op.dialect != "aten" or AtenOp(op).packet not in PASSING:
        return False
    view = AtenOp(op)
    return view.packet != "dropout" or view.argument("train") is False or view.argument("p") == 0.0


def _needs_weights(users: Sequence[Operation]) -> str:
    """Why the weights cannot stay inside of a kernel."""
    first = users[0]
    if first.name == "aten.dropout" and len(users) == 1:
        return f"dropout of {AtenOp(first).argument('p')} on the attention weights is not expressible yet"
    names = sorted({f"'{u.name}'" for u in users if u.name != "func.return"})
    used = f"used by {' and '.join(names)}" if names else ""
    returned = "returned" if any(u.name == "func.return" for u in users) else ""
    return f"the attention weights are {' and '.join(filter(None, [returned, used]))}, so they must exist as a tensor"


def _hides_rows(op: Operation, weights: Value) -> bool:
    """Whether a view puts an axis of size 1 among the last two, as a router's weights have in a sum of experts."""
    if op.dialect != "aten" or AtenOp(op).packet not in ("unsqueeze", *RESHAPES):
        return False
    old, new = tensor_type(weights).shape, tensor_type(op.results[0]).shape
    return len(new) > len(old) and 1 in new[-2:] and old[-2:] != new[-2:]


def _weighted(operation: Operation, weights: Value, reached: set[Value]) -> Weighted | str:
    """The axes of a product that `weights` enter, if it sums over their keys for each of their rows."""
    name, einsum = operation.name, product_of(operation)
    if einsum is None:
        return f"{NOT_ATTENTION}'{name}' is no product of two matrices"
    if einsum.tensors[0] is not weights:
        einsum = einsum.swapped
    if einsum.tensors[0] is not weights or einsum.tensors[1] in reached or AtenOp(operation).packet in ADDING:
        return f"the attention weights enter '{name}' in a way that is not understood"
    columns = [c for c in einsum.right if c not in einsum.left]
    rows = [c for c in einsum.left if c not in einsum.right]
    if (
        len(einsum.summed) != 1
        or len(columns) != 1
        or not rows
        or sorted(einsum.out) != sorted({*einsum.left, *einsum.right} - {einsum.summed})
    ):
        return f"{NOT_ATTENTION}'{name}' is no product of two matrices"
    shape = tensor_type(weights).shape
    row = max(rows, key=lambda c: _length(shape[einsum.left.index(c)], einsum.left.index(c)))
    lead = "".join(c for c in einsum.left if c not in (row, einsum.summed))
    return Weighted(operation, weights, einsum, lead, row, einsum.summed, columns[0])


def reaches_product(start: Operation) -> bool:
    """Whether what an operator computes enters a product, element by element."""
    seen: set[Operation] = set()
    work = [u for r in start.results for u in r.users]
    while work:
        op = work.pop()
        if is_product(op):
            return True
        if op not in seen and _passes(op):
            seen.add(op)
            work += [u for r in op.results for u in r.users]
    return False


def comes_from_product(value: Value, lengths: Sequence[Dim] = ()) -> bool:
    """Whether a tensor is computed from a product, whose last two axes are of `lengths` if those are given."""
    seen: set[Operation] = set()
    work = [value.defining_op]
    while work:
        op = work.pop()
        if op is None or op in seen or op.dialect != "aten":
            continue
        if is_product(op):
            if not lengths or tensor_type(op.results[0]).shape[-2:] == tuple(lengths):
                return True
            continue
        seen.add(op)
        if AtenOp(op).packet in (*PASSING, *REDUCTIONS, "cat", "pad", "constant_pad_nd"):
            work += [v.defining_op for v in op.operands]
    return False


def depends_on(value: Value, origin: Operation) -> bool:
    """Whether a tensor is computed from what `origin` computes."""
    seen: set[Operation] = set()
    work = [value.defining_op]
    while work:
        op = work.pop()
        if op is origin:
            return True
        if op is not None and op not in seen:
            seen.add(op)
            work += [v.defining_op for v in op.operands]
    return False


def _length(size: Dim, axis: int) -> tuple[bool, int, int]:
    """Orders the axes that may be queries: sizes that change from call to call, then large ones, then late ones."""
    return not isinstance(size, int), size if isinstance(size, int) else 0, axis
