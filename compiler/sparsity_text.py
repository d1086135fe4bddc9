"""Reads what `--sparsity` says: a mask such as `causal & window(128)`, or a choice such as `quest(keep=0.1)`."""

from __future__ import annotations

import ast
from typing import Any

from ..ir.diagnostics import error
from .selection import ESTIMATORS, select


def parse_sparsity(text: str) -> Any:
    """A mask or a `Selection`; None for an empty text. Raises CompileError for what is neither."""
    if not text.strip():
        return None
    try:
        body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as problem:
        raise error(f"cannot read --sparsity '{text}': {problem}") from problem
    if isinstance(body, ast.Name) and body.id in ESTIMATORS:
        return select(body.id)
    if isinstance(body, ast.Call) and isinstance(body.func, ast.Name) and body.func.id in ESTIMATORS:
        if body.args or any(k.arg is None for k in body.keywords):
            raise error(f"cannot read --sparsity '{text}': expected named parameters, as in {body.func.id}(keep=0.1)")
        return select(body.func.id, **{str(k.arg): _number(text, k.value) for k in body.keywords})
    if isinstance(body, ast.Name) and body.id == "auto":
        raise error("--sparsity auto needs inputs to calibrate on: use attir.compile and attir.calibrate")
    from .mask_expression import parse_mask

    return parse_mask(text)


def _number(text: str, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError as problem:
        raise error(f"cannot read --sparsity '{text}': expected numbers, but found {ast.unparse(node)}") from problem
