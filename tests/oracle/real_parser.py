"""Asks the real MLIR parser of the torch-mlir wheel what it thinks of our text."""

from __future__ import annotations

import importlib
import re
from typing import Any

from attir.ir.core import Block, Operation, Value
from attir.ir.parser import parse_module


def assert_accepted(text: str) -> None:
    """Fail unless MLIR reads and verifies `text` and understands by it what we do.

    What MLIR prints in generic form is read by our parser again and compared with our own reading,
    modulo the names of values and attributes that MLIR fills in with their defaults.
    """
    mlir: Any = importlib.import_module("torch_mlir.ir")
    with mlir.Context() as context, mlir.Location.unknown(context):
        context.allow_unregistered_dialects = True
        module = mlir.Module.parse(text)
        assert module.operation.verify()
        printed = module.operation.get_asm(print_generic_op_form=True)
    assert shape_of(parse_module(printed)) == shape_of(parse_module(text))


DEFAULTS = {"fastmath": "#arith.fastmath<none>", "overflowFlags": "#arith.overflow<none>"}


def shape_of(module: Operation) -> list[Any]:
    """A module as nested lists in which values are numbered, so that equal programs compare equal."""
    return _operation(module, {})


def _operation(op: Operation, numbers: dict[Value, int]) -> list[Any]:
    operands = [numbers[v] for v in op.operands]
    regions = [[_block(block, numbers) for block in region.blocks] for region in op.regions]
    for result in op.results:
        numbers[result] = len(numbers)
    data = {**op.properties, **op.attributes}
    kept = {k: str(v) for k, v in data.items() if DEFAULTS.get(k) != str(v)}
    return [op.name, operands, [str(r.type) for r in op.results], sorted(kept.items()), regions]


def _block(block: Block, numbers: dict[Value, int]) -> list[Any]:
    for argument in block.arguments:
        numbers[argument] = len(numbers)
    return [[str(a.type) for a in block.arguments], [_operation(op, numbers) for op in block.ops]]


def without_locations(text: str) -> str:
    return re.sub(r' loc\((?:unknown|"(?:[^"\\]|\\.)*":\d+:\d+)\)', "", text)
