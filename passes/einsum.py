"""Reads the equation of an einsum of two tensors, with the ellipsis and the result written out."""

from __future__ import annotations

import string
from dataclasses import dataclass

from ..ir.core import Value
from ..ir.dialects.aten import AtenOp
from .index_function import argument_list, tensor_type


@dataclass(frozen=True)
class Einsum:
    """One letter for each axis of the two tensors and of the result."""

    tensors: tuple[Value, Value]
    left: str
    right: str
    out: str

    @staticmethod
    def of(op: AtenOp) -> Einsum | None:
        """The einsum that `op` is; None where it has not two tensors, or takes a diagonal or a lone sum."""
        equation = op.argument("equation")
        tensors = [t for t in argument_list(op.argument("tensors")) if isinstance(t, Value)]
        if not isinstance(equation, str) or len(tensors) != 2:
            return None
        terms, _, out = equation.replace(" ", "").partition("->")
        left, comma, right = terms.partition(",")
        if not comma or "," in right:
            return None
        explicit = "->" in equation
        spare = [c for c in string.ascii_letters if c not in equation]
        ranks = [tensor_type(t).rank for t in tensors]
        left, right = (_written_out(term, rank, spare) for term, rank in zip((left, right), ranks, strict=True))
        # Ellipses align at their last axis, so the longer one holds all of the result's.
        shared = max(("".join(c for c in term if c in spare) for term in (left, right)), key=len)
        if not explicit:
            once = [c for c in sorted({*left, *right}) if c not in spare and (left + right).count(c) == 1]
            out = shared + "".join(once)
        out = out.replace("...", shared)
        doubled = any(len(set(term)) != len(term) for term in (left, right, out))
        lone = any(c not in out and (c in left) != (c in right) for c in left + right)
        return None if doubled or lone else Einsum((tensors[0], tensors[1]), left, right, out)

    @staticmethod
    def of_matrices(lhs: Value, rhs: Value) -> Einsum | None:
        """The product of two stacks of matrices, whose leading axes are aligned at the last; None for vectors."""
        ranks = [tensor_type(t).rank for t in (lhs, rhs)]
        if min(ranks) < 2:
            return None
        lead = string.ascii_lowercase[: max(ranks) - 2]
        left, right = (lead[len(lead) - (rank - 2) :] for rank in ranks)
        return Einsum((lhs, rhs), f"{left}MC", f"{right}CN", f"{lead}MN")

    @property
    def swapped(self) -> Einsum:
        """The same with its two tensors in the other order."""
        return Einsum((self.tensors[1], self.tensors[0]), self.right, self.left, self.out)

    @property
    def summed(self) -> str:
        return "".join(c for c in self.left if c in self.right and c not in self.out)


def _written_out(term: str, rank: int, spare: list[str]) -> str:
    """`term` with letters for its ellipsis, the same ones at the same distance from its end."""
    if "..." not in term:
        return term
    count = rank - len(term) + 3
    return term.replace("...", "".join(spare[i] for i in reversed(range(count))))
