"""One outlined attention as those see it who compile kernels of it: what it is called on, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias, cast

import torch

from ..ir.attributes import TensorType
from ..ir.core import Operation
from ..ir.diagnostics import op_error
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.func import FuncOp
from .lowering import Lowered
from .runner_checks import Inputs, torch_dtype


class AnyKernel(Protocol):
    """A kernel of an attention in whatever language."""

    @property
    def lowered(self) -> Lowered: ...
    @property
    def source(self) -> str: ...
    @property
    def plan(self) -> Mapping[str, Any]: ...


KernelWatcher: TypeAlias = Callable[[str, AnyKernel], None]
"""Hears of a kernel that was compiled, and a name for what distinguishes it from others of its attention."""


@dataclass(eq=False)
class OutlinedAttention:
    """A program of one attention (see `sites.outline`)."""

    module: Operation

    @cached_property
    def attention(self) -> AttentionOp:
        attention = next((AttentionOp(op) for op in self.module.walk() if AttentionOp.match(op)), None)
        if attention is None:
            op_error(self.module, "holds no attention to make a kernel of")
        return attention

    @cached_property
    def group(self) -> int:
        """How many query heads share a key head."""
        return self.attention.group.value

    @cached_property
    def inputs(self) -> Inputs:
        """What the kernels are called on, by the names that the program gives."""
        arguments = next(FuncOp(op) for op in self.module.walk() if FuncOp.match(op)).body.block.arguments
        names = tuple(a.name_hint or f"argument {i}" for i, a in enumerate(arguments))
        types, storage = tuple(cast(TensorType, a.type) for a in arguments), self.attention.stored("value")
        return Inputs(names, types, self.group, int if storage is None else storage.stored_tokens)

    @cached_property
    def out_dtype(self) -> torch.dtype:
        """The dtype of the result."""
        return torch_dtype(cast(TensorType, self.attention.out.type).element)

    @cached_property
    def value_width(self) -> int:
        """The last size of the result; values that are stored in few bits have another."""
        width = cast(TensorType, self.attention.out.type).shape[3]
        return width if isinstance(width, int) else op_error(self.attention.operation, "has no constant head dimension")

    @cached_property
    def has_lse(self) -> bool:
        """Whether the log-sum-exp is a result."""
        return bool(self.attention.lse.uses)

    @cached_property
    def has_output(self) -> bool:
        """Whether a region changes the output, so that rows without any key need not give 0."""
        return not self.attention.output.empty
