"""What becomes of one outlined attention before it is a kernel: the user's mask, token order, choice of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..ir.attributes import FunctionType, Symbol, TensorType, Type
from ..ir.core import Operation
from ..ir.diagnostics import error
from ..ir.dialects.func import FuncOp
from ..ir.printer import print_operation
from ..passes.manager import Pass, PassContext
from ..passes.pipeline import PassPipeline
from ..passes.sparsify import Sparsify
from .selection import Selection
from .site_program import SiteProgram
from .torch_types import type_of_dtype


@dataclass(frozen=True)
class Prepared:
    """A site program, the steps that changed it with the IR after each, and what was said on the way."""

    program: SiteProgram
    steps: Sequence[tuple[str, str]] = ()
    remarks: Sequence[str] = field(default_factory=list[str])


def prepare(module: Operation, sparsity: Any, passes: Sequence[Pass] = (), *, same_lengths: bool = True) -> Prepared:
    """The program for an outlined attention (see `sites.outline`), which is left as it is.

    `sparsity` is a mask, a `Selection` or None; `passes` run in between. `same_lengths` says whether there are as
    many queries as keys in every call.
    """
    module, bound, mask = module.clone(), tuple[torch.Tensor, ...](), None
    steps: list[tuple[str, str]] = []
    if sparsity is not None and not isinstance(sparsity, Selection):
        from .mask_region import restrict

        mask = sparsity
        module, bound = restrict(module, mask, same_lengths=same_lengths)
        steps.append(("restrict", print_operation(module, locations=True)))
    context = PassContext()
    before = print_operation(module)
    for step in passes:
        PassPipeline((step,)).run(module, context)
        if (after := print_operation(module)) != before:
            steps.append((step.name, print_operation(module, locations=True)))
            before = after
    if isinstance(sparsity, Selection):
        bound += add_arguments(module, sparsity)
        PassPipeline((sparsify(sparsity),)).run(module, context)
        steps.append((Sparsify.name, print_operation(module, locations=True)))
    return Prepared(SiteProgram(module, bound, mask), steps, [d.message for d in context.remarks])


def sparsify(selection: Selection) -> Sparsify:
    """The pass that makes attention follow `selection`."""
    parameters = tuple(f"{name}={value}" for name, value in sorted(selection.numbers.items()))
    return Sparsify(selection.estimator, selection.rows, selection.block, parameters, len(selection.tensors))


def add_arguments(module: Operation, selection: Selection) -> tuple[torch.Tensor, ...]:
    """Give the function arguments for the estimator's own tensors, which are returned."""
    function = next(FuncOp(op) for op in module.walk() if FuncOp.match(op))
    block, types = function.body.block, list[Type]()
    for number, (name, tensor) in enumerate(selection.tensors):
        if tensor.dim() == 0:
            raise error(f"'{name}' must have axes, but is a single number")
        shape = [1 if size == 1 else Symbol(f"e{number}_{axis}") for axis, size in enumerate(tensor.shape)]
        types.append(TensorType(tuple(shape), type_of_dtype(tensor.dtype)))
        block.add_argument(types[-1], name)
    before = function.function_type
    function.function_type = FunctionType((*before.inputs, *types), before.results)
    return tuple(tensor.detach() for _, tensor in selection.tensors)
