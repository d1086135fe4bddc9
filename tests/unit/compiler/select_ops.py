"""`attn.select` ops for tests, under the masks of `attir.compiler.attention_cases`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from attir.compiler.attention_cases import Captures, Case, Shape
from attir.compiler.block_scores import split_axis
from attir.compiler.live_blocks import Live, LiveBlocks, Sizes
from attir.ir.attributes import (
    Attribute,
    DictAttr,
    FloatAttr,
    FunctionType,
    IntegerAttr,
    StringAttr,
    Symbol,
    TensorType,
    f32,
    f64,
    i1,
)
from attir.ir.core import Block, Operation, Region
from attir.ir.dialects.attn import AttentionOp, SelectOp
from attir.ir.dialects.builtin import ModuleOp
from attir.ir.dialects.func import FuncOp, ReturnOp


@dataclass(frozen=True)
class Selecting:
    """One choice: an estimator with its numbers, sizes of blocks, a mask, and how many tensors are given."""

    estimator: str = "quest"
    numbers: tuple[tuple[str, int | float | str], ...] = ()
    form: str = "causal"
    group: int = 1
    width: int = 16
    rows: int = 16
    block: int = 16
    given: tuple[torch.Tensor, ...] = ()

    @property
    def case(self) -> Case:
        return Case(f32, self.width, group=self.group, form=self.form)

    def module(self) -> Operation:
        """A function of q, k, the mask's captures and the given tensors, that returns the blocks."""
        attention = attention_of(self.case)
        given = [TensorType(tuple(Symbol(f"g{i}_{d}") for d in range(t.ndim)), f32) for i, t in enumerate(self.given)]
        types = [attention.q.type, attention.k.type, *(c.type for c in attention.captures), *given]
        block = Block.with_arguments(types, [f"x{i}" for i in range(len(types))])
        mask = Region() if attention.mask.empty else attention.mask.clone({})
        for type_ in given if not mask.empty else []:
            mask.block.add_argument(type_, "given")
        k = attention.shapes[1]
        result = TensorType((*k.shape[:2], Symbol("MB"), Symbol("NB")), i1)
        properties: Mapping[str, Attribute] = {
            "estimator": StringAttr(self.estimator), "group": IntegerAttr(self.group),
            "parameters": DictAttr.of({name: _attribute(value) for name, value in self.numbers}),
            "scale": FloatAttr(self.case.scale, f32), "block_m": IntegerAttr(self.rows),
            "block_n": IntegerAttr(self.block), "given": IntegerAttr(len(given)),
        }  # fmt: skip
        op = SelectOp.create(block.arguments, [result], properties, [mask])
        block.append(op.operation)
        block.append(ReturnOp.create([op.blocks]).operation)
        module = ModuleOp.create(regions=[Region([Block()])])
        function_type = FunctionType(tuple(types), (result,))
        names = {"sym_name": StringAttr("choice"), "function_type": function_type}
        module.body.block.append(FuncOp.create(properties=names, regions=[Region([block])]).operation)
        return module.operation

    def tensors(self, shape: Shape, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Captures]:
        """q, k and what the mask captures."""
        q, k, _, captures = self.case.tensors(shape, seed)
        return q, k, captures

    def kept(self, shape: Shape, captures: Sequence[torch.Tensor]) -> torch.Tensor:
        """The mask (B, H, M, N)."""
        m, n = torch.arange(shape.queries)[:, None], torch.arange(shape.keys)[None]
        keep, full = self.case.rule.keep, (shape.batch, shape.heads, shape.queries, shape.keys)
        return torch.ones(full, dtype=torch.bool) if keep is None else keep(m, n, tuple(captures)).expand(full)


def _attribute(value: int | float | str) -> Attribute:
    if isinstance(value, str):
        return StringAttr(value)
    return IntegerAttr(value) if isinstance(value, int) else FloatAttr(value, f64)


def attention_of(case: Case) -> AttentionOp:
    return next(AttentionOp(op) for op in case.module().walk() if AttentionOp.match(op))


def select_of(module: Operation) -> SelectOp:
    return next(SelectOp(op) for op in module.walk() if SelectOp.match(op))


def live_of(form: str, shape: Shape, rows: int, block: int, captures: Sequence[torch.Tensor] = ()) -> Live:
    """The live blocks of a call under one of the masks."""
    blocks = LiveBlocks(attention_of(Case(form=form)).mask)
    sizes = Sizes(shape.batch, shape.heads, shape.queries, shape.keys, rows, block)
    return blocks.find(sizes, captures, torch.device("cpu"))


def blockwise(kept: torch.Tensor, rows: int, block: int) -> torch.Tensor:
    """Which blocks of a mask (B, H, M, N) hold a kept position."""
    padded = torch.nn.functional.pad(kept, (0, -kept.shape[3] % block, 0, -kept.shape[2] % rows))
    return split_axis(split_axis(padded, 3, (-1, block)), 2, (-1, rows)).any(dim=5).any(dim=3)
