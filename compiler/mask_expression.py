"""Reads `causal & window(128)` as a mask; nothing in the text is executed but the constructors."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from ..ir.diagnostics import CompileError, error
from . import mask_constructors as along
from . import mask_grids as grids
from .mask_algebra import Mask

CONSTRUCTORS: Mapping[str, Callable[..., Mask]] = {
    "causal": along.causal,
    "window": along.window,
    "dilated": along.dilated,
    "prefix": along.prefix,
    "document": along.document,
    "sink_window": along.sink_window,
    "global_window": along.global_window,
    "block_diagonal": along.block_diagonal,
    "neighborhood": grids.neighborhood,
    "strided_shards": along.strided_shards,
    "shifted_groups": along.shifted_groups,
    "tree": grids.tree,
    "vertical_slash": along.vertical_slash,
}


def parse_mask(text: str) -> Mask:
    """The mask that `text` describes: constructors of numbers and lists, `&`, `|`, `~` and brackets.

    A constructor that needs no arguments may stand without brackets. Raises CompileError.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        raise _unreadable(text, getattr(problem, "msg", None) or str(problem)) from problem
    return _Reader(text.strip()).mask(tree.body)


def _unreadable(text: str, why: str) -> CompileError:
    return error(f"cannot read the mask '{text}': {why}")


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text

    def mask(self, node: ast.expr) -> Mask:
        match node:
            case ast.BinOp(left=left, op=ast.BitAnd(), right=right):
                return self.mask(left) & self.mask(right)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self.mask(left) | self.mask(right)
            case ast.UnaryOp(op=ast.Invert(), operand=operand):
                return ~self.mask(operand)
            case ast.Name(id=name):
                return self._made(name, [], {})
            case ast.Call(func=ast.Name(id=name), args=positional, keywords=named):
                values = {self._name(k): self._value(k.value) for k in named}
                return self._made(name, [self._value(a) for a in positional], values)
            case ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                raise _unreadable(self.text, "masks combine with &, | and ~, not with 'and', 'or' and 'not'")
            case _:
                found = ast.get_source_segment(self.text, node) or ""
                raise _unreadable(self.text, f"expected a mask such as window(128), but '{found}' is none")

    def _made(self, name: str, positional: list[Any], named: dict[str, Any]) -> Mask:
        constructor = CONSTRUCTORS.get(name)
        if constructor is None:
            close = get_close_matches(name, CONSTRUCTORS, 1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(CONSTRUCTORS)}"
            raise error(f"there is no mask '{name}'; {hint}")
        try:
            inspect.signature(constructor).bind(*positional, **named)
        except TypeError as problem:
            raise error(f"{name}: {problem}; expected {_usage(name, constructor)}") from problem
        try:
            return constructor(*positional, **named)
        except CompileError as problem:
            raise error(f"{name}: {problem.diagnostics[0].message}") from problem

    def _name(self, keyword: ast.keyword) -> str:
        if keyword.arg is None:
            raise _unreadable(self.text, "'**' is not understood")
        return keyword.arg

    def _value(self, node: ast.expr) -> Any:
        """A number, True, False, None, or a list or tuple of those."""
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as problem:
            found = ast.get_source_segment(self.text, node) or ""
            raise _unreadable(
                self.text, f"expected a number or a list of numbers, but '{found}' is neither"
            ) from problem


def _usage(name: str, constructor: Callable[..., Mask]) -> str:
    """`window(left, right=None)`"""
    signature = inspect.signature(constructor)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return name + str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))
