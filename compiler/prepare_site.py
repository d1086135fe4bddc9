"""What becomes of one outlined attention before it is a kernel: a mask, token order, choice of blocks, few bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..ir.attributes import FunctionType, Symbol, TensorType, Type
from ..ir.core import Operation
from ..ir.diagnostics import error
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.func import FuncOp
from ..ir.printer import print_operation
from ..passes.manager import Pass, PassContext
from ..passes.pipeline import PassPipeline
from ..passes.quantize import Quantize, entries_of
from ..passes.sparsify import Sparsify
from .bases import bases
from .schemes import Scheme
from .selection import Selection
from .site_program import SiteProgram
from .torch_types import type_of_dtype


@dataclass(frozen=True)
class Prepared:
    """A site program, the steps that changed it with the IR after each, and what was said on the way.

    `quantized` is what was said where q, k and v were put in few bits.
    """

    program: SiteProgram
    steps: Sequence[tuple[str, str]] = ()
    remarks: Sequence[str] = field(default_factory=list[str])
    quantized: Sequence[str] = field(default_factory=list[str])


def prepare(
    module: Operation,
    sparsity: Any,
    passes: Sequence[Pass] = (),
    *,
    same_lengths: bool = True,
    quantize: Scheme | None = None,
) -> Prepared:
    """The program for an outlined attention (see `sites.outline`), which is left as it is.

    `sparsity` is a mask, a `Selection` or None; `passes` run in between. `same_lengths` says whether there are as
    many queries as keys in every call. Blocks are chosen by q and k as they are, and then `quantize` puts those in few
    bits.
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
        bound += add_arguments(module, sparsity.tensors)
        PassPipeline((sparsify(sparsity),)).run(module, context)
        steps.append((Sparsify.name, print_operation(module, locations=True)))
    told = PassContext()
    if quantize is not None:
        bound += _quantize(module, quantize, told)
        steps.append((Quantize.name, print_operation(module, locations=True)))
    program = SiteProgram(module, bound, mask)
    return Prepared(program, steps, [d.message for d in context.remarks], [d.message for d in told.remarks])


def sparsify(selection: Selection) -> Sparsify:
    """The pass that makes attention follow `selection`."""
    parameters = tuple(f"{name}={value}" for name, value in sorted(selection.numbers.items()))
    return Sparsify(selection.estimator, selection.rows, selection.block, parameters, len(selection.tensors))


def _quantize(module: Operation, scheme: Scheme, context: PassContext) -> tuple[torch.Tensor, ...]:
    """Let the attention read what `scheme` makes of q, k and v; the tensors that this takes are returned."""
    attention = next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op))
    _, k, v = attention.shapes
    width, value_width = k.shape[3], v.shape[3]
    assert isinstance(width, int) and isinstance(value_width, int)
    given = {name: basis.float() for name, basis in bases(scheme, width, value_width).items()}
    bound = add_arguments(module, tuple(given.items()), widths=True)
    PassPipeline((quantizing(scheme, tuple(given)),)).run(module, context)
    return bound


def quantizing(scheme: Scheme, tensors: Sequence[str] = ()) -> Quantize:
    """The pass that makes attention follow `scheme`; `tensors` names the function's last arguments."""
    formats = {name: getattr(scheme, name) for name in ("query", "key", "value")}
    entries = {name: () if storage is None else entries_of(storage) for name, storage in formats.items()}
    return Quantize(**entries, smooth=scheme.smooth, tensors=tuple(tensors))


def add_arguments(
    module: Operation, given: Sequence[tuple[str, torch.Tensor]], *, widths: bool = False
) -> tuple[torch.Tensor, ...]:
    """Give the function arguments for tensors by name, which are returned.

    Their sizes become symbols, but 1 stays, and with `widths` the last two of each.
    """
    function = next(FuncOp(op) for op in module.walk() if FuncOp.match(op))
    block, types = function.body.block, list[Type]()
    for number, (name, tensor) in enumerate(given):
        if tensor.dim() == 0:
            raise error(f"'{name}' must have axes, but is a single number")
        fixed = tensor.dim() - 2 if widths else tensor.dim()
        shape = [
            size if size == 1 or axis >= fixed else Symbol(f"{'t' if widths else 'e'}{number}_{axis}")
            for axis, size in enumerate(tensor.shape)
        ]
        types.append(TensorType(tuple(shape), type_of_dtype(tensor.dtype)))
        block.add_argument(types[-1], name)
    before = function.function_type
    function.function_type = FunctionType((*before.inputs, *types), before.results)
    return tuple(tensor.detach() for _, tensor in given)
